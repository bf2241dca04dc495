"""What an audit comes to: *ship*, *look* or *do not ship*, why, and what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from .._checks import check_share
from ..quantizers.bit_selection import last_before
from .limits import ALPHA, CHANCE, DEFAULTS, TITLES, Judged, judge, samples_to_settle, word_of

LISTED = 5  # samples to look at
COMMANDS = {
    "layers": "found.explain(layers=bqcore.blame_layers(model, heldout))",
    "bits": "found.explain(sweep=bqcore.sweep(model, calibration, heldout))",
}
NO_MODULE = {"layers": "bqcore.blame_layers, of a torch module,", "bits": "bqcore.sweep, of a torch module,"}


@dataclass(frozen=True)
class Verdict:
    """Whether to ship a candidate, by limits and a test of each; ``print`` shows it in words."""

    word: str  # "ship", "look" or "do not ship"
    reasons: tuple[str, ...]  # one line for each limit, then what was not judged
    next_steps: tuple[str, ...]  # on layers, bit-widths, samples
    samples_needed: int | None  # held-out samples that would probably settle "look"; None if no number does
    judged: tuple[Judged, ...] = field(repr=False)  # the numbers behind the reasons
    alpha: float = ALPHA

    @property
    def headline(self) -> str:
        """Return the word with what it rests on, in one sentence."""
        of = {name: [one for one in self.judged if one.outcome == name] for name in ("kept", "exceeded", "open")}
        sure = f"with {100 * (1 - self.alpha):g} % confidence"
        if self.word == "ship":
            return f"Ship: {sure}, no limit is exceeded."
        if self.word == "do not ship":
            return f"Do not ship: {sure}, {_list(of['exceeded'])} exceeded."
        return f"Look: {_list(of['open'])} neither shown to be kept nor to be exceeded."

    def to_dict(self) -> dict:
        """Return words and numbers in dictionaries and lists."""
        out = {name: getattr(self, name) for name in ("word", "headline", "samples_needed", "alpha")}
        out |= {name: list(getattr(self, name)) for name in ("reasons", "next_steps")}
        return out | {"limits": [one._asdict() for one in self.judged]}

    def __str__(self) -> str:
        steps = (f"{number}. {step}" for number, step in enumerate(self.next_steps, 1))
        return "\n".join([self.headline, *(f"- {line}" for line in self.reasons), "Next:", *steps])


def decide_verdict(
    dataset: xr.Dataset, limits: Mapping[str, float] | None = None, *, alpha: float = ALPHA,
    layers: xr.Dataset | None = None, levels: xr.Dataset | None = None, commands: Mapping[str, str] = COMMANDS,
) -> Verdict:  # fmt: skip
    """
    Judge the held-out numbers of an audit by *limits*, or by :data:`bqcore.auditing.limits.DEFAULTS`.

    *layers* and *levels* are the numbers of :func:`bqcore.blame_layers` and :func:`bqcore.sweep` on the same model;
    without them a next step is the command that finds them, of *commands* by the names of :data:`COMMANDS`.
    """
    held = dataset.sel(split="heldout")
    labelled = bool(np.isfinite(held.accuracy))
    if not 0 < check_share("alpha", alpha) < 0.5:
        raise ValueError(f"alpha is {alpha:g}: give the chance of a wrong verdict, above 0 and below 0.5.")
    if limits is not None and not limits:
        raise ValueError(
            "There are no limits: state one, such as flip_rate=0.01, or leave limits out for the defaults."
        )
    left = [] if labelled or limits is not None else ["loss of accuracy: not judged, there are no held-out classes"]
    if limits is None:
        limits = {name: limit for name, limit in DEFAULTS.items() if not left or name != "accuracy_loss"}
    judged = judge(held, limits, alpha)
    word = word_of(judged)
    needed = samples_to_settle(held, judged, alpha) if word == "look" else None
    reasons = [_reason(one) for one in judged] + left + ([_settling(judged, needed)] if word == "look" else [])
    steps = (_layer(word, layers, commands), _bits(limits, levels, commands), _samples(dataset))
    return Verdict(word, tuple(reasons), steps, needed, tuple(judged), alpha)


def _list(judged: list[Judged]) -> str:
    names = [TITLES[one.name] for one in judged]
    if len(names) == 1:
        return f"the limit of {names[0]} is"
    return f"the limits of {', '.join(names[:-1])} and {names[-1]} are"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _reason(one: Judged) -> str:
    if np.isnan(one.estimate):
        return f"{TITLES[one.name]}: not measured without classes, limit {_percent(one.limit)}: open"
    bound = f"at least {_percent(one.low)}" if one.outcome == "exceeded" else f"at most {_percent(one.high)}"
    return f"{TITLES[one.name]}: {_percent(one.estimate)}, {bound}, limit {_percent(one.limit)}: {one.outcome}"


def _settling(judged: list[Judged], needed: int | None) -> str:
    if needed is not None:
        digits = max(0, len(str(needed)) - 2)
        count = -(-needed // 10**digits) * 10**digits
        sure = f"with a chance of {_percent(CHANCE)}, if the rates stay as they are"
        return f"about {count:,} held-out samples settle it {sure}"
    if any(np.isnan(one.estimate) for one in judged):
        return "held-out classes are needed to settle it"
    return "no practical number of samples settles it: a rate is at its limit"


def _layer(word: str, layers: xr.Dataset | None, commands: Mapping[str, str]) -> str:
    if layers is None:
        return f"Layer: {commands['layers']} says which one to keep in higher precision."
    names, rates = layers.layer.values.tolist(), layers.band_flip_rate.values
    if not layers.flip_rate_events.values.any():
        return f"Layer: none alone changes a decision at {layers.bits} bits."
    advice = f"{names[0]!r} matters most" if word == "ship" else f"keep {names[0]!r} in higher precision"
    others = f", the next, {names[1]!r}, {_percent(rates[1])}" if len(rates) > 1 else ""
    return f"Layer: {advice}: alone at {layers.bits} bits it changes {_percent(rates[0])} of the band{others}."


def _bits(limits: Mapping[str, float], levels: xr.Dataset | None, commands: Mapping[str, str]) -> str:
    if levels is None:
        return f"Bit-width: {commands['bits']} says which would pass."
    passing = passing_bits(levels, limits)
    if passing is None:
        most = int(levels.bits.max())
        return f"Bit-width: not even {most} bits, the most tried, keep the limits on the calibration split."
    says = {"ship": "all are shown to be kept", "look": "more samples are needed to show it"}
    says = says.get(word_of(judge(levels.sel(split="heldout", bits=passing), limits)), "one is exceeded")
    return f"Bit-width: {passing} bits are the fewest that keep the limits on the calibration split; held-out, {says}."


def passing_bits(levels: xr.Dataset, limits: Mapping[str, float]) -> int | None:
    """Return the fewest bits reached, going down, before a limit is first exceeded on the calibration split."""
    on = levels.sel(split="calibration").sortby("bits", ascending=False)
    measured = on.assign(accuracy_loss=on.accuracy_reference - on.accuracy)
    known = [name for name in limits if np.isfinite(measured[name]).all()]
    if not known:
        return None
    found = last_before([[measured[name].values] for name in known], [limits[name] for name in known])
    return None if found.fallback[0] else int(on.bits[found.level[0]])


def surest(dataset: xr.Dataset) -> np.ndarray:
    """Return the places of the flipped samples to look at: those that the reference had right, by falling margin."""
    worse = (dataset.flipped_target == dataset.flipped_from).values
    return np.lexsort((-dataset.flipped_margin.values, ~worse))[:LISTED]


def _samples(dataset: xr.Dataset) -> str:
    if not dataset.sizes["flip"]:
        return "Samples: none changed its decision."
    order = surest(dataset)
    worse, margin = (dataset.flipped_target == dataset.flipped_from).values, dataset.flipped_margin.values
    names = (dataset.flipped_id if "flipped_id" in dataset else dataset.flipped_sample).values[order]
    whose = ", right in the reference and wrong in the candidate" if worse[order].all() else ""
    sure = f"float margins {margin[order].min():.3g} to {margin[order].max():.3g}"
    return f"Samples: look at {', '.join(map(str, names))} first, the surest that changed{whose} ({sure})."
