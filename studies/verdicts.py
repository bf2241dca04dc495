"""
The rule that the ledger judges by: is the paper's number compatible with ours, and would others be so too?

A number is *compatible* inside the interval of one more such run (or mean of runs), and *reproduced* if that interval
also excludes the means of its neighbours: other bit-widths, roundings, rules or transitions. A direction is
*reproduced*, *opposite*, or *no difference seen*. data/claims.yml has each claim's measure, and the rule in words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
import xarray as xr

from bqcore.metrics import statistics

from . import correlations, specs
from .claims import Results, aware, chosen, pick, picked
from .formats import interval, level, listed, number, signed

NUMBERS = ("not reproduced", "compatible", "reproduced")  # the better ones last
DIRECTIONS = ("opposite", "no difference seen", "reproduced")
VERDICTS = ("reproduced", "compatible", "not reproduced", "no difference seen", "opposite", "not attempted")
PLAIN = {
    "nearest": "rounding to nearest", "layers": "optimized by layer", "logits": "optimized on the logits",
    "gap": "with the gap term",
}  # fmt: skip
_BY_ACCURACY = ("accuracy", 0.0, "by accuracy")
_OTHERS = {
    "accuracy": ("jaccard", "usual", "boundary-aware stopping")
}  # of any other rule it is the choice by accuracy


class Number(NamedTuple):
    """A reported number, the interval of one more such run of ours, what neighbours give in the mean, and our runs."""

    reported: float
    interval: statistics.Interval
    neighbours: dict[str, float]
    values: Sequence[float] = ()

    def holds(self, value: float) -> bool:
        """Return whether the interval holds *value*."""
        return bool(self.interval.low <= value <= self.interval.high)


class Together(NamedTuple):
    """The verdict on numbers taken together, and the neighbours that one of them excludes and that none does."""

    verdict: str
    excluded: list[str]
    held: list[str]


def together(numbers: list[Number]) -> Together:
    """Judge one or several numbers: all must be inside, and a neighbour is excluded where one of them excludes it."""
    names = dict.fromkeys(name for one in numbers for name in one.neighbours)
    excluded = [n for n in names if any(n in one.neighbours and not one.holds(one.neighbours[n]) for one in numbers)]
    held = [name for name in names if name not in excluded]
    inside = all(one.holds(one.reported) for one in numbers)
    return Together(NUMBERS[inside + (inside and not held)], excluded, held)


def of_values(values: xr.DataArray, claim: dict, runs: xr.Dataset, rule: dict, neighbours: dict) -> Number:
    """Hold values over seeds against what *claim* reports; the interval is cut to what the measure can be."""
    loose = sorted(set(values.dims) - {"seed"})
    if loose:
        raise ValueError(f"its select leaves {', '.join(loose)} open: name one, or give at_any.")
    found = statistics.prediction_interval(values.values, claim["means_of"], rule["level"])
    low, high = -np.inf, np.inf
    if values.name == "chosen_bits":
        levels = runs.bits.values[runs.bits.values != specs.FLOAT]
        low, high = levels.min(), levels.max()
    elif values.name in ("boundary_jaccard", "accuracy") or str(values.name).endswith("_rate"):
        low, high = 0, 1
    found = found._replace(low=float(max(found.low, low)), high=float(min(found.high, high)))
    means = {name: float(value) for name, value in neighbours.items()}
    return Number(claim["reported"], found, means, values.values.tolist())


def _at(claim: dict, runs: xr.Dataset, rule: dict) -> Number:
    """Hold a number at fixed bits or of a rounding against the other bit-widths or roundings."""
    select, key = claim["select"], "less_bits" if "less_bits" in claim["select"] else claim["span"]
    if key not in select:
        raise ValueError(f"its select names no {key}, along which its neighbours lie.")
    known = {b: level(b) for b in runs.bits.values.tolist() if b != specs.FLOAT}
    if key == "transition":
        known = {place: place for place in runs[key].values.tolist()}
    elif key == "method":
        known = {method: name for method, name in PLAIN.items() if method == "gap" or method in runs["method"].values}
    neighbours = {
        name: pick(runs, select | {key: value}).mean() for value, name in known.items() if value != select[key]
    }
    return of_values(pick(runs, select), claim, runs, rule, neighbours)


def _by_rule(claim: dict, runs: xr.Dataset, choices: list[xr.Dataset], other: tuple, rule: dict) -> list[Number]:
    """
    Hold a number at the bits that each of *choices* has against every bit-width for all, and the *other* rule.

    The bit-width that is chosen most often is no neighbour, or where bits are claimed, the reported one.
    """
    select, (name, others) = claim["select"], other
    levels = [bits for bits in runs.bits.values.tolist() if bits != specs.FLOAT]
    claimed = select["measure"] == "chosen_bits"
    means = levels if claimed else pick(runs, select).sel(bits=levels).mean("seed").values
    beyond = {name: pick(others, select).mean()}
    out = []
    for choice in choices:
        values, counts = np.unique(choice.chosen_bits, return_counts=True)
        own = claim["reported"] if claimed else values[counts.argmax()]
        neighbours = {level(bits): mean for bits, mean in zip(levels, means) if bits != own}
        out.append(of_values(pick(choice, select), claim, runs, rule, neighbours | beyond))
    return out


def numbers_of(claim: dict, results: Results, rule: dict) -> dict[str, Number]:
    """Return the number that a claim of kind "value" is about; where it says ``at_any``, one for each place."""
    runs, select = results.load(claim["from"]), claim["select"]
    if "rule" in select:
        choices, (of, limit, name) = results.choices(claim["from"]), _OTHERS.get(select["rule"], _BY_ACCURACY)
        choice = chosen(choices, select["rule"], select["limit"], rule["spare"])
        found = _by_rule(claim, runs, [choice], (name, chosen(choices, of, limit, rule["spare"])), rule)
        return {"": found[0]}
    if "at_any" not in claim:
        return {"": _at(claim, runs, rule)}
    values, dim = pick(runs, select), claim["at_any"]
    means = values.mean("seed").to_series().to_dict()
    found = {}
    for place in means:
        neighbours = {other: mean for other, mean in means.items() if other != place}
        found[place] = of_values(values.sel({dim: place}), claim, runs, rule, neighbours)
    return found


def at_limits(claims: list[dict], results: Results, rule: dict) -> list[list[Number]]:
    """Return the numbers that claims on one file are about, at every limit of every boundary-aware stopping rule."""
    runs, choices = results.load(claims[0]["from"]), results.choices(claims[0]["from"])
    of, limit, name = _BY_ACCURACY
    other = (name, chosen(choices, of, limit, rule["spare"]))
    each = aware(choices, {claim["select"]["measure"] for claim in claims})
    return list(map(list, zip(*(_by_rule(one, runs, each, other, rule) for one in claims))))


def judge_value(claim: dict, results: Results, rule: dict) -> dict:
    """Judge one number; where it may be at any place, at the one that agrees best and is nearest in the middle."""
    found = numbers_of(claim, results, rule)
    judged = {place: together([one]) for place, one in found.items()}

    def rank(place: str):
        return NUMBERS.index(judged[place].verdict), -abs(found[place].interval.estimate - claim["reported"])

    place = max(found, key=rank)
    note = ""
    if claim["select"].get("limit") == "usual":
        limit = chosen(results.choices(claim["from"]), claim["select"]["rule"], "usual", rule["spare"]).limit
        each = at_limits([claim], results, rule)
        count = sum(one.holds(one.reported) for (one,) in each)
        note = f"at Jaccard ≤ {float(limit):g}, which calibration data pick; inside at {count} of {len(each)} limits"
    elif place:
        inside = [where for where, one in judged.items() if one.verdict != NUMBERS[0]]
        note = f"at {place}; inside at {listed(inside)}"
    return _fields(found[place], judged[place]) | {"note": note}


def _fields(one: Number, judged: Together) -> dict:
    told = {name: one.neighbours[name] for name in judged.excluded}
    held = {name: one.neighbours[name] for name in judged.held}
    return one.interval._asdict() | {
        "values": one.values, "verdict": judged.verdict, "excluded": told, "held": held,
    }  # fmt: skip


def judge_reduction(claim: dict, results: Results, rule: dict) -> dict:
    """Judge a reported reduction, paired by seed, as a number whose neighbour is "no reduction", and as a direction."""
    first, second = _pair(claim, results, rule)
    found = statistics.prediction_interval(first - second, claim["means_of"], rule["level"])
    one = Number(claim["reported"], found, {"no reduction": 0.0}, (first - second).tolist())
    seen = direction(first, second, rule, claim["bound"])
    mean = statistics.paired_difference(first, second, rule["level"])
    note = f"mean {interval(mean, '.4f', signed)}: {_word(mean)}"
    return _fields(one, together([one])) | seen | {"note": note}


def _pair(claim: dict, results: Results, rule: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the two sides of a direction, one value a seed."""
    sides = []
    for side in ("first", "second"):
        if side in claim:
            values = picked(results, claim["from"], claim[side], rule["spare"])
            sides.append((values.mean(claim["mean_over"]) if "mean_over" in claim else values).values)
    return sides[0], sides[1] if len(sides) > 1 else np.full_like(sides[0], claim["than"])


def _word(found: statistics.Interval) -> str:
    return DIRECTIONS[1 + (found.low > 0) - (found.high < 0)]


def direction(first: np.ndarray, second: np.ndarray, rule: dict, bound: float) -> dict:
    """
    Return what the seeds could have seen of first − second, and whether it is shown to lie within ± *bound*.

    ``detectable`` is the smallest mean difference that a paired t test finds with probability ``power``; ``equivalent``
    is by two one-sided tests (TOST), each at 1 − ``level``.
    """
    inner = statistics.paired_difference(first, second, 2 * rule["level"] - 1)
    least = statistics.detectable_difference(first, second, level=rule["level"], power=rule["power"])
    return {"detectable": least, "bound": bound, "equivalent": bool(-bound < inner.low and inner.high < bound)}


def judge_direction(claim: dict, results: Results, rule: dict) -> dict:
    """Judge a direction by a paired test over seeds; one of kind "no gain" is reproduced where no gain is shown."""
    first, second = _pair(claim, results, rule)
    bound = claim["bound"] * (float(first.mean()) if claim.get("bound_of") == "first" else 1)
    found = statistics.paired_difference(first, second, rule["level"])
    seen, verdict = direction(first, second, rule, bound), _word(found)
    if claim["kind"] == "no gain":  # what would be a gain speaks against it
        upper = statistics.paired_difference(first, second, 2 * rule["level"] - 1).high
        verdict = "opposite" if found.low > 0 else "reproduced" if upper < bound else DIRECTIONS[1]
    note = _limits_note(claim, first, results, rule)
    return found._asdict() | seen | {"values": (first - second).tolist(), "verdict": verdict, "note": note}


def _limits_note(claim: dict, first: np.ndarray, results: Results, rule: dict) -> str:
    """Say at which limit the second side stops, and what the direction is at all the others."""
    select = claim.get("second", {})
    if select.get("limit") != "usual":
        return ""
    choices, words = results.choices(claim["from"]), []
    for choice in aware(choices, {select["measure"]}):
        words.append(_word(statistics.paired_difference(first, pick(choice, select).values, rule["level"])))
    limit = float(chosen(choices, select["rule"], "usual", rule["spare"]).limit)
    counts = f"{words.count('reproduced')} of {len(words)} limits, opposite at {words.count('opposite')}"
    return f"at Jaccard ≤ {limit:g}, which calibration data pick; reproduced at {counts}"


def judge_correlation(claim: dict, results: Results, rule: dict) -> dict:
    """
    Judge the lowest or highest correlation of calibration and held-out Jaccard of all variants over the same bits.

    The interval is that of the lowest (highest) true correlation: from intervals over seeds that hold at once for all
    variants (Bonferroni), so it allows for choosing one of many.
    """
    files = {name: results.load(name)[["boundary_jaccard"]] for name in claim["from"]}
    bits = [specs.FLOAT, *claim["bits"]]
    at_bits = {name: runs.sel(bits=[b for b in runs.bits.values if b in bits]) for name, runs in files.items()}
    # PTQ-W is that of the stopping studies, which have more networks than rounding to nearest in those of rounding.
    count = sum(len(correlations.VARIANTS) - 1 if "method" in runs.dims else 1 for runs in files.values())
    found, spread = (
        {
            (variant, name): by_seed
            for name, runs in at_bits.items()
            for variant, (_, by_seed, _) in correlations.correlations(runs, level=held).items()
            if variant != "nearest"
        }
        for held in (1 - (1 - rule["level"]) / count, rule["level"])
    )
    which, sign = (min, 1) if claim["of"] == "lowest" else (max, -1)
    extreme = which(found, key=lambda key: found[key].estimate)
    ends = [which(getattr(one, end) for one in found.values()) for end in ("low", "high")]
    names = {key: f"{key[0]} ({specs.load(files[key[1]].attrs['spec']).dataset})" for key in found}
    neighbours = {names[key]: one.estimate for key, one in found.items() if key != extreme}
    estimates = [one.estimate for one in found.values()]
    one = Number(claim["reported"], statistics.Interval(found[extreme].estimate, *ends), neighbours, estimates)
    seeds = np.array([files[name].sizes["seed"] for _, name in found])
    common, middle = _extreme_of_one(list(spread.values()), seeds, rule["level"], sign)
    note = (
        f"{names[extreme]}, of {len(found)} variants over {listed([str(b) for b in claim['bits']])} bits; one common "
        f"correlation of {number(common, '.3f')} would give a {claim['of']} of {number(middle, '.3f')}"
    )
    ptq = [correlations.correlations(runs)["PTQ-W"][1] for runs in files.values() if "method" not in runs.dims]
    whole = [one.estimate for one in ptq]
    if whole:
        note += f"; PTQ-W over all its bit-widths: {claim['of']} {number(which(whole), '.3f')}"
    return _fields(one, together([one])) | {"runs": files[extreme[1]].sizes["seed"], "note": note}


def _extreme_of_one(found: list[statistics.Interval], seeds: np.ndarray, held: float, sign: int) -> tuple[float, float]:
    """
    Return the common correlation, weighted by seeds, and the median of the lowest (*sign* 1) of its estimates.

    Estimates vary as their intervals of level *held* say, as normal values of Fisher's z, independent of each other.
    """
    z, high = (np.arctanh([getattr(one, end) for one in found]) for end in ("estimate", "high"))
    errors = (high - z) / scipy.stats.t.isf((1 - held) / 2, seeds - 1)
    common, reach = float(np.average(z, weights=seeds)), 10 * errors.max()
    # All of them lie above x with the product of their single probabilities, which is one half at the lowest's median.
    least = scipy.optimize.brentq(lambda x: scipy.stats.norm.logsf(x / errors).sum() - np.log(0.5), -reach, reach)
    return float(np.tanh(common)), float(np.tanh(common + sign * least))
