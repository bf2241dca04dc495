"""
The rule that the ledger began with, kept as it was: its verdicts stand beside those of :mod:`studies.verdicts`.

A number is reproduced inside the interval of the next run, unless that is wider than half of what all bit-widths or
methods span (inconclusive). A direction is where its interval lies above 0. Numbers after boundary-aware stopping are
judged together, at the best of all limits. data/deviations.yml says why the rule was left, after the runs. The
multiverse still judges by it.
"""

import xarray as xr

from bqcore.metrics import statistics

from . import correlations, specs
from .claims import Results, aware, chosen, of_first_rule, pick, picked

VERDICTS = ("not reproduced", "inconclusive", "reproduced")  # the better ones last


def verdict(claim: dict, claims: list[dict], results: Results, rule: dict) -> str | None:
    """Return the first rule's verdict on a claim of data/claims.yml; None where it had no such claim."""
    if "first_rule" in claim and not claim["first_rule"]:
        return None
    claim = of_first_rule(claim)
    judge = {
        "value": _of_value, "stopping": _of_stopping, "direction": _of_direction, "qualitative": _of_direction,
        "no gain": _of_direction, "correlation": _of_correlation,
    }[claim["kind"]]  # fmt: skip
    return judge(claim, [of_first_rule(other) for other in claims], results, rule)


def _of_interval(interval: statistics.Interval, reported: float, reach: float, rule: dict) -> str:
    inside = interval.low <= reported <= interval.high
    return VERDICTS[inside + (inside and interval.high - interval.low <= rule["too_wide"] * reach)]


def _reach(claim: dict, runs: xr.Dataset) -> float:
    """Return how far the levels lie apart in what is claimed: the range of the medians along ``span``."""
    if claim["select"]["measure"] == "chosen_bits":
        levels = runs.bits.where(runs.bits != specs.FLOAT)
        return float(levels.max() - levels.min())
    left = (claim["span"], "rule", "limit", "less_bits")
    medians = pick(runs, {key: value for key, value in claim["select"].items() if key not in left}).median("seed")
    beyond = {"bits": specs.FLOAT, "method": "float"}
    if claim["span"] in beyond:
        medians = medians.drop_sel({claim["span"]: beyond[claim["span"]]})
    return float(medians.max() - medians.min())


def _of_value(claim: dict, _, results: Results, rule: dict) -> str:
    values = picked(results, claim["from"], claim["select"], rule["spare"]).values.ravel()
    interval = statistics.prediction_interval(values, claim["means_of"], rule["level"])
    return _of_interval(interval, claim["reported"], _reach(claim, results.load(claim["from"])), rule)


def _of_stopping(claim: dict, claims: list[dict], results: Results, rule: dict) -> str:
    together = [other for other in claims if other["id"] in claim["together"]]
    runs, best = results.load(claim["from"]), []
    reaches = [_reach(other, runs) for other in together]
    for choice in aware(results.choices(claim["from"]), {other["select"]["measure"] for other in together}):
        each = []
        for other, reach in zip(together, reaches):
            values = pick(choice, other["select"]).values
            interval = statistics.prediction_interval(values, other["means_of"], rule["level"])
            each.append(_of_interval(interval, other["reported"], reach, rule))
        best.append(min(each, key=VERDICTS.index))
    return max(best, key=VERDICTS.index)


def _of_direction(claim: dict, _, results: Results, rule: dict) -> str:
    first, second = (dict(claim[side]) for side in ("first", "second"))
    if "limit_from" in claim:  # the limit that another data set's calibration picks
        other = chosen(results.choices(claim["limit_from"]), second["rule"], "usual", rule["spare"])
        second["limit"] = float(other.limit)
    first, second = (picked(results, claim["from"], select, rule["spare"]) for select in (first, second))
    if "mean_over" in claim:
        first, second = first.mean(claim["mean_over"]), second.mean(claim["mean_over"])
    interval = statistics.paired_difference(first.values, second.values, rule["level"])
    holds, refuted = interval.low > 0, interval.high <= 0
    if claim["kind"] == "no gain":  # the other way round: what would be a gain speaks against it
        holds, refuted = interval.high < claim["less_than"], interval.low > 0
    if "most" in claim:
        share = statistics.prediction_interval(first.values, 1, rule["level"])
        holds, refuted = holds and share.low > claim["most"], refuted or share.high < claim["most"]
    return VERDICTS[0] if refuted else VERDICTS[2] if holds else VERDICTS[1]


def _of_correlation(claim: dict, _, results: Results, rule: dict) -> str:
    files = (results.load(name)[["boundary_jaccard"]] for name in claim["from"])
    found = [by_seed for runs in files for _, by_seed, _ in correlations.correlations(runs).values()]
    which = min if claim["of"] == "lowest" else max
    all_of_them = [one.estimate for one in found]
    extreme = which(found, key=lambda one: one.estimate)
    return _of_interval(extreme, claim["reported"], max(all_of_them) - min(all_of_them), rule)
