"""The study of Table 6: what rounding to nearest, optimized rounding and the boundary-gap term move at fixed bits."""

import numpy as np
import xarray as xr
from torch import nn

from bqcore.quantizers import adaround, batchnorm, uniform

from . import measures, training
from .data import splits
from .specs import FLOAT, Rounding
from .sweeps import Study


def measure(spec: Rounding, split: splits.StoppingSplit, model: nn.Module) -> xr.Dataset:
    """
    Round the trained *model* in every way at each bit-width, and measure all on both splits as in the stopping study.

    Batch norms are folded first, so that all weights that run are rounded. Nothing but calibration inputs is learned
    from. Along ``method`` are "float", "nearest", optimized rounding by "layers" and from there on the "logits", and
    the latter with "gap η" for each η above 0.
    """
    reference = reference_of(model)
    rounded = {bits: rounded_models(spec, reference, split, bits) for bits in spec.bits}
    made = [(bits, name, *pair) for bits, by_name in rounded.items() for name, pair in by_name.items()]
    # All at once, numbered, so that what is measured of the float classifier alone is measured once.
    levels = {FLOAT: reference} | {FLOAT + i: candidate for i, (_, _, candidate, _) in enumerate(made, 1)}
    found = measures.on_both_splits(levels, split, spec).rename(bits="method")
    shares = [(0.0, 0.0), *(_shares(record) for *_, record in made)]
    found["changed_weights"], found["undecided_gates"] = (("method", list(column)) for column in zip(*shares))
    parts = []
    for bits, by_name in rounded.items():
        rows = [0, *(i for i, (of, *_) in enumerate(made, 1) if of == bits)]
        parts.append(found.isel(method=rows).assign_coords(method=["float", *by_name]))
    return xr.concat(parts, xr.Variable("bits", list(rounded)))


def reference_of(model: nn.Module) -> nn.Module:
    """Return what roundings of *model* start from: a copy with its batch norms folded, in the quicker memory layout."""
    folded = batchnorm.fold_batchnorm(model)
    return folded.to(memory_format=training.memory_layout(folded))


def rounded_models(
    spec: Rounding, reference: nn.Module, split: splits.StoppingSplit, bits: int
) -> dict[str, tuple[nn.Module, adaround.Record | None]]:
    """Return *reference* rounded in every way that *spec* asks for, by method, with the record of what was learned."""
    grid = {"scheme": spec.scheme, "granularity": spec.granularity}
    inputs = split.calibration_inputs[: spec.examples]
    learned = {"seed": spec.seed, "fraction": spec.share, "steps": spec.steps, **grid}
    by_layer, record = adaround.optimize_rounding(reference, inputs, bits, **learned)
    out = {"nearest": (uniform.quantize_model(reference, bits, **grid), None), "layers": (by_layer, record)}
    learned |= {"on": "logits", "start": by_layer}
    for gap in spec.gaps:
        out[method_at(gap)] = adaround.optimize_rounding(reference, inputs, bits, gap=gap, **learned)
    return out


def eta_of(method: str) -> float:
    """
    Return the weight η of the gap term in a rounding: 0 on the logits without it, NaN where the logits have no part.
    This is the one place where the names of result files, "gap 0.1" for η = 0.1, are read.
    """
    weight = method.removeprefix("gap ")
    return 0.0 if method == "logits" else float(weight) if weight != method else np.nan


def gap_methods(many: xr.Dataset) -> dict[str, float]:
    """Return the roundings of joined runs that have the gap term, in their order, with their weights η."""
    weights = {method: eta_of(method) for method in many["method"].values.tolist()}
    return {method: eta for method, eta in weights.items() if eta > 0}


def method_at(eta: float) -> str:
    """Return the name of the rounding on the logits with weight η of the gap term."""
    return f"gap {eta:g}" if eta else "logits"


def _shares(record: adaround.Record | None) -> tuple[float, float]:
    """Return the shares of weights that are not at the nearest grid point, and of gates that were not decided."""
    if record is None:
        return 0.0, 0.0
    free = max(1, sum(record.free.values()))
    return sum(record.changed.values()) / free, sum(record.undecided.values()) / free


STUDY = Study(measure)
