"""
The multiverse as data for the page where a reader measures otherwise: what each network gave, the choices, the claims.

The page judges a specification itself, as :mod:`studies.multiverse.judging` and :mod:`studies.multiverse.cifar_claims`
do, and has every measure exactly: as a whole number over a common denominator.
"""

import json
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from . import claims, correlations, explorer, published, specs, stopping
from .multiverse import cifar_claims, judging

SETS = ("digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10")
_LARGEST = 2**20  # of the denominators that are tried: rates have numbers of inputs, distances 2^14
_LOADED = "bqMultiverses"  # the global that a script adds its data set to


def script(
    dataset: str, titles: dict[str, str], rule: dict, stated: list[dict], folder: str | Path = published.PUBLISHED
) -> bytes:
    """
    Write the multiverse of *dataset* as a script, which a page opened as a file can load.

    *titles* name the axes; *rule* and *stated*, of :func:`studies.claims.load_claims`, are what is judged, and how.
    Each array is described by its axes, and all follow each other in ``bytes``, :func:`studies.explorer.packed`.
    """
    arrays = measures(dataset, folder)
    described, parts = {}, []
    for name, values in arrays.items():
        about, codes = encoded(values)
        described[name] = {"dims": [[dim, values[dim].values.tolist()] for dim in values.dims], **about}
        parts.append(codes)
    counts = {values.sizes["seed"] for values in arrays.values()}
    content = {
        "axes": axes(dataset, arrays, titles, rule["spare"], folder), "arrays": described, "claims": _claims(stated),
        "rules": [{"limits": limits, "band": _band(band)} for _, limits, band in _rules(dataset)],
        "quantile": {n: scipy_stats.t.isf((1 - rule["level"]) / 2, n - 1) for n in counts}, "tooWide": rule["too_wide"],
        "bytes": explorer.packed(b"".join(parts)),
    }  # fmt: skip
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return f"(window.{_LOADED} = window.{_LOADED} || {{}})[{json.dumps(dataset)}] = {text};\n".encode()


def measures(dataset: str, folder: str | Path = published.PUBLISHED) -> dict[str, xr.DataArray]:
    """Return all arrays that the claims of *dataset* are judged by, ``seed`` last."""
    if dataset in published.MULTIVERSES:
        many = published.load_published(published.MULTIVERSES[dataset], folder)
        found = {str(name): _on_nodes(values) for name, values in many.data_vars.items()}
    else:
        many = published.load_published(f"{dataset}_readings.nc", folder)
        names = ("accuracy_lost", "flip_rate", "band_flip_rate", "boundary_jaccard")
        found = {name: many[name] for name in names}
    if dataset == "full-cifar-10":  # of F1 to F3 what is held out, of K1 and K2 both slices
        found = {name: _held_out(values) for name, values in found.items()}
        found["boundary_jaccard"] = found["boundary_jaccard"].isel(plane=slice(2))
        rounded = published.load_published("full-cifar-10_roundings.nc", folder)
        for kind, part in zip(("plain", "gap"), cifar_claims.split_by_gap(rounded)):
            found |= {f"{kind} {name}": _held_out(part[name]) for name in (*names, "band_pair_order_flip_rate")}
    return {name: values.transpose(..., "seed") for name, values in found.items()}


def _on_nodes(values: xr.DataArray) -> xr.DataArray:
    return values.rename(stopping_nodes="nodes") if "stopping_nodes" in values.dims else values


def _held_out(values: xr.DataArray) -> xr.DataArray:
    return values.sel(split="held-out", drop=True) if "split" in values.dims else values


def encoded(values: xr.DataArray) -> tuple[dict, bytes]:
    """
    Return an array's ``scale``, ``least``, ``planes`` and ``single``, and its codes: planes of bytes, the lowest first.

    A value is its code and ``least`` over ``scale``; the largest code, ``missing``, is NaN. ``single`` says that the
    quotient is rounded to a float32.
    """
    array = values.values
    there = np.isfinite(array)
    scale = denominator(array[there])
    whole = np.rint(array[there].astype(np.float64) * scale).astype(np.int64)
    least, missing = int(whole.min()), int(np.ptp(whole)) + 1
    codes = np.full(array.shape, missing, "<u4")
    codes[there] = whole - least
    planes = max(1, (missing.bit_length() + 7) // 8)
    about = {"scale": scale, "least": least, "missing": missing, "planes": planes, "single": array.dtype == np.float32}
    return about, codes.reshape(-1, 1).view(np.uint8)[:, :planes].T.tobytes()


def denominator(values: np.ndarray) -> int:
    """
    Return the smallest whole number that makes all of *values* whole, up to their rounding.

    >>> denominator(np.array([0.5, 1 / 3, 0.0], np.float32))
    6
    """
    different = np.unique(values).astype(np.float64)
    error = 2.0**-24 if values.dtype == np.float32 else 2.0**-50

    def whole(some, scales):
        times = some * scales
        return np.abs(times - np.rint(times)) <= error * np.maximum(np.abs(times), scales)

    found = np.arange(1, _LARGEST + 1)
    for value in different[:: len(different) // 50 + 1]:  # most are out by a few values
        found = found[whole(value, found)]
    for scale in found:
        if whole(different, scale).all():
            return int(scale)
    raise ValueError(f"The {len(different)} values are no fractions of one denominator up to {_LARGEST}: round them.")


def axes(
    dataset: str,
    arrays: dict[str, xr.DataArray],
    titles: dict[str, str],
    spare: float,
    folder: str | Path = published.PUBLISHED,
) -> dict[str, dict]:
    """Return the choices of *dataset*, in the order of *titles*: title, values, and which is the baseline's."""
    values: dict[str, list] = {}
    for array in arrays.values():
        for dim in set(array.dims) & set(titles):
            values.setdefault(dim, []).extend(v for v in array[dim].values.tolist() if v not in values.get(dim, []))
    if dataset != "full-cifar-10":
        values |= {"drop": list(stopping.LIMITS["accuracy"]), "path": list(judging.PATHS)}
        values["rule"] = [name for name, *_ in _rules(dataset)]
    usual = baseline(dataset, values, spare, folder)
    return {
        axis: {"title": title, "values": values[axis], "baseline": values[axis].index(usual.get(axis, values[axis][0]))}
        for axis, title in titles.items()
        if axis in values
    }


def baseline(
    dataset: str, values: dict[str, list], spare: float, folder: str | Path = published.PUBLISHED
) -> dict[str, float | str]:
    """
    Return the baseline's choice, or the nearest, where it is not the first of an axis's *values*.

    The limit of its stopping rule is that which the ledger takes: calibration data pick it by *spare*.
    """
    results, study = claims.Results(folder), "levels" if dataset == "digits" else "stopping"
    nodes = specs.baseline(study, dataset).nodes[0]
    out = {"nodes": min(values["nodes"], key=lambda n: abs(n - nodes)), "summary": "union"}
    if dataset == "full-cifar-10":
        rounding = specs.baseline("rounding", dataset)
        gap = correlations.chosen_gap(results.load(published.name_of(rounding)), 4)
        out |= {"method": "logits", "eta": float(gap.removeprefix("gap "))}
        steps = min(values["optimization_steps"], key=lambda n: abs(n - rounding.steps))
        return out | {"optimization_steps": steps, "examples": rounding.examples}
    usual = stopping.usual_limit(results.choices(f"{dataset}_stopping.nc"), "jaccard", spare)
    return out | {"rule": f"jaccard ≤ {float(usual.limit):g}"}


def _rules(dataset: str) -> list[tuple]:
    return judging.rules() if dataset in published.MULTIVERSES else cifar_claims.rules()


def _band(band: tuple | float | None) -> dict:
    """Return what names the band that a rule looks at."""
    if isinstance(band, tuple):
        return dict(zip(("nearness", "share"), band))
    return {} if band is None else {"share": band}


def _claims(stated: list[dict]) -> dict[str, dict]:
    """Return what each attempted claim says and is judged by, as the multiverse takes it: by the first rule."""
    out = {}
    for claim in stated:
        if "not_attempted" not in claim:
            kept = ("reported", "kind", "means_of", "bound", "bound_of", "together")
            out[claim["id"]] = {key: claim[key] for key in kept if key in claim}
            out[claim["id"]] |= {"short": claim.get("short", claim["says"])}
            out[claim["id"]] |= {"most": (claim.get("first_rule") or {}).get("most")}
    return out
