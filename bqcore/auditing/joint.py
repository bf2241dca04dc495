"""Weights and activations rounded together, and which of the two a flip is due to."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import xarray as xr
from torch import nn

from ..quantizers.activations import Activated, activated
from ..quantizers.mixed_precision import Mixed
from . import adapters, batching
from .streaming import TITLES, Decided

ACTIVATIONS = "rounded activations"
CAUSES = ("weights", "activations", "either", "together")


def rounding(
    model: nn.Module, calibration, kind: str, *, bits: int, percentile: float, batch_size: int | None,
    skip: str | Iterable[str] = (),
) -> Callable[[nn.Module], Activated]:  # fmt: skip
    """Return what puts rounded activations into a module or the same with other weights, fitted on *calibration*."""
    if kind == "static" and isinstance(calibration, Iterator):
        raise ValueError(
            f"The calibration split is a {type(calibration).__name__}, which can be gone through once, and static "
            "activations go twice: give a list of its batches, a loader, or a function that gives them anew."
        )

    def given():
        for batch in batching.batches(calibration, TITLES["calibration"], batch_size):
            yield adapters.tensors(adapters.own(batch.inputs), model)

    first = activated(model, given(), bits=bits, kind=kind, percentile=percentile, skip=skip)

    def rounded(other: nn.Module) -> Activated:
        layers = other.model if isinstance(other, Mixed) else other
        return Activated(other, first.ranges, bits=bits, of=layers, skip=skip)

    return rounded


def causes(both: list[Decided], weights: list[Decided], activations: Decided, dim: str) -> xr.DataArray:
    """Count the flips of *both* rounded, along *dim* and ``cause``, by which of the two alone flips the sample too."""
    counts = []
    for one, by_weights in zip(both, weights):
        flips = one.flipped()
        w, a = by_weights.flipped()[flips], activations.flipped()[flips]
        counts.append([(w & ~a).sum(), (a & ~w).sum(), (w & a).sum(), (~w & ~a).sum()])
    return xr.DataArray(np.array(counts), {"cause": list(CAUSES)}, (dim, "cause"))


def sentence(found: xr.Dataset, bits: int, kind: str, activation_bits: int) -> str:
    """Say what the held-out flips at some *bits* are due to, with a space before it."""
    held = found.flips_by.sel(split="heldout", bits=bits)
    w, a, either, together = (int(held.sel(cause=cause)) for cause in CAUSES)
    start = f" Activations have {activation_bits} bits ({kind})"
    if not w + a + either + together:
        return f"{start}."
    return (
        f"{start}: of {w + a + either + together} held-out flips at {bits} bits, {w} are due to the weights alone, {a} "
        f"to the activations alone, {either} to either, and {together} to both together only."
    )
