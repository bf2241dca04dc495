"""The study of Tables 3 and 4: every level on calibration and held-out inputs, and what each stopping rule chooses."""

from itertools import product

import numpy as np
import xarray as xr
from torch import nn

from bqcore.quantizers import bit_selection, uniform

from . import measures, specs
from .data import splits
from .settings import text
from .specs import FLOAT, Stopping
from .sweeps import JOINED, Study

SPLITS = measures.SPLITS
# Fixed before the runs. An accuracy drop of 0 is the paper's "chosen by accuracy", one of 0.01 is NNCF's default limit.
LIMITS = {
    "accuracy": (0.0, 0.005, 0.01, 0.02), "flips": (0.0025, 0.005, 0.01, 0.02), "band flips": (0.01, 0.02, 0.05, 0.1),
    "jaccard": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "beyond τ": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),  # not the paper's, and in no claim
}  # fmt: skip
BOUNDARY_AWARE = ("jaccard", "band flips", "jaccard and band flips")
_CROSSED = {"jaccard and band flips": ("jaccard", "band flips")}  # rules with a limit on each of two measures


def parts(rule: str) -> tuple[str, ...]:
    """Return the rules that a rule is made of, each with a limit of its own: most are made of one."""
    return _CROSSED.get(rule, (rule,))


def measure(spec: Stopping, split: splits.StoppingSplit, model: nn.Module) -> xr.Dataset:
    """Quantize the trained *model* and measure every level on both splits, each with the slice fitted on itself."""
    levels = {FLOAT: model} | uniform.levels_of(model, spec.bits, scheme=spec.scheme, granularity=spec.granularity)
    out = measures.on_both_splits(levels, split, spec)
    sizes = [uniform.model_bytes(model, bits, granularity=spec.granularity) for bits in levels]
    return out.assign(model_bytes=("bits", sizes))


STUDY = Study(measure)


def sweep_variants(dataset: str, seeds: int | None = None, *, workers: int | None = None) -> xr.Dataset:
    """Sweep the study's baseline on a data set and each of its variants, joined along ``variant``."""
    asked = specs.variants(dataset)
    found = [STUDY.sweep(spec, seeds or specs.VARIANT_SEEDS[dataset], workers=workers) for spec in asked]
    names = ["baseline", *(f"{k}={text(v)}" for changed in specs.VARIANTS[dataset] for k, v in changed.items())]
    return xr.concat(found, xr.Variable("variant", names), **JOINED).assign_attrs(
        title=f"Boundary-aware quantization: variants of stopping on {dataset}", spec=asked[0].text(),
        command=f"python -m studies run stopping {dataset} --variants",
    )  # fmt: skip


def choose(many: xr.Dataset, limits: dict[str, tuple[float, ...]] = LIMITS) -> xr.Dataset:
    """
    Apply every rule at every limit to every run, by its calibration measures alone, and give what is held out there.

    Along ``choice`` (with ``rule``, ``limit`` and ``second_limit``, of rules that cross two) and ``seed``:
    ``chosen_bits``, ``fallback``, and every measure of the study at the level chosen, on both splits.
    """
    order = [bits for bits in many.bits.values.tolist() if bits != FLOAT]
    calibration = many.sel(split="calibration")  # nothing else of the runs reaches a choice
    seen = {rule: _seen(calibration, order, rule) for rule in limits}
    crossed = [(rule, given) for rule, both in _CROSSED.items() for given in product(*(limits[part] for part in both))]
    rules = [(rule, (limit,)) for rule, given in limits.items() for limit in given] + crossed
    found = [bit_selection.last_before([seen[part].values for part in parts(rule)], given) for rule, given in rules]
    bits = np.array(order)[[choice.level for choice in found]]
    levels = xr.DataArray(bits, dims=("choice", "seed"), coords={"seed": many.seed})
    fallback = ("choice", "seed"), [choice.fallback for choice in found]
    # All choices at once: one by one takes many times as long.
    out = many.sel(bits=levels).drop_vars("bits").assign(chosen_bits=levels, fallback=fallback)
    return out.transpose("choice", "seed", ...).assign_coords(
        rule=("choice", [rule for rule, _ in rules]),
        limit=("choice", [given[0] for _, given in rules]),
        second_limit=("choice", [given[-1] if len(given) > 1 else np.nan for _, given in rules]),
    )


def _seen(calibration: xr.Dataset, order: list[int], rule: str) -> xr.DataArray:
    """Return what a rule looks at, along ``seed`` and the levels in *order*."""
    levels = calibration.sel(bits=order).transpose("seed", "bits", ...)
    if rule == "accuracy":
        return calibration.accuracy.sel(bits=FLOAT) - levels.accuracy
    if rule == "jaccard":
        return levels.boundary_jaccard.isel(nodes=0)
    if rule == "beyond τ":
        return levels.tolerance_jaccard.sel(tau=measures.usual_tolerance(levels.tolerance_jaccard))
    return {"flips": levels.flip_rate, "band flips": levels.band_flip_rate}[rule]


def usual_limit(choices: xr.Dataset, rule: str, share: float = 0.5) -> xr.Dataset:
    """
    Return a rule's choices, of :func:`choose`, at one limit, picked by calibration data: the loosest whose mean
    calibration flip rate is at most *share* of what the choice by accuracy has.
    """
    flips = choices.flip_rate.sel(split="calibration").mean("seed")
    by_accuracy = float(flips[(choices.rule == "accuracy") & (choices.limit == 0.0)].item())
    of_rule = np.flatnonzero(choices.rule.values == rule)
    limits = choices.limit.values[of_rule]
    picked = bit_selection.loosest(flips.values[of_rule], limits, share * by_accuracy)
    return choices.isel(choice=int(of_rule[picked]))


def at_equal_bits(many: xr.Dataset, choices: xr.Dataset, measure: str, split: str = "held-out") -> xr.DataArray:
    """
    Return *measure* per seed for networks that all have the same bits, on average as many as each choice has.

    Where that average lies between two levels, a share of the networks has the one and the rest the other.
    """
    values = many[measure].sel(split=split)
    levels = values.sel(bits=sorted(bits for bits in many.bits.values.tolist() if bits != FLOAT))
    return levels.interp(bits=choices.chosen_bits.mean("seed")).drop_vars("bits")
