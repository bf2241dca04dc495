"""The page of verdicts, driven as a reader would: verdicts, intervals and counts compared with those of the studies."""

import re
import shutil

import numpy as np
import pytest

from studies import alternatives, claims, published
from studies.multiverse import cifar_claims, judging
from tests.helpers.browser import Watched

PAGE = "book/verdicts.html"
JUDGED = "() => window.bqVerdicts && bqVerdicts.current().data"
SHOWN = "([name, counted]) => (({ data }) => data?.name === name && (data.counted || !counted))(bqVerdicts.current())"
# All claims in one specification, which is given by its values; numbers that JSON does not have as text.
JUDGE = """(given) => {
  const { data } = bqVerdicts.current();
  const text = (x) => (x === undefined ? null : String(x));
  return given.map((values) => {
    const spec = Object.fromEntries(Object.entries(values).map(([axis, value]) =>
      [axis, data.axes[axis].values.indexOf(value)]));
    return Object.fromEntries(Object.values(data.claims).map(({ id, judge }) => {
      const found = judge(spec);
      return [id, found && { ...found, values: null, ends: [found.low, found.estimate, found.high].map(text) }];
    }));
  });
}"""
COUNTS = "() => Object.fromEntries(Object.entries(bqVerdicts.current().data.counts).map(([id, one]) => [id, { ...one, estimates: [], held: [], "
COUNTS += "changes: one.nearest && one.changes }]))"
AXES = "() => bqVerdicts.current().data.axes"
# What the page says at the first and at the last value of every choice, and the claims that hold if it is made.
TOLD = """() => Object.entries(bqVerdicts.current().data.axes).flatMap(([axis, { values }]) =>
  [...new Set([0, values.length - 1])].map((i) => {
    const place = document.querySelector(`small[data-axis='${axis}'][data-value='${i}']`)
      || document.querySelector(`select[name='${axis}'] option:nth-child(${i + 1})`);
    const said = place.textContent;
    bqVerdicts.set({ [axis]: i });
    const holding = [...document.querySelectorAll("#bq-claims .verdict")].filter((one) => one.textContent === "holds");
    document.getElementById("bq-baseline").click();
    return [axis, i, said, holding.length];
  }))"""


@pytest.fixture(scope="module")
def stated() -> tuple[dict, list[dict]]:
    rule, all_of_them = claims.load_claims()
    return rule, [claim for claim in all_of_them if "not_attempted" not in claim]


@pytest.fixture(scope="module")
def judged(stated):
    """Return a function that judges the claims of a data set in every specification."""
    rule, paper = stated

    def judge(dataset: str) -> dict:
        names = (*published.MULTIVERSES.values(), *published.READINGS)
        many = [published.load_published(name) for name in names if name.startswith(f"{dataset}_")]
        found = [cifar_claims.judge(one, paper, rule) for one in many]
        return {name: one for part in found for name, one in part.items()}

    return judge


@pytest.fixture
def open_page(chromium, book):
    """Return a function that opens the page in a window of its own; console faults fail the test."""
    opened = []

    def opener(address: str = "", **options):
        watched = Watched(chromium, **{"viewport": {"width": 1400, "height": 1000}} | options)
        opened.append(watched)
        watched.page.goto((book / PAGE).as_uri() + address, wait_until="load")
        watched.page.wait_for_function(JUDGED)
        return watched.page

    yield opener
    faults = sum((watched.faults for watched in opened), [])
    for watched in opened:
        watched.context.close()
    assert not faults


@pytest.fixture
def shown(kept_window, book):
    """Return a function that shows a data set's baseline; what the page loads and counts it keeps for the next test."""
    page = (book / PAGE).as_uri()

    def opener(dataset: str, counted: bool = False):
        if not kept_window.page.url.startswith(page):
            kept_window.page.goto(page, wait_until="load")
        kept_window.page.evaluate("(name) => { location.hash = `#set=${name}`; }", dataset)
        kept_window.page.wait_for_function(SHOWN, arg=[dataset, counted], timeout=120_000)
        assert "This is the baseline." in kept_window.page.inner_text("#bq-verdict-summary")
        return kept_window.page

    yield opener
    faults, kept_window.faults = kept_window.faults, []
    assert not faults


def at(found, given: list[dict]) -> list[tuple | None]:
    """Return a claim's interval and whether it holds and lies inside, or nothing where it was not measured."""
    listed = {dim: found[dim].values.tolist() for dim in found.dims}
    values = {dim: [spec.get(dim, spec.get(f"transition {dim}")) for spec in given] for dim in listed}
    places = {dim: [of.index(v) if v in of else -1 for v in values[dim]] for dim, of in listed.items()}
    # All at once, in a hundredth of the time.
    ones = found.isel({dim: ("spec", place) for dim, place in places.items()})
    there = (np.array(list(places.values())) >= 0).all(0) & np.asarray(ones.get("there", True))
    parts = [ones[key].values.tolist() for key in ("low", "estimate", "high", "holds", "inside")]
    return [one if measured else None for measured, one in zip(there, zip(*parts))]


@pytest.mark.parametrize("dataset", alternatives.SETS)
def test_verdicts_intervals_and_counts_equal_python_s(shown, judged, stated, dataset):
    page, wanted = shown(dataset, counted=True), judged(dataset)
    counts, axes = page.evaluate(COUNTS), page.evaluate(AXES)
    joint = {claim["id"]: claim["together"] for claim in stated[1] if "together" in claim}
    assert set(counts) == set(wanted) | {name for name, parts in joint.items() if set(parts) <= set(wanted)}
    baseline = {axis: about["values"][about["baseline"]] for axis, about in axes.items()}
    shares = cifar_claims.shares([wanted], stated[1])
    for name, found in counts.items():
        assert found["holds"] / found["of"] == pytest.approx(shares[name], abs=1e-12), name  # as in the ledger
        if name in wanted:
            holds, inside = (judging.flags(wanted[name], kind) for kind in ("holds", "inside"))
            said = (found["of"], found["holds"], found["inside"])
            assert said == (int(holds.notnull().sum()), int(holds.sum()), int(inside.sum())), name
            away = sum(holds[dim] != baseline.get(dim, baseline.get(f"transition {name}")) for dim in holds.dims)
            fewest = away.where(holds == 1).min()  # choices to change until the claim holds
            assert found["changes"] == (int(fewest) if found["holds"] else None), name
    rng = np.random.default_rng(0)
    values = {axis: about["values"] for axis, about in axes.items()}
    given = [{axis: of[rng.integers(len(of))] for axis, of in values.items()} for _ in range(300)]
    # Those of one choice are measured more often than those of many.
    given += [baseline, *(baseline | {axis: value} for axis, of in values.items() for value in of)]
    seen = 0
    judgements = {}
    for name, found in wanted.items():
        of_it = f"transition {name}" in axes
        places = [spec | {"transition": spec[f"transition {name}"]} if of_it else spec for spec in given]
        judgements[name] = at(found, places)
    for i, (spec, ours) in enumerate(zip(given, page.evaluate(JUDGE, given))):
        for name in wanted:
            theirs = judgements[name][i]
            assert (ours[name] is None) == (theirs is None), (name, spec)
            if theirs is not None:
                seen += 1
                found_ends = [float(end) for end in ours[name]["ends"]]
                assert found_ends == pytest.approx(list(theirs[:3]), abs=2e-7, nan_ok=True), (name, spec)
                assert (ours[name]["holds"], ours[name]["inside"]) == tuple(map(bool, theirs[3:])), (name, spec)
        for name in set(counts) - set(wanted):
            parts = [ours[part] for part in joint[name]]
            assert ours[name] is None or ours[name]["holds"] == all(part["holds"] for part in parts)
    assert seen > 300


def test_a_choice_moves_what_is_drawn_and_said_and_a_button_leads_back(open_page):
    page = open_page()
    assert "This is the baseline." in page.inner_text("#bq-verdict-summary")
    drawn = "[data-claim='D2'] svg"
    first, words = page.inner_html(drawn), page.inner_text("[data-claim='D2'] .bq-found")
    page.check("input[name=nodes][value='2']")
    said = page.inner_text("#bq-verdict-summary")
    assert "nodes a side: 101 (baseline 201)" in said
    assert page.get_attribute("#bq-verdict-summary", "aria-live") == "polite"
    assert page.inner_html(drawn) != first and page.inner_text("[data-claim='D2'] .bq-found") != words
    assert "nodes=101" in page.url
    page.focus("#bq-baseline")
    page.keyboard.press("Enter")
    assert page.inner_html(drawn) == first and "nodes" not in page.url
    assert page.is_checked("input[name=nodes][value='1']")


def test_the_address_brings_a_choice_back(open_page):
    page = open_page("#set=cifar-10&step=a+channel&thickness=1&nonsense=1&nodes=7")
    assert page.is_checked("input[name=bq-set][value='cifar-10']")
    said = page.inner_text("#bq-verdict-summary")
    assert "one step for: a channel" in said and "nodes" not in said
    assert "mask thickened by: 1 cell (baseline 0 cells)" in said
    again = open_page(page.evaluate("location.hash"))
    assert again.inner_text("#bq-verdict-summary") == said
    page.evaluate("location.hash = '#set=digits&nodes=401'")
    page.wait_for_function("document.getElementById('bq-verdict-summary').textContent.includes('nodes a side: 401')")


@pytest.mark.parametrize("dataset", alternatives.SETS)
def test_a_number_at_each_choice_says_what_it_would_bring(shown, dataset):
    page = shown(dataset)
    told = page.evaluate(TOLD)
    assert {axis for axis, *_ in told} == set(page.evaluate(AXES))
    for axis, i, said, holding in told:
        assert int(re.search(r"(\d+)\s+holds?$", said)[1]) == holding, (axis, i)
    assert "This is the baseline." in page.inner_text("#bq-verdict-summary")


@pytest.mark.parametrize("dataset", alternatives.SETS)
def test_nearest_leads_to_where_the_claim_holds(shown, dataset):
    page = shown(dataset, counted=True)
    names = page.evaluate("[...document.querySelectorAll('[data-nearest]')].map((one) => one.dataset.nearest)")
    counts = page.evaluate(COUNTS)
    for name in names:
        away = int(re.search(r"\d+", page.inner_text(f"[data-nearest='{name}']"))[0])
        page.click(f"[data-nearest='{name}']")
        assert page.inner_text(f"[data-claim='{name}'] .verdict") == "holds", name
        assert page.inner_text("#bq-verdict-summary").count("(baseline ") == away == counts[name]["changes"] > 0
        page.click("#bq-baseline")
    for name in set(counts) - set(names):
        assert counts[name]["nearest"] is None or counts[name]["changes"] == 0


def test_what_the_page_says_to_try_is_so(shown, stated):
    reported = {claim["id"]: claim["reported"] for claim in stated[1]}

    def estimates(dataset, axis, *values):
        page = shown(dataset)
        usual = {name: about["values"][about["baseline"]] for name, about in page.evaluate(AXES).items()}
        found = page.evaluate(JUDGE, [usual | {axis: value} for value in values])
        return [{name: float(one["ends"][1] or "nan") for name, one in row.items() if one} for row in found]

    coarse, usual, fine = estimates("digits", "nodes", 101, 201, 401)
    assert all(coarse[name] < usual[name] < fine[name] for name in ("D2", "D4")) and coarse["D3"] == fine["D3"]
    down, any_level = estimates("digits", "path", "going down", "any level")
    tensor, folded = estimates("full-cifar-10", "step", "a tensor", "a tensor, batch norms folded")
    for before, after, names in ((down, any_level, ("S1", "S3")), (tensor, folded, ("F2", "F3"))):
        assert all(before[name] < after[name] for name in names)
        assert all(abs(after[name] - reported[name]) < abs(before[name] - reported[name]) for name in names)
    fine, coarse = estimates("cifar-10", "nodes", 81, 21)
    assert coarse["C3"] < fine["C3"] and coarse["C4"] < fine["C4"]


def test_keys_and_touch_make_a_choice(open_page):
    page = open_page()
    page.focus("input[name=nodes][value='1']")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("input[name=nodes][value='2']") and "nodes=101" in page.url
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    page = open_page(**phone)
    page.locator("#bq-choices summary", has_text="Choice of bits").tap()
    page.select_option("select[name=rule]", index=0)
    assert "rule=" in page.url
    page.locator("input[name=bq-set][value=mnist]").tap()
    page.wait_for_function("bqVerdicts.current().data.name === 'mnist'")
    assert "MNIST: of 1 claim" in page.inner_text("#bq-verdict-summary")


def test_missing_data_is_said(chromium, book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    (copy / "_static/verdicts/digits.js").unlink()
    with Watched(chromium) as watched:
        watched.page.goto((copy / PAGE).as_uri(), wait_until="load")
        watched.page.wait_for_function(
            "document.getElementById('bq-verdict-summary').textContent.includes('could not be loaded')"
        )
