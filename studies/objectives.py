"""
The study of rounding objectives: which keeps more decisions near the boundary than the paper's, at the same bytes?

Every way of :mod:`bqcore.quantizers.objectives` is learned from the same calibration inputs and judged on held-out
ones, against plain optimized rounding. What was fixed before the runs stands here as constants.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import check_choice
from bqcore.metrics import decisions, statistics
from bqcore.quantizers import batchnorm, gptq, learned_steps, objectives, uniform
from bqcore.quantizers.objectives import OBJECTIVES, PLAIN, Learned

from . import measures
from .data import splits
from .specs import FLOAT, Objectives
from .sweeps import Study

# The one setting of each objective but the plain one, fixed before the runs. Of a term: its size at rounding to nearest
# as a multiple of the plain error there, so that one grid fits all terms and data sets. "weighted": the rate at which
# weights fall with the margin.
STRENGTHS = (0.3, 3.0)
WITH_STEP = (PLAIN, "kl")  # objectives that are also tried with learned step sizes
BASELINES_OF = ("nearest", "gptq", "step", "layers")  # methods without an objective of the study
_KEPT_APART = 0.25  # least share of the calibration inputs that strengths are chosen on


def rounded_models(
    spec: Objectives, reference: nn.Module, inputs: torch.Tensor, bits: int
) -> dict[str, tuple[nn.Module, Learned | None]]:
    """Return *reference* rounded in every way of the study, by method, with the record of what was learned by gates."""
    how = {"scheme": spec.scheme, "steps": spec.steps}
    stepped, sizes = learned_steps.learn_steps(reference, inputs, bits, seed=spec.seed, **how)
    # All objectives start from the rounding by layers on their grids, as the study of Table 6 does: from the float
    # weights too many gates of deep networks stay undecided.
    starts = {None: objectives.by_layer(reference, inputs, bits, **how)}
    starts["step"] = objectives.by_layer(reference, inputs, bits, step_sizes=sizes, **how)
    out = {
        "nearest": (uniform.quantize_model(reference, bits, scheme=spec.scheme), None),
        "gptq": (gptq.gptq(reference, inputs, bits, scheme=spec.scheme), None),
        "step": (stepped, None), "layers": (starts[None], None),
    }  # fmt: skip
    for method, objective, strength, with_step in methods():
        out[method] = objectives.learn(
            reference, inputs, bits, objective, strength=strength, seed=spec.seed, fraction=spec.share,
            step_sizes=sizes if with_step else None, start=starts["step" if with_step else None], **how,
        )  # fmt: skip
    return out


def methods() -> list[tuple[str, str, float, bool]]:
    """Return name, objective, strength and "step sizes are learned too" of every method with gates."""
    out = []
    for names, with_step in ((OBJECTIVES, False), (WITH_STEP, True)):
        for objective in names:
            family = f"{objective}, step" if with_step else objective
            for strength in (0.0,) if objective == PLAIN else STRENGTHS:
                out.append((f"{family} {strength:g}" if strength else family, objective, strength, with_step))
    return out


def families() -> list[str]:
    """Return the names of what is compared: the methods without gates, and each objective at its chosen strength."""
    return [*BASELINES_OF, *dict.fromkeys(family_of(method) for method, *_ in methods())]


def family_of(method: str) -> str:
    """Return the objective of a method, at whatever strength; a method without gates stands for itself."""
    found = {name: f"{objective}, step" if with_step else objective for name, objective, _, with_step in methods()}
    return found.get(method, method)


def measure(spec: Objectives, split: splits.StoppingSplit, model: nn.Module) -> xr.Dataset:
    """
    Round the trained *model* in every way, along ``method``, and measure all on both splits as the stopping study does.

    The first calibration inputs are learned from; ``choosing_band_flips`` is of the others, for :func:`chosen`.
    """
    reference = batchnorm.fold_batchnorm(model)
    first = min(spec.examples, math.floor((1 - _KEPT_APART) * len(split.calibration_inputs)))
    inputs, apart = split.calibration_inputs[:first], split.calibration_inputs[first:]
    parts = []
    for bits in spec.bits:
        made = {"float": (reference, None), **rounded_models(spec, reference, inputs, bits)}
        levels = {FLOAT if name == "float" else i: of for i, (name, (of, _)) in enumerate(made.items())}
        found = measures.on_both_splits(levels, split, spec).rename(bits="method")
        logits = measures.logits_of(levels, apart)
        flips = [decisions.band_flip_rate(logits[FLOAT], q, spec.share) for q in logits.values()]
        records = [record for _, record in made.values()]
        parts.append(found.assign_coords(method=list(made)).assign(
            choosing_band_flips=("method", flips),
            undecided_gates=("method", [r.undecided / max(1, r.free) if r else 0.0 for r in records]),
            term_weight=("method", [r.weight if r else 0.0 for r in records]),
            fell_back=("method", [bool(r and r.fell_back) for r in records]),
        ))  # fmt: skip
    return xr.concat(parts, xr.Variable("bits", list(spec.bits)))


STUDY = Study(measure)


def chosen(many: xr.Dataset) -> xr.Dataset:
    """
    Return each objective of runs of one bit-width, along ``family``, at the strength that calibration data choose.

    Each seed's is that of fewest band flips on inputs not learned from, the weaker of equals; NaN if there is none.
    """
    strengths = {method: strength for method, _, strength, _ in methods()}
    parts = []
    for family in families():
        names = [str(name) for name in many.method.values if family_of(str(name)) == family]
        # In a dict: as a keyword, xarray takes "method" for its way of looking up.
        flips = many.choosing_band_flips.sel({"method": names}).transpose("seed", "method").values
        # Weaker ones stand first, and argmin takes the first of equals.
        picked = [names[i] for i in flips.argmin(1)]
        at = many.sel({"method": xr.DataArray(picked, dims="seed", coords={"seed": many.seed})}).drop_vars("method")
        parts.append(at.assign(strength=("seed", [strengths.get(name) or np.nan for name in picked])))
    return xr.concat(parts, xr.Variable("family", families()), coords="minimal", compat="override")


class Comparison(NamedTuple):
    """An objective less plain optimized rounding: paired over seeds, means with intervals."""

    difference: statistics.Interval  # at 95 %
    strict: statistics.Interval  # at 95 % for all families at once (Bonferroni)
    detectable: float  # smallest difference that the seeds would have seen four times in five, at 95 %


def compare(values: xr.DataArray, family: str) -> Comparison:
    """Compare a family's *values*, a measure of :func:`chosen`, with plain optimized rounding's, paired over seeds."""
    check_choice("Family", family, tuple(families()))
    ours, plain = (values.sel(family=name).values for name in (family, PLAIN))
    others = len(families()) - 1
    return Comparison(
        statistics.paired_difference(ours, plain), statistics.paired_difference(ours, plain, 1 - 0.05 / others),
        statistics.detectable_difference(ours, plain),
    )  # fmt: skip
