"""
Rivals of optimized rounding and of the paper's term, on the same grids of PTQ-W and the same calibration inputs.

Other objectives on the logits for the gates of :mod:`bqcore.quantizers.adaround`, with the steps fixed or learned
together. None sees a class.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from .._checks import check_choice, check_integer, check_share, to_numpy
from .._threads import one_thread
from ..metrics import decisions
from ..metrics.margins import margin_gradient
from . import _gates
from ._gates import check_inputs, check_number, pair_margin, step_grids, with_weights
from ._layers import logits_of

PLAIN = "mse"
OBJECTIVES = (PLAIN, "gap", "hinge", "weighted", "kl", "band kl", "boundary")
_NEWTON = 5  # steps onto the boundary


class Learned(NamedTuple):
    """How a rounding came about."""

    losses: np.ndarray  # at each step
    weight: float  # η of the extra term; 1 for "kl" at strength 1 means the size of the plain error; 0 if there is none
    nearest: float  # the objective at the nearest grid points, over all learning inputs
    found: float  # and at the result
    steps: dict[str, float]  # step size of each layer
    codes: dict[str, np.ndarray]  # each weight in steps: integers of the bit-width's range
    undecided: int  # gates between 0.01 and 0.99 before they were set to 0 or 1
    free: int  # weights that lie between two grid points
    fell_back: bool  # the learned gates ended above nearest, which was taken


def learn(
    model: nn.Module, inputs: torch.Tensor, bits: int, objective: str = PLAIN, *, strength: float = 0.0, seed: int,
    fraction: float = 0.2, scheme: str = "narrow", steps: int = 500, batch_size: int = 32, learning_rate: float = 0.03,
    regularization: float = 0.01, step_sizes: dict[str, float] | None = None, start: nn.Module | None = None,
) -> tuple[nn.Module, Learned]:  # fmt: skip
    """
    Copy *model* with its weights rounded by gates that are learned under an objective on the logits.

    The loss of a step is one of these on a batch, z being logits, m the float top-2 margin, g its gradient, with the
    gates' regularizer of :func:`bqcore.quantizers.adaround.optimize_rounding`:

    - "mse": Σ (z^q − z^f)², plain optimized rounding.
    - "gap": plus η · mean over the band of ((m^q − m^f) / ‖g‖)², the paper's term.
    - "hinge": plus η · mean over the band of (max(0, m^f − m^q) / ‖g‖)²: only shifts towards the boundary cost.
    - "weighted": the plain error, input by input times exp(−strength · m / median m), of mean 1.
    - "kl": η · KL(softmax z^f ‖ softmax z^q) in place of the plain error.
    - "band kl": the plain error plus η · that KL over the band.
    - "boundary": plus η · the plain error at the band's inputs moved along the normal onto the float boundary.

    η is set such that its term at rounding to nearest is *strength* times the plain error there. With *step_sizes* by
    layer, steps start from these and are learned together with the gates; else they are PTQ-W's, fixed. *start* is
    *model* rounded on the grids that gates start on, as by :func:`by_layer`. Other arguments, what is refused and what
    *start* does are as in :func:`bqcore.quantizers.adaround.optimize_rounding`; batch norms are folded.
    """
    check_choice("Objective", objective, OBJECTIVES)
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    seed, fraction = check_integer("Seed", seed, 0), check_share("Band fraction", fraction)
    strength = check_number("Strength", strength, zero=objective == PLAIN)
    learning_rate = check_number("Learning rate", learning_rate, zero=False)
    regularization = check_number("Regularization", regularization, zero=True)
    inputs = check_inputs(inputs, batch_size)
    with one_thread():
        reference, grids = step_grids(model, inputs, bits, scheme, step_sizes)
        task = Task(reference, inputs, objective, strength, fraction, batch_size, seed)
        task.scale({name: grid.nearest for name, grid in grids.items()}, strength)
        begin = None if start is None else _gates.weights_on(start, grids)
        logs = {name: torch.zeros((), dtype=grid.step.dtype, requires_grad=True) for name, grid in grids.items()}
        variables, losses = _gates.descend(
            grids, task.batch_loss, begin, steps=steps, learning_rate=learning_rate, regularization=regularization,
            bar=tqdm(disable=True), logs=logs if step_sizes else None,
        )  # fmt: skip
        learned = {name: grid.hard(variables[name]) for name, grid in grids.items()}
        growth = {name: float(log.detach().exp()) for name, log in logs.items()}
        nearest = {name: grid.nearest for name, grid in grids.items()}
        candidates = [(learned, growth), *([(begin, {})] if begin else []), (nearest, {})]
        ends = [
            {n: ((weights[n] / g.step).round() + 0.0, g.step * grown.get(n, 1.0)) for n, g in grids.items()}
            for weights, grown in candidates
        ]
        totals = [task.loss({name: codes * size for name, (codes, size) in end.items()}) for end in ends]
    best = totals.index(min(totals))
    rounded = with_weights(model, {name: codes * size for name, (codes, size) in ends[best].items()})
    return rounded, Learned(
        losses, task.eta, totals[-1], totals[best], {name: float(size) for name, (_, size) in ends[best].items()},
        {name: to_numpy(codes).astype(np.int16) for name, (codes, _) in ends[best].items()},
        sum(grid.undecided(variables[name]) for name, grid in grids.items()),
        sum(int(grid.span.sum()) for grid in grids.values()), fell_back=best > 0,
    )  # fmt: skip


def by_layer(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, scheme: str = "narrow", steps: int = 500,
    learning_rate: float = 0.03, regularization: float = 0.01, step_sizes: dict[str, float] | None = None,
) -> nn.Module:  # fmt: skip
    """
    Copy *model* rounded layer by layer as :func:`bqcore.quantizers.adaround.optimize_rounding` does, on the grids of
    any fixed *step_sizes* by layer, by default PTQ-W's.
    """
    inputs, steps = check_inputs(inputs, 1), check_integer("Steps", steps, 1)
    learning_rate = check_number("Learning rate", learning_rate, zero=False)
    how = {"learning_rate": learning_rate, "regularization": check_number("Regularization", regularization, zero=True)}
    with one_thread():
        reference, grids = step_grids(model, inputs, bits, scheme, step_sizes)
        rounded = copy.deepcopy(reference)
        _gates.learn_by_layer(reference, rounded, grids, inputs, steps=steps, bar=tqdm(disable=True), **how)
    return with_weights(model, {name: rounded.get_submodule(name).weight for name in grids})


def hinge(shift: torch.Tensor) -> torch.Tensor:
    """
    Return the mean square of what brings margins nearer to zero or past it; growth costs nothing.

    *shift* (N,) is the signed first-order boundary displacement (m^q − m^f) / ‖∇m^f‖, in input units.

    >>> hinge(torch.tensor([0.5, 2.0])).item(), hinge(torch.tensor([-2.0, 0.5])).item()
    (0.0, 2.0)
    """
    return (-shift).clamp(min=0).square().mean()


def divergence(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the mean KL(softmax target ‖ softmax logits) of logits (N, K), in nats."""
    p, q = target.log_softmax(1), logits.log_softmax(1)
    return (p.exp() * (p - q)).sum(1).mean()


def onto_boundary(model: nn.Module, inputs: torch.Tensor, pair: torch.Tensor, *, steps: int = _NEWTON) -> torch.Tensor:
    """
    Move inputs along the normal of their pair's margin onto its zero, by Newton steps x − m ∇m / ‖∇m‖².

    *pair* (N, 2) are the classes a, b of the margin m = z_a − z_b. In a linear region one step is exact. Returned is,
    of each input, the step at which its margin was smallest; the input itself if none is better.
    """
    best, x = inputs.clone(), inputs.clone()
    least = torch.full((len(inputs),), math.inf, dtype=inputs.dtype)
    for _ in range(steps + 1):
        margin, gradient = margin_gradient(model, x, *pair.T)
        better = margin.abs() < least
        best[better], least[better] = x[better], margin.abs()[better]
        square = gradient.flatten(1).square().sum(1)
        length = torch.where(square > 0, margin / square, 0.0)
        x = x - length.view(-1, *[1] * (x.ndim - 1)) * gradient
    return best


class Task:
    """An objective with the inputs it looks at, and its batches."""

    def __init__(self, reference, inputs, objective: str, strength: float, fraction: float, batch_size: int, seed: int):
        self.reference, self.inputs, self.objective, self.eta = reference, inputs, objective, 0.0
        self.target = logits_of(reference, inputs)
        # As in optimize_rounding, the band has a generator of its own: all objectives see the same batches.
        self.batches = _gates.endless_batches(len(inputs), batch_size, torch.Generator().manual_seed(seed))
        self.band = self.weights = None
        if objective == "weighted":
            margins = torch.from_numpy(decisions.margin(self.target).copy()).to(self.target.dtype)
            weights = (-strength * margins / margins.median().clamp(min=torch.finfo(margins.dtype).tiny)).exp()
            self.weights = weights / weights.mean()
        elif objective in ("gap", "hinge", "band kl", "boundary"):
            self.band = _gates.Band(reference, inputs, fraction, batch_size, seed)
            self.near = self.band.inputs
            if objective == "boundary":
                self.near = onto_boundary(reference, self.near, self.band.pair)
            self.near_target = logits_of(reference, self.near)

    def batch_loss(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the objective of *weights*, by layer, on the next batch."""
        given = {f"{name}.weight".lstrip("."): weight for name, weight in weights.items()}
        rows = next(self.batches)
        loss = self._main(functional_call(self.reference, given, (self.inputs[rows],)), rows)
        if self.band:
            rows = next(self.band.batches)
            loss = loss + self.eta * self._term(functional_call(self.reference, given, (self.near[rows],)), rows)
        return loss

    def loss(self, weights: dict[str, torch.Tensor]) -> float:
        """Return the objective of *weights* over all inputs."""
        rows, model = slice(None), with_weights(self.reference, weights)
        found = float(self._main(logits_of(model, self.inputs), rows))
        return found + (self.eta * float(self._term(logits_of(model, self.near), rows)) if self.band else 0.0)

    def scale(self, nearest: dict[str, torch.Tensor], strength: float) -> None:
        """Set η such that the term of the *nearest* weights is *strength* times their plain error."""
        if self.band is None and self.objective != "kl":
            return
        rows, model = slice(None), with_weights(self.reference, nearest)
        logits = logits_of(model, self.inputs)
        plain = float((logits - self.target).square().sum(1).mean())
        found = self._term(logits_of(model, self.near), rows) if self.band else divergence(self.target, logits)
        term = float(found)
        self.eta = strength * plain / term if term > 0 else 0.0

    def _main(self, logits: torch.Tensor, rows) -> torch.Tensor:
        if self.objective == "kl":
            return self.eta * divergence(self.target[rows], logits)
        errors = (logits - self.target[rows]).square().sum(1)
        return errors.mean() if self.weights is None else (self.weights[rows] * errors).mean()

    def _term(self, logits: torch.Tensor, rows) -> torch.Tensor:
        band = self.band
        if self.objective == "gap":
            return band.term(logits, rows)
        if self.objective == "hinge":
            return hinge((pair_margin(logits, band.pair[rows]) - band.margin[rows]) / band.length[rows])
        if self.objective == "band kl":
            return divergence(self.near_target[rows], logits)
        return (logits - self.near_target[rows]).square().sum(1).mean()
