"""The verdict of an audit: its word, what that rests on and how often it is wrong, and what to do next."""

import json

import numpy as np
import pytest
import scipy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bqcore
from bqcore import __main__
from bqcore.auditing import limits, verdict
from tests.helpers.audits import of_logits

RUNS = 2000


class Counts(dict):
    """Numbers by name, for thousands of judgements: a Dataset takes twenty times as long to make."""

    __getattr__ = dict.__getitem__


def counted(n, flips, *, band=None, band_flips=0, lost=-1, won=-1, **more):
    """Return held-out counts, as an audit has them."""
    events = {"flip_rate": flips, "band_flip_rate": band_flips, "right_to_wrong": lost, "wrong_to_right": won} | more
    return Counts({f"{name}_events": count for name, count in events.items()}, samples=n, band_samples=band or n)


def word(held, stated, alpha=limits.ALPHA):
    return limits.word_of(limits.judge(held, stated, alpha))


def margins(n=1000, flips=0, wrong=0):
    """Return logits of a reference by growing margin and of a candidate that flips the first, and classes."""
    z = np.stack([np.linspace(0.1, 5, n), np.zeros(n)], axis=1)
    q = z.copy()
    q[:flips] = q[:flips, ::-1]
    return z, q, (np.arange(n) < wrong).astype(int)


# The word


def test_known_answers():
    """Of 1,000: no flip is at most 0.37 % by the rule (1 − p)^1000 = 2.5 %, 60 are at least 4.6 % of them."""
    assert of_logits(*margins()).verdict.word == "ship"
    found = of_logits(*margins(flips=60)).verdict
    assert found.word == "do not ship" and found.samples_needed is None
    at_most = 1 - 0.025 ** (1 / 1000)
    (one,) = of_logits(*margins()).judge({"flip_rate": at_most + 1e-9}).judged
    assert one.outcome == "kept" and one.high == pytest.approx(at_most)
    assert of_logits(*margins()).judge({"flip_rate": at_most - 1e-9}).word == "look"
    assert of_logits(*margins(flips=8)).verdict.word == "look"


@example(1, 1.0, 1.0, 0.01)
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.01, 0.025, 0.1]))
def test_bounds_are_scipys(n, part, limit, alpha):
    """A limit is kept where SciPy's exact test rejects a rate above it, and exceeded where it rejects one below."""
    k = round(part * n)
    (one,) = limits.judge(counted(n, k), {"flip_rate": limit}, alpha)
    low, high = scipy.stats.binomtest(k, n).proportion_ci(1 - 2 * alpha)
    assert (one.estimate, one.low, one.high) == pytest.approx((k / n, low, high), abs=1e-9)
    for side, outcome in (("less", "kept"), ("greater", "exceeded")):
        p = scipy.stats.binomtest(k, n, limit, side).pvalue
        if abs(p - alpha) > 1e-6:
            never = side == "less" and limit + limits._ROUNDING >= 1  # no rate is above 1
            assert (p < alpha or never) == (one.outcome == outcome)


def test_several_limits_share_the_error_of_do_not_ship():
    three = {"flip_rate": 0.01, "right_to_wrong": 0.01, "wrong_to_right": 0.01}
    held = counted(500, 11, lost=0, won=0)
    alone, together = limits.judge(held, {"flip_rate": 0.01})[0], limits.judge(held, three)[0]
    assert alone.high == together.high and alone.outcome == "exceeded"
    assert together.outcome == "open" and together.low == pytest.approx(
        scipy.stats.binomtest(11, 500).proportion_ci(1 - 0.05 / 3).low
    )


def test_no_more_accuracy_is_lost_than_decisions_change():
    """368 samples without a flip show 1 %, and for a loss alone its two parts would need 437."""
    held = counted(400, 0, lost=0, won=0)
    assert word(held, {"accuracy_loss": 0.01}) == "look"
    assert word(held, {"accuracy_loss": 0.01, "flip_rate": 0.01}) == "ship"
    assert word(held, {"accuracy_loss": 0.01, "flip_rate": 0.02}) == "look"


@given(st.integers(20, 2000), st.data())
def test_a_loss_lies_between_what_may_be_lost_and_won(n, drawn):
    lost = drawn.draw(st.integers(0, n))
    won = drawn.draw(st.integers(0, n - lost))
    (one,) = limits.judge(counted(n, lost + won, lost=lost, won=won), {"accuracy_loss": 0.0})
    (other,) = limits.judge(counted(n, lost + won, lost=won, won=lost), {"accuracy_loss": 0.0})
    assert one.low <= one.estimate <= one.high and one.estimate == pytest.approx((lost - won) / n)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


# How often it is wrong


@pytest.fixture(scope="module")
def drawn():
    """Draw audits of candidates whose true rates are known: (N, low-margin flips and others by kind) many times."""
    generator = np.random.default_rng(0)

    def draw(n, in_band, outside, kinds):
        """*in_band* and *outside* flip by rate, and of what flips *kinds* are lost and won, the rest neither."""
        band = n // 5
        flips = generator.binomial(band, in_band, RUNS), generator.binomial(n - band, outside, RUNS)
        lost, won, _ = generator.multinomial(sum(flips), [*kinds, 1 - sum(kinds)]).T
        return [
            counted(n, a + b, band=band, band_flips=a, lost=x, won=y) for a, b, x, y in zip(*flips, lost, won)
        ]  # fmt: skip

    return draw


# What of the limits is truly exceeded, by the least that is: the hardest cases. A flip rate is 0.2 · band + 0.8 · rest.
WRONG = {
    "flips alone": (2000, 0.04, 0.00251, (0.3, 0.3)), "the band alone": (2000, 0.0501, 0.0, (0.2, 0.2)),
    "accuracy alone": (3000, 0.03, 0.0, (0.92, 0.08)), "all": (1500, 0.0501, 0.0, (0.9, 0.0)),
    "few samples": (400, 0.0501, 0.0, (0.5, 0.5)),
}  # fmt: skip
STATED = {"flip_rate": 0.01, "band_flip_rate": 0.05, "accuracy_loss": 0.005}


@pytest.mark.parametrize("alpha", [0.025, 0.2])
@pytest.mark.parametrize("case", WRONG)
def test_ship_is_said_of_what_exceeds_a_limit_at_most_as_often_as_stated(drawn, case, alpha):
    """As often as a coin of chance alpha shows in that many runs, but for one in a million."""
    n, in_band, outside, (lost, won) = WRONG[case]
    flips = 0.2 * in_band + 0.8 * outside
    true = {"flip_rate": flips, "band_flip_rate": in_band, "accuracy_loss": flips * (lost - won)}
    assert any(true[name] > limit for name, limit in STATED.items())
    shipped = sum(word(held, STATED, alpha) == "ship" for held in drawn(n, in_band, outside, (lost, won)))
    assert shipped <= scipy.stats.binom.ppf(1 - 1e-6, RUNS, alpha)


@pytest.mark.parametrize("alpha", [0.025, 0.2])
def test_do_not_ship_is_said_of_what_keeps_all_limits_at_most_as_often_as_stated(drawn, alpha):
    n, in_band, outside, kinds = 2000, 0.05, 0.0, (0.74, 0.24)  # all three at their limits
    stopped = sum(word(held, STATED, alpha) == "do not ship" for held in drawn(n, in_band, outside, kinds))
    assert stopped <= scipy.stats.binom.ppf(1 - 1e-6, RUNS, alpha)


@given(st.integers(5, 2000), st.floats(0.001, 0.5), st.sampled_from([0.01, 0.025, 0.2]))
def test_a_rate_is_shipped_and_stopped_as_seldom_as_stated_whatever_it_is(n, rate, alpha):
    """Exact, over all counts: just above its limit it is seldom shipped, at its limit seldom stopped."""
    counts = np.arange(n + 1)
    wanted = scipy.stats.binom.pmf(counts, n, rate) > 1e-9
    words = {int(k): word(counted(n, int(k)), {"flip_rate": rate}, alpha) for k in counts[wanted]}
    for said in ("ship", "do not ship"):
        chance = sum(scipy.stats.binom.pmf(k, n, rate) for k, one in words.items() if one == said)
        assert chance <= alpha + 1e-6


# Samples that would settle it


@settings(max_examples=30)
@given(st.integers(50, 3000), st.integers(0, 60), st.integers(0, 1000))
def test_so_many_samples_settle_it_as_often_as_said(n, flips, seed):
    flips = min(flips, n // 4)
    lost = flips // 2
    held = counted(n, flips, lost=lost, won=flips - lost)
    stated = {"flip_rate": 0.02, "accuracy_loss": 0.01}
    judged = limits.judge(held, stated)
    needed = limits.samples_to_settle(held, judged)
    if "open" not in {one.outcome for one in judged} or needed is None:
        return
    assert needed > n
    drawn = np.random.default_rng(seed).multinomial(needed, [lost / n, (flips - lost) / n, 1 - flips / n], 300)
    words = [word(counted(needed, a + b, lost=a, won=b), stated) for a, b, _ in drawn.tolist()]
    wanted = "do not ship" if any(one.estimate > one.limit for one in judged) else "ship"
    assert words.count(wanted) >= scipy.stats.binom.ppf(1e-6, 300, limits.CHANCE)


def test_without_a_flip_the_number_is_that_of_the_formula():
    held = counted(100, 0)
    needed = limits.samples_to_settle(held, limits.judge(held, {"flip_rate": 0.01}))
    exact = np.log(0.025) / np.log(1 - 0.01)
    assert exact <= needed <= exact * 1.01 + 1
    band = counted(100, 0, band=20)  # five times as many, since a fifth of them is in the band
    assert limits.samples_to_settle(band, limits.judge(band, {"band_flip_rate": 0.01})) == pytest.approx(
        5 * exact, rel=0.02
    )


def test_one_exceeded_limit_settles_it_whatever_the_others_need():
    held, close, far = counted(100, 6, lost=6, won=0), {"flip_rate": 0.055}, {"right_to_wrong": 0.025}
    of_both, of_close, of_far = (
        limits.samples_to_settle(held, limits.judge(held, x)) for x in (close | far, close, far)
    )
    assert of_far <= of_both < 2 * of_far < of_close


def test_what_no_number_settles():
    for held, stated, says in (
        (counted(100, 0), {"flip_rate": 0.0}, "no practical number of samples settles it: a rate is at its limit"),
        (counted(100, 5), {"flip_rate": 0.05}, "no practical number of samples settles it: a rate is at its limit"),
        (counted(100, 0), {"accuracy_loss": 0.01}, "held-out classes are needed to settle it"),
    ):
        judged = limits.judge(held, stated)
        assert judged[0].outcome == "open" and limits.samples_to_settle(held, judged) is None
        assert verdict._settling(judged, None) == says
    kept = limits.judge(counted(1000, 0), {"flip_rate": 0.1})
    assert limits.samples_to_settle(counted(1000, 0), kept) is None


# Words and next steps


def test_it_is_said_in_words():
    found = of_logits(*margins(flips=8), nodes=0)
    assert str(found).endswith(str(found.verdict)) and f"\n{found.verdict.headline}\n" in str(found)
    lines = str(found.verdict).splitlines()
    assert lines[0] == (
        "Look: the limits of flip rate, band flips and loss of accuracy are neither shown to be kept nor to be exceeded."
    )
    assert lines[1] == "- flip rate: 0.8 %, at most 1.57 %, limit 1 %: open"
    needed = found.verdict.samples_needed
    assert lines[4].startswith("- about ") and int(lines[4].split()[2].replace(",", "")) == pytest.approx(
        needed, rel=0.1
    )
    assert [line.split(":")[0] for line in lines[5:]] == ["Next", "1. Layer", "2. Bit-width", "3. Samples"]
    assert (
        found.to_dict()["verdict"] == found.verdict.to_dict()
        and json.loads(found.to_json())["verdict"]["word"] == "look"
    )
    stopped = of_logits(*margins(flips=60)).verdict
    assert stopped.headline == (
        "Do not ship: with 97.5 % confidence, the limits of flip rate, band flips and loss of accuracy are exceeded."
    )
    least = 100 * scipy.stats.binomtest(60, 1000).proportion_ci(1 - 0.05 / 3).low
    assert stopped.reasons[0] == f"flip rate: 6 %, at least {least:.3g} %, limit 1 %: exceeded"


def test_without_classes_accuracy_is_not_judged_by_default_and_open_if_stated():
    found = of_logits(*margins()[:2])
    assert found.verdict.word == "ship" and len(found.verdict.judged) == 2
    assert found.verdict.reasons[-1] == "loss of accuracy: not judged, there are no held-out classes"
    asked = found.judge({"accuracy_loss": 0.1})
    assert asked.word == "look" and asked.reasons == (
        "loss of accuracy: not measured without classes, limit 10 %: open", "held-out classes are needed to settle it",
    )  # fmt: skip


def test_the_samples_to_look_at_are_the_surest_and_those_that_were_right_first():
    z, q, y = margins(100, flips=20, wrong=15)  # the flips 15 to 19 were right
    found = of_logits(z, q, y, ids=[f"s{i}" for i in range(100)])
    assert found.verdict.next_steps[2] == (
        "Samples: look at s19, s18, s17, s16, s15 first, the surest that changed, right in the reference and wrong in the "
        "candidate (float margins 0.842 to 1.04)."
    )
    found = of_logits(*margins(100, flips=2)[:2])
    assert found.verdict.next_steps[2] == (
        "Samples: look at 1, 0 first, the surest that changed (float margins 0.1 to 0.149)."
    )
    assert of_logits(*margins()).verdict.next_steps[2] == "Samples: none changed its decision."


@pytest.fixture(scope="module")
def explained(trained):
    split = trained.split
    calibration, heldout = (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)
    found = bqcore.audit(
        trained.model, bqcore.quantize_model(trained.model, 3), calibration, heldout, nodes=0, gradient_samples=0
    )
    layers = bqcore.blame_layers(trained.model, heldout, bits=3, gradient_samples=0)
    return found, layers, bqcore.sweep(trained.model, calibration, heldout)


def test_layers_and_bits_are_named_once_they_are_known(explained):
    found, layers, sweep = explained
    assert all("bqcore." in step for step in found.verdict.next_steps[:2])
    both = found.explain(layers=layers, sweep=sweep)
    layer, bits, _ = both.verdict.next_steps
    first, second = layers.layer.values[:2].tolist()
    rates = 100 * layers.band_flip_rate.values
    assert layer == (
        f"Layer: keep {first!r} in higher precision: alone at 3 bits it changes {rates[0]:.3g} % of the band, the next, "
        f"{second!r}, {rates[1]:.3g} %."
    )
    stated = {"flip_rate": 0.02, "band_flip_rate": 0.1, "accuracy_loss": 0.02}
    on = sweep.dataset.sel(split="calibration")
    kept = (on.flip_rate <= 0.02) & (on.band_flip_rate <= 0.1) & (on.accuracy_reference - on.accuracy <= 0.02)
    fewest = min(b for b in on.bits.values if kept.sel(bits=on.bits[on.bits >= b]).all())
    assert f"Bit-width: {fewest} bits are the fewest that keep" in both.judge(stated).next_steps[1]
    assert found.explain(sweep=sweep).explain(layers=layers).verdict.next_steps == both.verdict.next_steps
    none = both.judge({"flip_rate": 0.0, "band_flip_rate": -1.0})
    assert none.next_steps[1] == "Bit-width: not even 8 bits, the most tried, keep the limits on the calibration split."


def test_the_defaults_are_those_that_help_and_docstrings_state():
    stated = {"flips": "flip_rate", "band flips": "band_flip_rate", "accuracy loss": "accuracy_loss"}
    says = " ".join(__main__._parser()._subparsers._group_actions[0].choices["audit"].format_help().split())
    assert all(f"{limits.DEFAULTS[name]:g} of {words}" in says for words, name in stated.items())
    of_audit = " ".join(bqcore.audit.__doc__.split())
    assert (
        "the defaults, {flip_rate:g}, {band_flip_rate:g} and {accuracy_loss:g}.".format(**limits.DEFAULTS) in of_audit
    )


# Refusals


def test_what_cannot_be_judged_is_refused(explained):
    found, layers, sweep = explained
    for stated, message in (
        ({}, "There are no limits: state one, such as flip_rate=0.01, or leave limits out for the defaults"),
        ({"flips": 0.1}, "A limit is 'flips': choose one of 'flip_rate', "),
        ({"flip_rate": 10}, "Limit of flip_rate is 10: give a number from -1 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            found.judge(stated)
    with pytest.raises(ValueError, match="Limit of flip_rate is 2: give a number from -1 to 1"):
        bqcore.audit(None, None, None, None, limits={"flip_rate": 2})
    for alpha in (0, 0.5, 1):
        with pytest.raises(ValueError, match="alpha is .*: give the chance of a wrong verdict, above 0 and below 0.5"):
            found.judge(alpha=alpha)
    with pytest.raises(
        ValueError, match="The layers have a band of 0.1 and the audit of 0.2: give both the same fraction"
    ):
        found.explain(layers=layers.assign_attrs(share=0.1))


def test_layers_and_bits_are_asked_of_torch_modules_alone():
    x = np.random.default_rng(0).normal(size=(50, 2))
    steps = bqcore.audit(lambda x: x, lambda x: x.round(1), None, x).verdict.next_steps
    assert steps[0] == "Layer: bqcore.blame_layers, of a torch module, says which one to keep in higher precision."
    assert steps[1] == "Bit-width: bqcore.sweep, of a torch module, says which would pass."
    layer = torch.nn.Linear(2, 3).eval()
    steps = bqcore.audit(layer, layer, None, torch.from_numpy(x).float()).verdict.next_steps
    assert steps[0].startswith("Layer: found.explain(layers=bqcore.blame_layers(model, heldout)) says")
