"""
What the multiverse on CIFAR-10 says of each claim: :mod:`studies.multiverse.judging` for readings and roundings.

A specification of C1 to C3 has a network, a quantizer, a ruler, and a choice by accuracy: the drop allowed, and whether
the bits are the last before the first larger drop or the fewest of all that the drop allows. Of C4 to C6 it has a
stopping rule instead. A rule looks at calibration data: at the slice of calibration inputs where the claim is on that
of held-out ones, else at the same slice. Of F1 to F3 it has no ruler; of R1 to R8 a rounding. Of K1 and K2 it has a
network, a quantizer and a ruler, and the correlation is over its seeds and bit-widths, with a jackknife over seeds.
"""

import json
from itertools import combinations, product

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from .. import rounding, stopping
from . import judging
from .cifar import PLANES
from .judging import PATHS, Measured, chosen

SUBSET = ("C1", "C2", "C3", "C4", "C5", "C6")
FULL = ("F1", "F2", "F3")
ROUNDED = ("R1", "R2", "R3", "R4")
_SEEN = {PLANES[0]: PLANES[1], PLANES[1]: PLANES[1], PLANES[2]: PLANES[2]}  # the slice that a rule looks at
_FROM_0_TO_1 = ("C2", "C3", "C5", "C6", "F2", "F3", *ROUNDED)


def judge(many: xr.Dataset, claims: list[dict], rule: dict) -> dict[str, xr.Dataset]:
    """Judge each of *claims* that a multiverse covers in every specification; see :func:`judging.judge`."""
    study, dataset = (json.loads(many.attrs["spec"])[key] for key in ("study", "dataset"))
    if study == "multiverse":
        return judging.judge(many, claims, rule)
    measured = {"cifar-10": of_subset, "full-cifar-10": of_full}
    found_of = of_roundings(many) if study == "roundings" else measured[dataset](many) if dataset in measured else {}
    out = {}
    for claim in claims:
        name = claim["id"]
        if name in found_of:
            out[name] = _judged(found_of[name], name, claim, rule)
        elif name in ("K1", "K2") and study == "readings" and dataset in measured:
            out[name] = _correlated(many, claim["reported"], rule["level"])
    return out


def _judged(found: Measured, name: str, claim: dict, rule: dict) -> xr.Dataset:
    values, span = found
    reported = claim["reported"]
    there = values.notnull().all("seed")
    if isinstance(reported, str):
        interval = judging.interval(values, np.inf, rule["level"])
        out = interval.assign(inside=interval.high > 0, holds=interval.low > 0)
        if claim["kind"] == "no gain":  # the other way round: what would be a gain speaks against it
            bound = claim["bound"] * (span if claim.get("bound_of") == "first" else 1)
            out = interval.assign(inside=interval.low <= 0, holds=(interval.low <= 0) & (interval.high < bound))
    else:
        interval = judging.interval(values, claim["means_of"], rule["level"])
        if name in _FROM_0_TO_1:
            interval = interval.assign(low=interval.low.clip(min=0), high=interval.high.clip(max=1))
        inside = (interval.low <= reported) & (reported <= interval.high)
        narrow = True if span is None else interval.high - interval.low <= rule["too_wide"] * span
        out = interval.assign(inside=inside, holds=inside & narrow)
    return out.assign(there=there)


def rules() -> list[tuple[str, dict[str, float], tuple]]:
    """Return every boundary-aware stopping rule: its name, each measure's limit, and the band that it looks at."""
    limits = stopping.LIMITS
    bands = list(product(("margin", "radius"), (0.2, 0.15, 0.1)))
    usual = bands[0]
    out = [(f"jaccard ≤ {j:g}", {"jaccard": j}, usual) for j in limits["jaccard"]]
    out += [
        (f"flips ≤ {b:g} in the {share:.0%} of lowest {nearness}", {"band": b}, (nearness, share))
        for (nearness, share), b in product(bands, limits["band flips"])
    ]
    return out + [
        (f"jaccard ≤ {j:g}, flips ≤ {b:g}", {"jaccard": j, "band": b}, usual)
        for j, b in product(limits["jaccard"], limits["band flips"])
    ]


_OWN = ("seed", "trained", "step", "scheme")
_RULER = ("plane", "extent", "nodes", "thickness")


def of_subset(many: xr.Dataset) -> dict[str, Measured]:
    """Return the measures of C1 to C6 in every specification, at the bits that each rule chooses."""
    calibration, held_out = (many.sel(split=split, drop=True) for split in ("calibration", "held-out"))
    calibration = calibration.fillna(
        0
    )  # a network that cannot be folded: whatever is chosen, nothing is measured there
    lost = calibration.accuracy_lost.transpose(*_OWN, "bits").values
    flips = held_out.flip_rate.transpose(*_OWN, "bits")
    jaccard = many.boundary_jaccard.transpose(*_OWN, *_RULER, "bits")
    seen = jaccard.sel(plane=[_SEEN[plane] for plane in PLANES]).fillna(0).values
    band = {
        (nearness, share): calibration.band_flip_rate.sel(nearness=nearness, share=share)
        .transpose(*_OWN, "bits")
        .values
        for nearness, share in product(many.nearness.values, many.share.values)
    }
    drops = list(stopping.LIMITS["accuracy"])
    by_accuracy = [chosen([lost], [limit], path) for limit, path in product(drops, PATHS)]
    aware = []
    for (_, limits, where), path in product(rules(), PATHS):
        looked = [seen] if "jaccard" in limits else []
        looked += [np.broadcast_to(band[where][..., None, None, None, None, :], seen.shape)] if "band" in limits else []
        aware.append(chosen(looked, list(limits.values()), path))
    bits = 0 * flips + flips.bits
    names = [name for name, *_ in rules()]
    wide = [level[..., None, None, None, None] for level in by_accuracy]
    by_ruler = {"flips": flips, "bits": bits}
    by_ruler = {key: (0 * jaccard + one).transpose(*jaccard.dims) for key, one in by_ruler.items()}
    return {
        "C1": Measured(judging.at(bits, by_accuracy, "drop", drops), _range(bits)),
        "C2": Measured(judging.at(flips, by_accuracy, "drop", drops), _range(flips)),
        "C3": Measured(judging.at(jaccard, wide, "drop", drops), _range(jaccard)),
        "C4": Measured(judging.at(by_ruler["bits"], aware, "rule", names), _range(bits)),
        "C5": Measured(judging.at(by_ruler["flips"], aware, "rule", names), _range(flips)),
        "C6": Measured(judging.at(jaccard, aware, "rule", names), _range(jaccard)),
    }


def of_full(many: xr.Dataset) -> dict[str, Measured]:
    """Return the measures of F1 to F3 in every specification."""
    held_out = many.sel(split="held-out", drop=True)
    names = {"F1": "accuracy_lost", "F2": "flip_rate", "F3": "band_flip_rate"}
    return {
        claim: Measured(held_out[name].sel(bits=6, drop=True), _range(held_out[name])) for claim, name in names.items()
    }


def of_roundings(many: xr.Dataset) -> dict[str, Measured]:
    """
    Return the measures of R1 to R8 in every specification; of what belongs to a rounding with the gap term, along the
    weight ``eta``, beside the rounding without it, of the same steps and inputs.
    """
    many = many.sel(split="held-out", drop=True)
    four, three = many.sel(bits=4, drop=True), many.sel(bits=3, drop=True)
    plain, with_term = split_by_gap(four)
    plain_3, with_term_3 = split_by_gap(three)
    on_logits = plain.sel({"method": "logits"}, drop=True)
    jaccard, order, lost = "boundary_jaccard", "band_pair_order_flip_rate", "accuracy_lost"
    on_logits_3 = plain_3.sel({"method": "logits"}, drop=True)
    no_gain = {"R6-jaccard": jaccard, "R6-flips": "flip_rate", "R6-band": "band_flip_rate", "R6-accuracy": lost}
    return {
        "R1": Measured(plain[jaccard], _range(plain[jaccard], "method")),
        "R2": Measured(with_term[jaccard], _range(plain[jaccard], "method")),
        "R3": Measured(plain[order], _range(plain[order], "method")),
        "R4": Measured(with_term[order], _range(plain[order], "method")),
        "R5": Measured(with_term[lost] - on_logits[lost], None),
        "R7": Measured(on_logits[jaccard] - with_term[jaccard], None),
        "R8": Measured(on_logits[order] - with_term[order], None),
        **{
            claim: Measured(on_logits_3[name] - with_term_3[name], on_logits_3[name].mean("seed"))
            for claim, name in no_gain.items()
        },
    }


def split_by_gap(many: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the roundings without the gap term, along ``method``, and those with it, along its weight ``eta``."""
    eta = {name: rounding.eta_of(name) for name in many["method"].values.tolist()}
    with_term = [name for name, weight in eta.items() if weight > 0]
    gaps = many.sel({"method": with_term}).assign_coords({"method": [eta[name] for name in with_term]})
    return many.drop_sel({"method": with_term}), gaps.rename({"method": "eta"})


def _range(values: xr.DataArray, dim: str = "bits") -> xr.DataArray:
    medians = values.median("seed")
    return medians.max(dim) - medians.min(dim)


def _correlated(many: xr.Dataset, reported: float, level: float) -> xr.Dataset:
    """Judge the correlation of the Jaccard distances of calibration and held-out slices, over seeds and bit-widths."""
    jaccard = many.boundary_jaccard.astype(np.float64)
    first, second = (jaccard.sel(plane=plane, drop=True) for plane in (PLANES[1], PLANES[0]))
    dims, n = [dim for dim in first.dims if dim not in ("seed", "bits")], many.sizes["seed"]
    pairs = [one.transpose("seed", "bits", *dims).values for one in (first, second)]
    without = [np.array([seed != left for seed in range(n)]) for left in range(n)]
    z, *left = (np.arctanh(_correlation(*(one[kept] for one in pairs))) for kept in ([True] * n, *without))
    left = np.ma.masked_invalid(left)  # without one seed, all its distances may be equal
    error = np.sqrt((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum(axis=0)).filled(0.0)
    half = scipy_stats.t.isf((1 - level) / 2, n - 1) * error
    values = {"estimate": np.tanh(z), "low": np.tanh(z - half), "high": np.tanh(z + half)}
    out = xr.Dataset({name: (dims, value) for name, value in values.items()}, {dim: jaccard[dim] for dim in dims})
    inside = (out.low <= reported) & (reported <= out.high)
    there = out.estimate.notnull()
    return out.assign(inside=inside, holds=inside & (out.high - out.low <= 0.1), there=there)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation over the first two axes, at most 1 - 1e-9; NaN where one is constant or missing."""
    first, second = (one - one.mean(axis=(0, 1)) for one in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = (first**2).sum(axis=(0, 1)) * (second**2).sum(axis=(0, 1))
        return np.minimum((first * second).sum(axis=(0, 1)) / np.sqrt(squares), 1 - 1e-9)


def shares(judged: list[dict[str, xr.Dataset]], claims: list[dict]) -> dict[str, float]:
    """
    Return the share of specifications in which each claim holds, of all multiverses that have it.

    A joint claim holds where all that it joins hold; the counts of J2, J3 and J4, in three transitions in their order.
    """
    counts: dict[str, list[tuple[float, float]]] = {}
    for found in judged:
        flags = {name: judging.flags(one) for name, one in found.items()}
        for claim in claims:
            parts = [flags[name] for name in claim.get("together", ()) if name in flags]
            if parts and len(parts) == len(claim["together"]):
                flags[claim["id"]] = _together(parts, ordered="transition" in parts[0].dims)
        for name, one in flags.items():
            counts.setdefault(name, []).append((float(one.sum()), float(one.notnull().sum())))
    return {name: sum(holds for holds, _ in of) / sum(there for _, there in of) for name, of in counts.items()}


def _together(parts: list[xr.DataArray], ordered: bool) -> xr.DataArray:
    """Return where all of *parts* hold, *ordered* in which transitions in their order; NaN where one is missing."""
    if ordered:
        triples = combinations(range(parts[0].sizes["transition"]), len(parts))
        found = [
            _together([part.isel(transition=i, drop=True) for part, i in zip(parts, triple)], False)
            for triple in triples
        ]
        return xr.concat(found, "triple")
    out = parts[0]
    for part in parts[1:]:
        out = out * part
    return out


# Where all claims of a data set hold at once: data/predictions.yml has the rules, which were fixed before the runs.

CELL = ("trained", "step", "scheme", "plane", "extent", "nodes", "thickness")  # what the claims of the subset share
CELL_OF_FULL = ("nearness", "share", "plane", "extent", "nodes", "thickness")  # and those of full CIFAR-10
# By data set: the groups of claims that share free choices, beside those of a cell.
GROUPS = {
    "cifar-10": (("C1", "C2", "C3"), ("C4", "C5", "C6")),
    "full-cifar-10": (("F1", "F2", "F3"), ("R1", "R2", "R3", "R4")),
}


def region(judged: dict[str, xr.Dataset], dataset: str) -> xr.DataArray:
    """Return, for each cell, the fraction of the free choices for which all numbers lie in their intervals at once."""
    parts = []
    for names in GROUPS[dataset]:
        agrees = xr.ones_like(judged[names[0]].inside)
        there = xr.ones_like(agrees)
        for name in names:
            agrees, there = agrees & judged[name].inside, there & judged[name].there
        parts.append(agrees.where(there).mean([dim for dim in agrees.dims if dim not in _cell(dataset)]))
    return (parts[0] * parts[1]).fillna(0.0)


def by_chance(judged: dict[str, xr.Dataset], dataset: str) -> float:
    """Return the fraction of specifications in which all would agree, if the numbers agreed independently."""
    return float(
        np.prod([float(judged[n].inside.where(judged[n].there).mean()) for group in GROUPS[dataset] for n in group])
    )


def nearest(judged: dict[str, xr.Dataset], stated: dict[str, float], dataset: str) -> tuple[dict, dict[str, float]]:
    """Return the specification nearest to the paper's numbers, choice by choice and group by group, and our means."""
    squares = []
    for names in GROUPS[dataset]:
        total = 0.0
        for name in names:
            estimate = judged[name].estimate.where(judged[name].there)
            total = total + ((estimate - stated[name]) / float(estimate.std())) ** 2
        squares.append(total)
    # The free choices of a group do not touch the others': the best of each, cell by cell.
    best = sum(one.fillna(np.inf).min([dim for dim in one.dims if dim not in _cell(dataset)]) for one in squares)
    cell = {dim: best[dim].values[int(i)] for dim, i in best.argmin(list(best.dims)).items()}
    where, ours = {"cell": cell}, {}
    for names, one in zip(GROUPS[dataset], squares):
        here = one.sel({dim: value for dim, value in cell.items() if dim in one.dims}).fillna(np.inf)
        free = {dim: here[dim].values[int(i)] for dim, i in here.argmin(list(here.dims)).items()} if here.dims else {}
        where[", ".join(names)] = free
        for name in names:
            estimate = judged[name].estimate
            ours[name] = float(estimate.sel({d: v for d, v in (cell | free).items() if d in estimate.dims}))
    return where, ours


def _cell(dataset: str) -> tuple[str, ...]:
    return CELL if dataset == "cifar-10" else CELL_OF_FULL


def main_effects(judged: xr.Dataset) -> dict[str, float]:
    """
    Return the fraction of the variance of a claim's means that each choice explains alone.

    Where some choices exclude each other, over those that were measured.
    """
    estimate = judged.estimate.where(judged.there)
    total = float(estimate.var())
    means = {dim: estimate.mean([d for d in estimate.dims if d != dim]) for dim in estimate.dims}
    counts = {dim: judged.there.sum([d for d in estimate.dims if d != dim]) for dim in estimate.dims}
    middle = float(estimate.mean())
    return {
        dim: float((counts[dim] * (mean - middle) ** 2).sum() / counts[dim].sum()) / total if total else 0.0
        for dim, mean in means.items()
    }
