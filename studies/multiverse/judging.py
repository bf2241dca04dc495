"""
What the multiverse says of each claim: where it holds, which choice moves it, where all agree at once.

A specification is one value of every axis that a claim depends on. All rules here were fixed before the runs:

- *Holds*: the ledger's rule (data/claims.yml) on the networks of the specification, with Student's prediction interval,
  since few seeds have no ranks. The width of an interval is held against the levels that were measured: 8 and 4 bits
  for boundary Jaccard, 8, 4 and 2 for displacement, all for the rest. Each transition stands for itself, and each
  stopping limit too. A direction holds where its interval lies above 0, and agrees where it does not lie at or below.
- *Agreeing region*: a cell is one choice of what one study would share between its tables (:data:`SHARED`). In it, all
  of the numbers on digits must agree at once; its size is the share of the remaining choices for which they do.
"""

import json
import math
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from bqcore._checks import check_finite
from bqcore.quantizers import bit_selection

from .. import stopping

NUMBERS = ("D1", "D2", "D3", "D4", "D5", "J2", "J3", "J4", "S1", "S2", "S3", "S4")
DIRECTIONS = {"mnist": "S5", "fashion-mnist": "S6"}  # all that the abstract claims of these data sets
CLAIMS = (*NUMBERS[:5], "J1", "J1-chance", *NUMBERS[5:], *DIRECTIONS.values())
SHARED = ("width", "epochs", "scale", "split", "scheme", "granularity", "nodes", "mask")
PATHS = ("going down", "any level")
_SHARES = ("D1", "D2", "D3", "D4", "S1", "S2", "S3", "S4")  # measures from 0 to 1


class Measured(NamedTuple):
    """A claim's measure along its axes and ``seed``, and how far the levels lie apart in it."""

    values: xr.DataArray
    span: xr.DataArray | None


def measured(many: xr.Dataset) -> dict[str, Measured]:
    """
    Return each claim's measure in every specification of the joined multiverse.

    Of digits all but S5 and S6; of another data set its one claim. For J1, the share at a junction less that of chance;
    for S5 and S6, the held-out flip rate chosen by accuracy less that after stopping, by the same path.
    """
    dataset = json.loads(many.attrs["spec"])["dataset"]
    if dataset in DIRECTIONS:
        found = _stopped(many)
        return {DIRECTIONS[dataset]: Measured(_plain(found["S1"].values - found["S2"].values), None)}
    jaccard, shift = many.boundary_jaccard, many.displacement
    out = {
        "D1": Measured(many.flip_rate.sel(bits=8), _span(many.flip_rate, "bits")),
        "D2": Measured(jaccard.sel(slice_bits=8), _span(jaccard, "slice_bits")),
        "D3": Measured(many.accuracy.sel(bits=4), _span(many.accuracy, "bits")),
        "D4": Measured(jaccard.sel(slice_bits=4), _span(jaccard, "slice_bits")),
        "D5": Measured(shift.sel(shift_bits=4), _span(shift, "shift_bits")),
        **dict.fromkeys(("J1", "J1-chance"), Measured(many.share_near - many.chance_boundary, None)),
        **dict.fromkeys(("J2", "J3", "J4"), Measured(many.junctions, _span(many.junctions, "transition"))),
        **_stopped(many),
    }
    return {name: Measured(_plain(values), span) for name, (values, span) in out.items()}


def _plain(values: xr.DataArray) -> xr.DataArray:
    return values.drop_vars(("bits", "slice_bits", "shift_bits", "part"), errors="ignore")


def _span(values: xr.DataArray, dim: str) -> xr.DataArray:
    medians = values.median("seed")
    return medians.max(dim) - medians.min(dim)


def rules() -> list[tuple[str, dict[str, float], float | None]]:
    """Return every boundary-aware stopping rule: its name, each measure's limit, and the band's share if it has one."""
    limits = stopping.LIMITS
    shares = (0.2, 0.15, 0.1)
    out = [(f"jaccard ≤ {j:g}", {"jaccard": j}, None) for j in limits["jaccard"]]
    for share in shares:
        out += [(f"flips ≤ {b:g} in a band of {share:.0%}", {"band": b}, share) for b in limits["band flips"]]
        out += [
            (f"jaccard ≤ {j:g}, flips ≤ {b:g} in a band of {share:.0%}", {"jaccard": j, "band": b}, share)
            for j, b in product(limits["jaccard"], limits["band flips"])
        ]
    return out


def _stopped(many: xr.Dataset) -> dict[str, Measured]:
    """Return what is held out at the bits that each rule chooses by calibration data alone."""
    choices = ("width", "epochs", "scale", "scheme", "granularity", "seed")
    own = tuple(axis for axis in choices if axis in many.stopping_loss.dims)
    order = (*own, "nodes", "mask", "bits")
    jaccard = many.stopping_jaccard.rename(stopping_nodes="nodes").transpose("part", *order)
    flips, lost = (many[name].transpose("part", *own, "bits") for name in ("stopping_flip_rate", "stopping_loss"))
    band = many.stopping_band_flip_rate.transpose("part", "share", *own, "bits")
    seen, held_out = ({"part": part} for part in ("calibration", "held-out"))
    by_accuracy = [
        chosen([lost.sel(seen).values], [limit], path) for limit, path in product(stopping.LIMITS["accuracy"], PATHS)
    ]
    arrays = {("jaccard", share): jaccard.sel(seen).values for share in (None, *band.share.values)}
    for share, flipped in zip(band.share.values, band.sel(seen).values):
        arrays["band", share] = np.broadcast_to(flipped[..., None, None, :], jaccard.shape[1:])  # on any grid and mask
    aware = [
        chosen([arrays[key, share] for key in limits], list(limits.values()), path)
        for (_, limits, share), path in product(rules(), PATHS)
    ]
    drops, names = list(stopping.LIMITS["accuracy"]), [name for name, *_ in rules()]
    flips_too = flips.expand_dims(nodes=jaccard.nodes, mask=jaccard.mask).transpose("part", *order)
    wide = [level[..., None, None] for level in by_accuracy]
    return {
        "S1": Measured(at(flips.sel(held_out), by_accuracy, "drop", drops), _span(flips.sel(held_out), "bits")),
        "S3": Measured(at(jaccard.sel(held_out), wide, "drop", drops), _span(jaccard.sel(held_out), "bits")),
        "S2": Measured(at(flips_too.sel(held_out), aware, "rule", names), _span(flips.sel(held_out), "bits")),
        "S4": Measured(at(jaccard.sel(held_out), aware, "rule", names), _span(jaccard.sel(held_out), "bits")),
    }


def chosen(measures: list[np.ndarray], limits: list[float], path: str) -> np.ndarray:
    """
    Return the index of the level chosen: the last before a limit is first passed, or the last that passes none.

    Rates that were kept in float32 are rounded to seven digits, so that 6 of 120 is 0.05 and passes no limit of 0.05.
    """
    measures = [one if one.dtype == np.float64 else one.astype(np.float64).round(7) for one in measures]
    if path == PATHS[0]:
        return bit_selection.last_before(measures, limits).level
    fits = np.logical_and.reduce([one <= limit + 1e-12 for one, limit in zip(measures, limits)])
    return np.where(fits.any(axis=-1), fits.shape[-1] - 1 - fits[..., ::-1].argmax(axis=-1), 0)


def at(values: xr.DataArray, choices: list[np.ndarray], axis: str, labels: list) -> xr.DataArray:
    """Return *values* (..., bits) at the level of each choice, along *axis* and ``path``."""
    whole, dims = values.values, values.dims[:-1]
    rows = [
        np.take_along_axis(whole, np.broadcast_to(level, whole.shape[:-1])[..., None], axis=-1)[..., 0]
        for level in choices
    ]
    coordinates = {axis: labels, "path": list(PATHS), **{dim: values[dim] for dim in dims}}
    stacked = np.stack(rows).reshape(len(labels), len(PATHS), *whole.shape[:-1])
    return xr.DataArray(stacked, coordinates, (axis, "path", *dims))


def judge(many: xr.Dataset, claims: list[dict], rule: dict) -> dict[str, xr.Dataset]:
    """
    Judge each of *claims* that the multiverse covers in every specification, by level and too_wide of *rule*.

    Along the claim's axes: ``estimate``, ``low``, ``high``; ``inside``, whether the reported number lies within (for
    directions, whether it is not refuted); ``holds``, whether it does and the interval is not too wide.
    """
    if many.sizes["seed"] < 2:
        raise ValueError("The multiverse has 1 seed: an interval needs two networks of each kind at least.")
    found_of, out = measured(many), {}
    for claim in claims:
        claim, name = claim | (claim.get("first_rule") or {}), claim["id"]
        if name not in found_of:
            continue
        values, span = found_of[name]
        if name == "J1":  # undefined where nothing reconfigures, and does not hold there
            out[name] = _judge_most(many, values, claim["most"], rule["level"])
            continue
        if name == "J1-chance":
            found = interval(values, np.inf, rule["level"])
            out[name] = found.assign(inside=found.high > 0, holds=found.low > 0)
            continue
        check_finite(f"The measures of {name}", values.values, "leave out the reading that has none")
        if claim["kind"] == "direction":
            found = interval(values, np.inf, rule["level"])
            out[name] = found.assign(inside=found.high > 0, holds=found.low > 0)
            continue
        found = interval(values, claim["means_of"], rule["level"])
        if name in _SHARES:
            found = found.assign(low=found.low.clip(min=0), high=found.high.clip(max=1))
        inside = (found.low <= claim["reported"]) & (claim["reported"] <= found.high)
        narrow = found.high - found.low <= rule["too_wide"] * span
        out[name] = found.assign(inside=inside, holds=inside & narrow)
    return out


def interval(values: xr.DataArray, means_of: float, level: float) -> xr.Dataset:
    """
    Return Student's prediction interval over ``seed`` of the mean of *means_of* networks in each specification.

    The mean of infinitely many is the true one: this is its confidence interval.
    """
    n = values.sizes["seed"]
    values = values.astype(np.float64)
    mean = values.mean("seed")
    half = scipy_stats.t.isf((1 - level) / 2, n - 1) * values.std("seed", ddof=1) * np.sqrt(1 / means_of + 1 / n)
    return xr.Dataset({"estimate": mean, "low": mean - half, "high": mean + half})


def _judge_most(many: xr.Dataset, excess: xr.DataArray, most: float, level: float) -> xr.Dataset:
    """Judge a direction that must also hold for most, as the ledger does."""
    share = interval(many.share_near, 1, level)
    found = interval(excess, np.inf, level)
    inside = (found.high > 0) & (share.high >= most)
    return found.assign(inside=inside, holds=inside & (found.low > 0) & (share.low > most))


def flags(found: xr.Dataset, kind: str = "holds") -> xr.DataArray:
    """Return in which specifications a claim "holds" or is "inside": 1, 0, or NaN where nothing was measured."""
    return found[kind].where(found.there) if "there" in found else found[kind]


def shares(judged: dict[str, xr.Dataset], kind: str = "holds") -> dict[str, float]:
    """Return the share of specifications in which each claim holds, or is inside, of those that were measured."""
    return {name: float(flags(found, kind).mean()) for name, found in judged.items()}


def variance_split(values: xr.DataArray) -> dict[str, float]:
    """
    Split the variance of a measure over a full cross of choices and ``seed`` into fractions that sum to 1.

    They are the main effect of each axis, all "interactions", and "networks": the seeds of one specification.
    """
    values = values.astype(np.float64)
    check_finite("The measure", values.values, "leave out the reading that has none")
    total = float(((values - values.mean()) ** 2).mean())
    if total == 0:
        raise ValueError(f"The {values.size} values are all equal: there is no variance to split.")
    axes = [dim for dim in values.dims if dim != "seed"]
    means = values.mean("seed")
    out = {axis: float(means.mean([a for a in axes if a != axis]).var()) / total for axis in axes}
    out["interactions"] = max(0.0, float(means.var()) / total - sum(out.values()))
    out["networks"] = float(((values - means) ** 2).mean()) / total
    return out


def by_choice(flags: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return, for each axis, the share of *flags* at each of its values."""
    return {axis: flags.mean([a for a in flags.dims if a != axis]) for axis in flags.dims}


def region(judged: dict[str, xr.Dataset], kind: str = "inside", without: str | None = None) -> xr.DataArray:
    """
    Return the agreeing region: for each cell, the share of the remaining choices for which all numbers agree at once.

    One network and quantizer, one grid and one mask stand for all tables of a study (:data:`SHARED`; the split is that
    of the first tables, stopping needs three parts). What remains is free: plane, how the shift is read, what is
    counted in which three transitions in descending order, and the stopping rules. *kind* is what agreeing means,
    "inside" or "holds"; the number *without* need not agree.
    """
    missing = [name for name in NUMBERS if name not in judged]
    if missing:
        raise ValueError(f"{', '.join(missing)} are not judged: the region is where all numbers on digits agree.")
    agrees = {name: judged[name][kind] for name in NUMBERS}
    if without is not None:
        agrees[without] = xr.ones_like(agrees[without])
    nodes = agrees["S3"].nodes
    parts = [
        agrees["D1"] & agrees["D3"],
        (agrees["D2"] & agrees["D4"]).sel(nodes=nodes).mean("plane"),
        agrees["D5"].mean(["place", "gradient", "pair"]),
        _three_transitions(*(agrees[name] for name in ("J2", "J3", "J4")), nodes),
        (agrees["S1"] & agrees["S3"]).mean(["drop", "path"]),
        (agrees["S2"] & agrees["S4"]).mean(["rule", "path"]),
    ]
    return math.prod(parts[1:], start=parts[0].astype(np.float64)).transpose(*SHARED)


def _three_transitions(first: xr.DataArray, second: xr.DataArray, third: xr.DataArray, nodes) -> xr.DataArray:
    """Return the share of counts, steps and three transitions in order that agree, by nodes."""
    triples = list(combinations(range(first.sizes["transition"]), 3))
    flags = (first, second, third)
    together = sum(
        np.logical_and.reduce([flag.isel(transition=i).values for flag, i in zip(flags, triple)]).astype(float)
        for triple in triples
    )
    share = first.isel(transition=0, drop=True).astype(np.float64).copy(data=together / len(triples))
    share = share.mean(["count", "summary"])
    grids = [str(name).partition(" ")[0] for name in share.grid.values]
    of_nodes = [share.isel(grid=[i for i, n in enumerate(grids) if n == str(int(size))]).mean("grid") for size in nodes]
    return xr.concat(of_nodes, xr.Variable("nodes", nodes.values))


def region_size(found: xr.DataArray) -> dict[str, float]:
    """Return the size of a region: cells in it, cells in all, and the share of all full specifications."""
    return {"cells": int((found > 0).sum()), "of": found.size, "share": float(found.mean())}
