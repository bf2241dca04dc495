"""
Optimized rounding (AdaRound, Nagel et al. 2020) on the grids of PTQ-W, with the paper's boundary-gap term.

Each weight goes to the grid point below or above it, whichever a learned gate says. The gates are fitted to the float
model's outputs on calibration inputs, without labels; step sizes, biases and normalization layers stay as they are.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .._checks import check_choice, check_integer, check_share
from .._threads import one_thread
from ._gates import Grid, check_inputs, check_number, descend, learn_by_layer, rounding_grids, weights_on, with_weights
from ._layers import logits_of
from .objectives import PLAIN, Task
from .uniform import GRANULARITIES, level_range

TARGETS = ("layers", "logits")


class Record(NamedTuple):
    """How a rounding came about. An error is that of the rounded weights on all calibration inputs, gates at 0 or 1."""

    losses: dict[str, np.ndarray]  # at each step, by layer or of the "logits"
    nearest_errors: dict[str, float]  # squared output error of rounding to nearest: summed over outputs, mean of inputs
    errors: dict[str, float]  # of the result, likewise
    nearest_gap: float  # boundary-gap term without η, in squared input units; NaN if η = 0
    gap: float
    free: dict[str, int]  # weights that lie between two grid points, by layer
    changed: dict[str, int]  # of these, weights that are not at the nearest one
    undecided: dict[str, int]  # of these, gates between 0.01 and 0.99 at the last step, before they were set to 0 or 1
    fell_back: tuple[str, ...]  # where the learned gates ended above nearest rounding or the start, taken instead
    skipped: tuple[str, ...]  # layers left in float
    flat: int  # inputs of the band without a margin gradient, left out of the gap term


def optimize_rounding(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, seed: int, on: str = "layers", start: nn.Module | None = None,
    gap: float = 0.0, fraction: float = 0.2, scheme: str = "narrow", granularity: str = "tensor", steps: int = 1000,
    batch_size: int = 32, learning_rate: float = 0.03, regularization: float = 0.01, unquantizable: str = "refuse",
    progress: str = "",
) -> tuple[nn.Module, Record]:  # fmt: skip
    """
    Copy *model* with its weights rounded down or up by learned gates (AdaRound).

    Minimizes the squared output error plus λ Σ 1 − |2h − 1|^β over the gates h = clip(1.2 σ(V) − 0.1, 0, 1), with
    β from 20 to 2 by half a cosine, after a warm-up of 20 % of the steps without the sum. The output error is summed
    over an output's channels or classes and averaged over inputs (and a convolution's positions). Gates of 0.5 and
    more end at 1, the others at 0. Where that leaves a higher error than rounding to nearest, nearest is taken.

    Layer by layer, in the order in which they run, the float output of each is reconstructed from what the quantized
    layers before it make of its input. The error of a layer is a quadratic form of its weights, found in one pass:
    every step sees all inputs, and the seed does not matter. On the logits, all gates are learned at once on batches,
    from the float weights or from near *start*: deep networks need that, or too many gates stay undecided.

    The boundary-gap term η · mean of (m^q_ab − m^f_ab)² / ‖∇m^f_ab‖² over the calibration band, (a, b) being the float
    top-2 pair, frozen, is added to the loss on the logits; each step takes it from one batch of the band. With η = 0
    nothing of it is computed.

    Batch norms are left as they are: fold them first (:func:`fold_batchnorm`) to quantize the weights that run.

    Parameters
    ----------
    model : torch module, inputs (N, ...) -> logits (N, K)
        Of float32 or float64 weights. It is taken in eval mode, and not changed.
    inputs : float tensor, shape (N, ...); calibration inputs, at least one batch
    bits, scheme, granularity : as in :func:`bqcore.quantizers.uniform.step_size`, whose step sizes these are
    seed : int, of the batches
    on : {"layers", "logits"}
    start : torch module, optional
        *model* rounded on the same grids, for instance layer by layer; only on the logits. Gates start four fifths of
        the way from the float weights to these, and where they end at a higher loss, these are taken.
    gap : float, η, 0 or more; only on the logits
    fraction : float, of the inputs in the low-margin boundary band, in (0, 1]
    steps, batch_size, learning_rate : int, int, float
        Adam's, of each layer or of all on the logits.
    regularization : float
        λ. Where the record has many undecided gates (on the logits at few bits), more of it or more steps helps.
    unquantizable : {"refuse", "skip"}
        What to do with layers that cannot be quantized: other layers with weights; weights that are tied, computed, or
        of 16 bits; layers that do not run, or layer by layer run twice. Skipped ones stay in float. Layers whose
        weights are all equal stay as they are: there is nothing to round.
    progress : str, what a bar with the time left is named; none if empty

    Returns
    -------
    rounded : torch module, in eval mode, every quantized weight at one of its two neighbouring grid points
    record : Record

    Raises
    ------
    ValueError
        If an argument is out of range, inputs are fewer than a batch or not finite, a layer cannot be quantized, the
        band is empty, or a loss is not finite.

    Examples
    --------
    Inputs that always come together: the step is 1, and what one weight loses by going down, the other makes up for.

    >>> import bqcore as bq
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.4, 1.3, 3.0]])})
    >>> bq.quantize(layer.weight, 3)
    tensor([[1., 1., 3.]])
    >>> rounded, record = bq.optimize_rounding(layer, torch.tensor([[1.0, 1.0, 0.0]]).repeat(32, 1), 3, seed=0)
    >>> rounded.weight.tolist(), record.changed, record.free
    ([[2.0, 1.0, 3.0]], {'': 1}, {'': 2})
    """
    check_choice("Target", on, TARGETS)
    check_choice("Unquantizable", unquantizable, ("refuse", "skip"))
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    seed = check_integer("Seed", seed, 0)
    learning_rate = check_number("Learning rate", learning_rate, zero=False)
    regularization = check_number("Regularization", regularization, zero=True)
    gap = check_number("Gap weight", gap, zero=True)
    fraction = check_share("Band fraction", fraction)
    level_range(bits, scheme)
    check_choice("Granularity", granularity, GRANULARITIES)
    if gap and on == "layers":
        raise ValueError(f"Gap weight is {gap:g} layer by layer: margins are of logits, so choose on='logits'.")
    if start is not None and on == "layers":
        raise ValueError("A start is given layer by layer: choose on='logits', or leave it out.")
    inputs = check_inputs(inputs, batch_size)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    inputs = inputs.to(next(reference.parameters(), inputs).device)
    with one_thread():
        grids, skipped = rounding_grids(reference, inputs[:1], bits, scheme, granularity, on, unquantizable)
        rounded = copy.deepcopy(reference)
        total = steps * (len(grids) if on == "layers" else 1)
        with tqdm(total=total, desc=progress, unit="step", disable=not progress) as bar:
            options = {"steps": steps, "learning_rate": learning_rate, "regularization": regularization, "bar": bar}
            if on == "layers":
                found = learn_by_layer(reference, rounded, grids, inputs, **options)
            else:
                begin = None if start is None else weights_on(start, grids)
                task = Task(reference, inputs, "gap" if gap else PLAIN, 0.0, fraction, batch_size, seed)
                task.eta = gap
                found = _on_logits(rounded, grids, task, begin, **options)
    weights = {name: rounded.get_submodule(name).weight for name in grids}
    free = {name: int(grid.span.sum()) for name, grid in grids.items()}
    changed = {name: int((weights[name] != grid.nearest).sum()) for name, grid in grids.items()}
    return with_weights(model, weights), Record(**found, free=free, changed=changed, skipped=skipped)


def _on_logits(
    rounded: nn.Module, grids: dict[str, Grid], task: Task, begin: dict[str, torch.Tensor] | None, **options
) -> dict:
    """Learn all gates at once against the float logits, and put the weights into *rounded*."""
    variables, losses = descend(grids, task.batch_loss, begin, **options)

    def measured(weights: dict[str, torch.Tensor]) -> tuple[float, float]:
        with torch.no_grad():
            for name, weight in weights.items():
                rounded.get_submodule(name).weight.copy_(weight)
            error = float((logits_of(rounded, task.inputs) - task.target).double().square().sum(1).mean())
            return error, float(band.term(logits_of(rounded, band.inputs), slice(None))) if band else math.nan

    band = task.band
    ends = [{name: grid.hard(variables[name]) for name, grid in grids.items()}, *([begin] if begin else [])]
    ends.append({name: grid.nearest for name, grid in grids.items()})
    found = [measured(end) for end in ends]
    totals = [error + (task.eta * gap_left if band else 0) for error, gap_left in found]
    best = totals.index(min(totals))
    (nearest_error, nearest_gap), (error, gap_left) = found[-1], measured(ends[best])
    return {
        "losses": {"logits": losses}, "nearest_errors": {"logits": nearest_error}, "errors": {"logits": error},
        "undecided": {name: grid.undecided(variables[name]) for name, grid in grids.items()},
        "fell_back": ("logits",) if best else (), "nearest_gap": nearest_gap, "gap": gap_left,
        "flat": band.flat if band else 0,
    }  # fmt: skip
