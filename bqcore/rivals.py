"""
Rivals of optimized rounding and of the paper's term, on the same grids of PTQ-W and the same calibration inputs.

Other objectives on the logits for the gates of :mod:`bqcore.rounding`, with the steps fixed or learned together; GPTQ
(Frantar et al. 2023); and learned steps with rounding to nearest (LSQ, Esser et al. 2020). None sees a class.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from . import decisions, quantize, rounding
from .checks import check_choice, check_integer, check_share, to_numpy
from .rounding import _caught, _check_inputs, _check_number, _finite, _gate, _Grid, _logits, _margin, _Quadratic
from .train import one_thread

PLAIN = "mse"
OBJECTIVES = (PLAIN, "gap", "hinge", "weighted", "kl", "band kl", "boundary")
DAMPING = 0.01  # of GPTQ's Hessian, as a share of its mean diagonal
_STEP_RATE = 0.1  # of the learning rate, for the logarithm of a step size: a gate has further to go
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


class _StepGrid(_Grid):
    """Gates around the grid of a given step, beyond whose ends weights are clipped."""

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, step: torch.Tensor):
        low, high = quantize.level_range(bits, scheme)
        x = (weight / step).clamp(low, high)
        self.step, self.nearest = step, (x.round() + 0.0) * step
        self.lower = x.floor() + 0.0
        self.span = x.ceil() - self.lower
        scale, shift = rounding._STRETCH
        self.start = torch.logit(((x - self.lower) - shift) / scale)


def learn(
    model: nn.Module, inputs: torch.Tensor, bits: int, objective: str = PLAIN, *, strength: float = 0.0, seed: int,
    share: float = 0.2, scheme: str = "narrow", steps: int = 500, batch_size: int = 32, learning_rate: float = 0.03,
    regularization: float = 0.01, step_sizes: dict[str, float] | None = None, start: nn.Module | None = None,
) -> tuple[nn.Module, Learned]:  # fmt: skip
    """
    Copy *model* with its weights rounded by gates that are learned under an objective on the logits.

    The loss of a step is one of these on a batch, z being logits, m the float top-2 margin, g its gradient, with the
    gates' regularizer of :func:`bqcore.rounding.optimize_rounding`:

    - "mse": Σ (z^q − z^f)², plain optimized rounding.
    - "gap": plus η · mean over the band of ((m^q − m^f) / ‖g‖)², the paper's term.
    - "hinge": plus η · mean over the band of (max(0, m^f − m^q) / ‖g‖)²: only shifts towards the boundary cost.
    - "weighted": the plain error, input by input times exp(−strength · m / median m), of mean 1.
    - "kl": η · KL(softmax z^f ‖ softmax z^q) in place of the plain error.
    - "band kl": the plain error plus η · that KL over the band.
    - "boundary": plus η · the plain error at the band's inputs moved along the normal onto the float boundary.

    Parameters
    ----------
    model : torch module, inputs (N, ...) -> logits (N, K)
        Batch norms folded, all linear and convolution layers with weights of their own.
    inputs : float tensor, shape (N, ...)
        What is learned from, at least one batch.
    bits, scheme : as in :func:`bqcore.quantize.step_size`, one step for each weight tensor
    objective : str
        One of ``OBJECTIVES``.
    strength : float
        Of all but "mse": η is set such that its term at rounding to nearest is *strength* times the plain error there;
        of "weighted", the rate.
    seed : int
        Of the batches.
    share : float
        Of the inputs in the low-margin band.
    steps, batch_size, learning_rate, regularization
        As in :func:`bqcore.rounding.optimize_rounding`.
    step_sizes : dict, optional
        Step of each layer to start from: the steps are then learned together with the gates. PTQ-W's, fixed, if not
        given.
    start : torch module, optional
        *model* rounded on the grids that gates start on (:func:`by_layer`). As in
        :func:`bqcore.rounding.optimize_rounding`, gates start near it, and it is the result where they end worse.

    Returns
    -------
    rounded : torch module
        In eval mode; every weight an integer of the bit-width times its layer's step.
    learned : Learned

    Raises
    ------
    ValueError
        If an argument is out of range, inputs are fewer than a batch or not finite, a layer cannot be quantized, the
        band is empty, or a loss is not finite.
    """
    check_choice("Objective", objective, OBJECTIVES)
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    seed, share = check_integer("Seed", seed, 0), check_share("Band share", share)
    strength = _check_number("Strength", strength, zero=objective == PLAIN)
    learning_rate = _check_number("Learning rate", learning_rate, zero=False)
    regularization = _check_number("Regularization", regularization, zero=True)
    inputs = _check_inputs(inputs, batch_size)
    with one_thread():
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids = _grids(reference, inputs, bits, scheme, step_sizes)
        task = _Task(reference, inputs, objective, strength, share, batch_size, seed)
        task.scale({name: grid.nearest for name, grid in grids.items()}, strength)
        begin = None if start is None else rounding._weights_of(start, grids)
        variables = {
            name: (grid.near(begin[name]) if begin else grid.start.clone()).requires_grad_()
            for name, grid in grids.items()
        }
        logs = {name: torch.zeros((), dtype=grid.step.dtype, requires_grad=True) for name, grid in grids.items()}
        groups = [{"params": list(variables.values())}]
        if step_sizes:
            groups.append({"params": list(logs.values()), "lr": _STEP_RATE * learning_rate})
        optimizer = torch.optim.Adam(groups, lr=learning_rate)
        losses = np.empty(steps)
        for step in range(steps):
            gates = {name: _gate(v) for name, v in variables.items()}
            weights = {name: grids[name].soft(h) for name, h in gates.items()}
            if step_sizes:
                weights = {name: weight * logs[name].exp() for name, weight in weights.items()}
            loss, beta = task.batch_loss(weights), rounding._beta(step, steps)
            if beta is not None:
                loss = loss + regularization * sum(grid.penalty(gates[name], beta) for name, grid in grids.items())
            losses[step] = _finite(loss.item(), step, "the logits")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
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
    rounded = _with_weights(model, {name: codes * size for name, (codes, size) in ends[best].items()})
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
    Copy *model* rounded layer by layer as :func:`bqcore.rounding.optimize_rounding` does, on the grids of any steps.

    Parameters
    ----------
    model, inputs, bits, scheme, learning_rate, regularization
        As in :func:`learn`.
    steps : int
        Of each layer.
    step_sizes : dict, optional
        Step of each layer, fixed; PTQ-W's if not given.

    Returns
    -------
    rounded : torch module
    """
    inputs, steps = _check_inputs(inputs, 1), check_integer("Steps", steps, 1)
    how = {
        "steps": steps, "learning_rate": _check_number("Learning rate", learning_rate, zero=False),
        "regularization": _check_number("Regularization", regularization, zero=True),
    }  # fmt: skip
    with one_thread(), tqdm(disable=True) as bar:
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids, rounded = _grids(reference, inputs, bits, scheme, step_sizes), copy.deepcopy(reference)
        rounding._by_layer(reference, rounded, grids, inputs, bar=bar, **how)
    return _with_weights(model, {name: rounded.get_submodule(name).weight for name in grids})


def learn_steps(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, seed: int, scheme: str = "narrow", steps: int = 500,
    batch_size: int = 32, learning_rate: float = 0.003,
) -> tuple[nn.Module, dict[str, float]]:  # fmt: skip
    """
    Copy *model* with its weights rounded to nearest on steps, one a layer, learned against the float logits.

    The gradient passes through the rounding as if it were not there (LSQ); weights stay as they are. The error jumps
    wherever a weight changes its grid point, so that the last step need not be a good one: taken are the steps of the
    lowest squared logit error among PTQ-W's and those after each pass over the inputs.

    Parameters
    ----------
    model, inputs, bits, seed, scheme, steps, batch_size
        As in :func:`learn`.
    learning_rate : float
        Adam's, of the steps' logarithms.

    Returns
    -------
    rounded : torch module
    step_sizes : dict
        By layer.
    """
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    inputs = _check_inputs(inputs, batch_size)
    learning_rate = _check_number("Learning rate", learning_rate, zero=False)
    seed = check_integer("Seed", seed, 0)
    low, high = quantize.level_range(bits, scheme)
    with one_thread():
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids = _grids(reference, inputs, bits, scheme, None)
        task = _Task(reference, inputs, PLAIN, 0.0, 1.0, batch_size, seed)
        kept = {name: reference.get_submodule(name).weight for name in grids}
        logs = {name: grid.step.log().clone().requires_grad_() for name, grid in grids.items()}

        def measured(sizes: dict[str, torch.Tensor]) -> tuple[float, dict, dict]:
            weights = {name: _through(kept[name], size, low, high) for name, size in sizes.items()}
            return task.loss(weights), weights, sizes

        best = measured({name: grid.step for name, grid in grids.items()})
        optimizer = torch.optim.Adam(logs.values(), lr=learning_rate)
        for step in range(steps):
            sizes = {name: log.exp() for name, log in logs.items()}
            loss = task.batch_loss({name: _through(kept[name], size, low, high) for name, size in sizes.items()})
            _finite(loss.item(), step, "the step sizes")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % (len(inputs) // batch_size) == 0 or step + 1 == steps:
                best = min(best, measured({name: log.detach().exp() for name, log in logs.items()}), key=lambda x: x[0])
    _, weights, sizes = best
    return _with_weights(model, weights), {name: float(size) for name, size in sizes.items()}


def _through(weight: torch.Tensor, size: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Round *weight* to nearest on a grid, with LSQ's gradient for its step."""
    x = (weight / size).clamp(low, high)
    codes = x.detach().round() + 0.0
    return (codes + (x - x.detach())) * size  # the bracket is exactly 0: no value leaves the grid


def gptq(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, scheme: str = "narrow", damping: float = DAMPING
) -> nn.Module:
    """
    Copy *model* rounded layer by layer with error feedback: what a weight loses, the weights after it make up for.

    Columns come in their stored order, steps are PTQ-W's. The Hessian of a layer is the mean of x xᵀ over what the
    quantized layers before it make of the inputs, plus *damping* times its mean diagonal.

    Parameters
    ----------
    model, inputs, bits, scheme
        As in :func:`learn`.
    damping : float

    Returns
    -------
    rounded : torch module
    """
    inputs = _check_inputs(inputs, 1)
    damping = _check_number("Damping", damping, zero=False)
    with one_thread(), torch.no_grad():
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids = _grids(reference, inputs, bits, scheme, None)
        rounded = copy.deepcopy(reference)
        for name, grid in grids.items():
            layer = reference.get_submodule(name)
            form = _Quadratic(layer)
            for part in inputs.split(rounding._PASS):
                target = _caught(reference, name, part, output=True)
                form.add(_caught(rounded, name, part, output=False), target)
            form.close()
            rows = [
                error_feedback(weight, gram, float(grid.step), *quantize.level_range(bits, scheme), damping=damping)
                for weight, gram in zip(form.weight, form.gram)
            ]
            rounded.get_submodule(name).weight.copy_(torch.stack(rows).reshape(layer.weight.shape))
    return _with_weights(model, {name: rounded.get_submodule(name).weight for name in grids})


def error_feedback(
    weight: torch.Tensor, hessian: torch.Tensor, step: float, low: int, high: int, *, damping: float = DAMPING
) -> torch.Tensor:
    """
    Round the columns of *weight* (out, width) one after the other, each error fed to the columns after it (GPTQ).

    Parameters
    ----------
    weight : tensor, shape (out, width)
    hessian : tensor, shape (width, width)
        Symmetric, positive semidefinite.
    step : float
    low, high : int
        Ends of the grid, in steps.
    damping : float
        Above 0: what never sees an input has no curvature, and the inverse would not exist.

    Returns
    -------
    rounded : tensor, shape (out, width)
        Integers from *low* to *high* times *step*.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is not finite.
    """
    if weight.ndim != 2 or hessian.shape != (weight.shape[1],) * 2:
        raise ValueError(
            f"Weights are {tuple(weight.shape)} and the Hessian {tuple(hessian.shape)}: "
            "give (out, width) and (width, width)."
        )
    for name, values in (("Weights", weight), ("Hessian entries", hessian)):
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{name} hold {bad} non-finite values of {values.numel()}: clean the inputs.")
    work, full = weight.double().clone(), hessian.double()
    mean = float(full.diagonal().mean()) or 1.0  # no input at all: any curvature gives rounding to nearest
    full = full + damping * mean * torch.eye(len(full), dtype=full.dtype)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(full)), upper=True)
    codes = torch.empty_like(work)
    for column in range(work.shape[1]):
        codes[:, column] = (work[:, column] / step).round().clamp(low, high)
        lost = (work[:, column] - codes[:, column] * step) / upper[column, column]
        work[:, column + 1 :] -= lost[:, None] * upper[column, column + 1 :]
    return (codes + 0.0).to(weight.dtype) * torch.tensor(step, dtype=weight.dtype)


def hinge(shift: torch.Tensor) -> torch.Tensor:
    """
    Give the mean square of what brings margins nearer to zero or past it; growth costs nothing.

    Parameters
    ----------
    shift : tensor (N,)
        Signed first-order boundary displacement (m^q − m^f) / ‖∇m^f‖, in input units.

    Examples
    --------
    >>> hinge(torch.tensor([0.5, 2.0])).item(), hinge(torch.tensor([-2.0, 0.5])).item()
    (0.0, 2.0)
    """
    return (-shift).clamp(min=0).square().mean()


def divergence(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Give the mean KL(softmax target ‖ softmax logits) of logits (N, K), in nats."""
    p, q = target.log_softmax(1), logits.log_softmax(1)
    return (p.exp() * (p - q)).sum(1).mean()


def onto_boundary(model: nn.Module, inputs: torch.Tensor, pair: torch.Tensor, *, steps: int = _NEWTON) -> torch.Tensor:
    """
    Move inputs along the normal of their pair's margin onto its zero, by Newton steps x − m ∇m / ‖∇m‖².

    Parameters
    ----------
    model : torch module
    inputs : tensor, shape (N, ...)
    pair : int tensor, shape (N, 2)
        Classes a, b of the margin m = z_a − z_b.
    steps : int
        In a linear region, one is exact.

    Returns
    -------
    moved : tensor, shape (N, ...)
        Of each input, the step at which its margin was smallest; the input itself if none is better.
    """
    best, x = inputs.clone(), inputs.clone()
    least = torch.full((len(inputs),), math.inf, dtype=inputs.dtype)
    for step in range(steps + 1):
        leaf = x.detach().requires_grad_()
        margin = _margin(model(leaf), pair)
        better = margin.detach().abs() < least
        best[better], least[better] = x[better], margin.detach().abs()[better]
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        square = gradient.flatten(1).square().sum(1)
        length = torch.where(square > 0, margin.detach() / square, 0.0)
        x = x - length.view(-1, *[1] * (x.ndim - 1)) * gradient
    return best


class _Task:
    """An objective with the inputs it looks at, and its batches."""

    def __init__(self, reference, inputs, objective: str, strength: float, share: float, batch_size: int, seed: int):
        self.reference, self.inputs, self.objective, self.eta = reference, inputs, objective, 0.0
        self.target = _logits(reference, inputs)
        # As in optimize_rounding, the band has a generator of its own: all objectives see the same batches.
        self.batches = rounding._batches(len(inputs), batch_size, torch.Generator().manual_seed(seed))
        self.band = self.weights = None
        if objective == "weighted":
            margins = torch.from_numpy(decisions.margin(self.target).copy()).to(self.target.dtype)
            weights = (-strength * margins / margins.median().clamp(min=torch.finfo(margins.dtype).tiny)).exp()
            self.weights = weights / weights.mean()
        elif objective in ("gap", "hinge", "band kl", "boundary"):
            self.band = rounding._Band(reference, inputs, share, batch_size, seed)
            self.near = self.band.inputs
            if objective == "boundary":
                self.near = onto_boundary(reference, self.near, self.band.pair)
            self.near_target = _logits(reference, self.near)

    def batch_loss(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Give the objective of *weights*, by layer, on the next batch."""
        given = {f"{name}.weight".lstrip("."): weight for name, weight in weights.items()}
        rows = next(self.batches)
        loss = self._main(functional_call(self.reference, given, (self.inputs[rows],)), rows)
        if self.band:
            rows = next(self.band.batches)
            loss = loss + self.eta * self._term(functional_call(self.reference, given, (self.near[rows],)), rows)
        return loss

    def loss(self, weights: dict[str, torch.Tensor]) -> float:
        """Give the objective of *weights* over all inputs."""
        rows, model = slice(None), _with_weights(self.reference, weights)
        found = float(self._main(_logits(model, self.inputs), rows))
        return found + (self.eta * float(self._term(_logits(model, self.near), rows)) if self.band else 0.0)

    def scale(self, nearest: dict[str, torch.Tensor], strength: float) -> None:
        """Set η such that the term of the *nearest* weights is *strength* times their plain error."""
        if self.objective not in ("kl", "gap", "hinge", "band kl", "boundary"):
            return
        rows, model = slice(None), _with_weights(self.reference, nearest)
        logits = _logits(model, self.inputs)
        plain = float((logits - self.target).square().sum(1).mean())
        term = float(
            divergence(self.target, logits) if self.band is None else self._term(_logits(model, self.near), rows)
        )
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
            return hinge((_margin(logits, band.pair[rows]) - band.margin[rows]) / band.length[rows])
        if self.objective == "band kl":
            return divergence(self.near_target[rows], logits)
        return (logits - self.near_target[rows]).square().sum(1).mean()


def _grids(reference, inputs, bits: int, scheme: str, step_sizes: dict[str, float] | None) -> dict[str, _Grid]:
    quantize.level_range(bits, scheme)
    grids, _ = rounding._grids(reference, inputs[:1], bits, scheme, "tensor", "logits", "refuse")
    if step_sizes is None:
        return grids
    if set(step_sizes) != set(grids):
        raise ValueError(
            f"Step sizes are of {rounding._list(sorted(step_sizes))}: give those of {rounding._list([*grids])}."
        )
    for name, size in step_sizes.items():
        _check_number(f"Step size of {name!r}", size, zero=False)
    weights = {name: reference.get_submodule(name).weight for name in grids}
    return {
        name: _StepGrid(weight, bits, scheme, torch.tensor(step_sizes[name], dtype=weight.dtype))
        for name, weight in weights.items()
    }


def _with_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    out = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            out.get_submodule(name).weight.copy_(weight)
    return out
