"""
Rounding objectives beside the paper's: which keeps more decisions near the boundary, at the same bits and bytes?

All learn from calibration inputs without their classes, on the float logits, the gates of :mod:`bqcore.rounding`. The
study compares them with plain optimized rounding, rounding to nearest, GPTQ (Frantar et al. 2023) and learned steps
(LSQ, Esser et al. 2020). What was fixed before its runs stands here as constants.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from joblib import Parallel, cpu_count, delayed
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from . import calibration, data, decisions, measures, quantize, rounding, runs, specs, stats
from .checks import check_choice, check_integer, check_share, to_numpy
from .results import load_dataset, save_dataset
from .rounding import _caught, _finite, _gate, _Grid, _logits, _margin, _Quadratic
from .specs import FLOAT
from .train import one_thread

PLAIN = "mse"
OBJECTIVES = (PLAIN, "gap", "hinge", "weighted", "kl", "band kl", "boundary")
# The one setting of each objective but the plain one, fixed before the runs. Of a term: its size at rounding to nearest
# as a multiple of the plain error there, so that one grid fits all terms and data sets. "weighted": the rate at which
# weights fall with the margin.
STRENGTHS = (0.3, 3.0)
WITH_STEP = (PLAIN, "kl")  # objectives that are also tried with learned step sizes
BASELINES_OF = ("nearest", "gptq", "step")  # methods without gates
DAMPING = 0.01  # of GPTQ's Hessian, as a share of its mean diagonal
_STEP_RATE = 0.1  # of the learning rate, for the logarithm of a step size: a gate has further to go
_KEPT_APART = 0.25  # least share of the calibration inputs that strengths are chosen on
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
    regularization: float = 0.01, step_sizes: dict[str, float] | None = None,
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
    strength = rounding._check_number("Strength", strength, zero=objective == PLAIN)
    learning_rate = rounding._check_number("Learning rate", learning_rate, zero=False)
    regularization = rounding._check_number("Regularization", regularization, zero=True)
    inputs = rounding._check_inputs(inputs, batch_size)
    with one_thread():
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids = _grids(reference, inputs, bits, scheme, step_sizes)
        task = _Task(reference, inputs, objective, strength, share, batch_size, seed)
        task.scale({name: grid.nearest for name, grid in grids.items()}, strength)
        variables = {name: grid.start.clone().requires_grad_() for name, grid in grids.items()}
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
        ends = []
        for hard in (False, True):
            end = {}
            for name, grid in grids.items():
                codes = (grid.hard(variables[name]) if hard else grid.nearest) / grid.step
                end[name] = codes.round() + 0.0, grid.step * (logs[name].detach().exp() if hard else 1.0)
            ends.append((task.loss({name: codes * size for name, (codes, size) in end.items()}), end))
        fell_back = ends[1][0] > ends[0][0]
        found, end = ends[not fell_back]
    rounded = _with_weights(model, {name: codes * size for name, (codes, size) in end.items()})
    return rounded, Learned(
        losses, task.eta, ends[0][0], found, {name: float(size) for name, (_, size) in end.items()},
        {name: to_numpy(codes).astype(np.int16) for name, (codes, _) in end.items()},
        sum(grid.undecided(variables[name]) for name, grid in grids.items()),
        sum(int(grid.span.sum()) for grid in grids.values()), fell_back,
    )  # fmt: skip


def learn_steps(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, seed: int, scheme: str = "narrow", steps: int = 500,
    batch_size: int = 32, learning_rate: float = 0.003,
) -> tuple[nn.Module, dict[str, float]]:  # fmt: skip
    """
    Copy *model* with its weights rounded to nearest on steps, one a layer, learned against the float logits.

    The gradient passes through the rounding as if it were not there (LSQ); weights stay as they are. Where the squared
    logit error ends above that of PTQ-W's steps, these are taken.

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
    inputs = rounding._check_inputs(inputs, batch_size)
    learning_rate = rounding._check_number("Learning rate", learning_rate, zero=False)
    seed = check_integer("Seed", seed, 0)
    low, high = quantize.level_range(bits, scheme)
    with one_thread():
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        grids = _grids(reference, inputs, bits, scheme, None)
        task = _Task(reference, inputs, PLAIN, 0.0, 1.0, batch_size, seed)
        kept = {name: reference.get_submodule(name).weight for name in grids}
        logs = {name: grid.step.log().clone().requires_grad_() for name, grid in grids.items()}
        optimizer = torch.optim.Adam(logs.values(), lr=learning_rate)
        for step in range(steps):
            sizes = {name: log.exp() for name, log in logs.items()}
            loss = task.batch_loss({name: _through(kept[name], size, low, high) for name, size in sizes.items()})
            _finite(loss.item(), step, "the step sizes")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends = [{name: grid.step for name, grid in grids.items()}, {name: v.detach().exp() for name, v in logs.items()}]
        weights = [{name: _through(kept[name], size, low, high) for name, size in end.items()} for end in ends]
        best = min((0, 1), key=lambda i: task.loss(weights[i]))
    return _with_weights(model, weights[best]), {name: float(size) for name, size in ends[best].items()}


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
    inputs = rounding._check_inputs(inputs, 1)
    damping = rounding._check_number("Damping", damping, zero=False)
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
        rounding._check_number(f"Step size of {name!r}", size, zero=False)
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


@dataclass(frozen=True)
class Objectives(specs.Stopping):
    """Rounding objectives at fixed bits, chosen and learned on calibration inputs, judged on held-out ones."""

    study: ClassVar[str] = "objectives"

    bits: tuple[int, ...] = specs._of((4,), "bit-widths, 2 to 16")
    steps: int = specs._of(500, "steps of every learned rounding")
    examples: int = specs._of(1024, "calibration inputs to learn from, three quarters of them at most")

    def __post_init__(self):
        super().__post_init__()
        check_integer("steps", self.steps, 1)
        check_integer("examples", self.examples, 32)
        if self.granularity != "tensor":
            raise ValueError(
                f"granularity is {self.granularity!r}: the objectives are compared with one step a tensor."
            )

    def command(self, seeds: int = 1) -> str:
        """Give the command that makes *seeds* runs from this seed on, for a baseline."""
        return f"python -m bqcore objectives {self.dataset} --seeds {seeds}"


_NODES, _SUBSET_NODES = (101, 51), (41, 21)
BASELINES = {
    Objectives(nodes=_NODES): 10,
    **{Objectives(dataset=name, nodes=_NODES, **specs._IMAGES): 10 for name in ("mnist", "fashion-mnist")},
    Objectives(model="cnn", nodes=_SUBSET_NODES, **specs._SUBSET): 3,
}


def baseline(dataset: str) -> Objectives:
    """Give the study's spec on a data set."""
    found = {spec.dataset: spec for spec in BASELINES}
    check_choice("dataset", dataset, tuple(found))
    return found[dataset]


def name_of(spec: Objectives) -> str:
    """Name the published result file."""
    return f"{spec.dataset}_objectives.nc"


def rounded_models(
    spec: Objectives, reference: nn.Module, inputs: torch.Tensor, bits: int
) -> dict[str, tuple[nn.Module, Learned | None]]:
    """Give *reference* rounded in every way of the study, by method, with the record of what was learned by gates."""
    how = {"seed": spec.seed, "scheme": spec.scheme, "steps": spec.steps}
    stepped, sizes = learn_steps(reference, inputs, bits, **how)
    out = {
        "nearest": (quantize.quantize_model(reference, bits, scheme=spec.scheme), None),
        "gptq": (gptq(reference, inputs, bits, scheme=spec.scheme), None),
        "step": (stepped, None),
    }
    for method, objective, strength, with_step in methods():
        out[method] = learn(
            reference, inputs, bits, objective, strength=strength, share=spec.share,
            step_sizes=sizes if with_step else None, **how,
        )  # fmt: skip
    return out


def methods() -> list[tuple[str, str, float, bool]]:
    """Give name, objective, strength and "step sizes are learned too" of every method with gates."""
    out = []
    for objectives, with_step in ((OBJECTIVES, False), (WITH_STEP, True)):
        for objective in objectives:
            family = f"{objective}, step" if with_step else objective
            for strength in (0.0,) if objective == PLAIN else STRENGTHS:
                out.append((f"{family} {strength:g}" if strength else family, objective, strength, with_step))
    return out


def families() -> list[str]:
    """Give the names of what is compared: the methods without gates, and each objective at its chosen strength."""
    return [*BASELINES_OF, *dict.fromkeys(family_of(method) for method, *_ in methods())]


def family_of(method: str) -> str:
    """Give a method's name without its strength."""
    name, _, last = method.rpartition(" ")
    return name if name and last.replace(".", "", 1).isdigit() else method


def measure(spec: Objectives, split: data.StoppingSplit, model: nn.Module) -> xr.Dataset:
    """
    Round the trained *model* in every way and measure all on both splits, as the stopping study does.

    The first calibration inputs are learned from; on the others, ``choosing_band_flips`` is measured, by which
    strengths are chosen (:func:`chosen`).

    Returns
    -------
    xarray.Dataset
        Dimensions ``bits``, ``method``, ``split``, ``nodes``, ``quantile``, ``axis``.
    """
    reference = rounding.fold_batchnorm(model)
    first = min(spec.examples, math.floor((1 - _KEPT_APART) * len(split.calibration_inputs)))
    inputs, apart = split.calibration_inputs[:first], split.calibration_inputs[first:]
    parts = []
    for bits in spec.bits:
        made = {"float": (reference, None), **rounded_models(spec, reference, inputs, bits)}
        levels = {FLOAT if name == "float" else i: of for i, (name, (of, _)) in enumerate(made.items())}
        found = calibration.on_both_splits(levels, split, spec).rename(bits="method")
        logits = measures.logits_of(levels, apart)
        flips = [decisions.band_flip_rate(logits[FLOAT], q, spec.share) for q in logits.values()]
        records = [record for _, record in made.values()]
        parts.append(
            found.assign_coords(method=list(made)).assign(
                choosing_band_flips=("method", flips),
                undecided_gates=("method", [r.undecided / max(1, r.free) if r else 0.0 for r in records]),
                term_weight=("method", [r.weight if r else 0.0 for r in records]),
                fell_back=("method", [bool(r and r.fell_back) for r in records]),
            )
        )
    return xr.concat(parts, xr.Variable("bits", list(spec.bits)))


def chosen(many: xr.Dataset) -> xr.Dataset:
    """
    Give each objective at the strength that its seed's calibration data choose: the fewest band flips on inputs not
    learned from, the weaker of equals.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs, along ``seed``, of one bit-width.

    Returns
    -------
    xarray.Dataset
        Along ``family``, with the ``strength`` chosen (NaN where there is none to choose).
    """
    strengths = {method: strength for method, _, strength, _ in methods()}
    parts = []
    for family in families():
        names = [str(name) for name in many.method.values if family_of(str(name)) == family]
        flips = many.choosing_band_flips.sel(method=names).transpose("seed", "method").values
        # Weaker ones stand first, and argmin takes the first of equals.
        picked = [names[i] for i in flips.argmin(1)]
        at = many.sel(method=xr.DataArray(picked, dims="seed", coords={"seed": many.seed})).drop_vars("method")
        parts.append(at.assign(strength=("seed", [strengths.get(name) or np.nan for name in picked])))
    return xr.concat(parts, xr.Variable("family", families()), coords="minimal", compat="override")


class Comparison(NamedTuple):
    """An objective less plain optimized rounding: paired over seeds, means with intervals."""

    difference: stats.Interval  # at 95 %
    strict: stats.Interval  # at 95 % for all families at once (Bonferroni)
    detectable: float  # smallest difference that the seeds would have seen four times in five, at 95 %


def compare(picked: xr.Dataset, family: str, values: Callable[[xr.Dataset], xr.DataArray]) -> Comparison:
    """
    Compare a family with plain optimized rounding, paired over seeds.

    Parameters
    ----------
    picked : xarray.Dataset
        Of :func:`chosen`.
    family : str
    values : function from the dataset of a family to its values along ``seed``
    """
    check_choice("Family", family, tuple(families()))
    ours, plain = (values(picked.sel(family=name)).values for name in (family, PLAIN))
    others = len(families()) - 1
    return Comparison(
        stats.paired_difference(ours, plain), stats.paired_difference(ours, plain, 1 - 0.05 / others),
        stats.detectable_difference(ours, plain),
    )  # fmt: skip


def folder(spec: Objectives) -> Path:
    """Give the folder of the fresh runs of *spec*; other code or packages, another folder."""
    content = json.dumps({"spec": replace(spec, seed=0).text(), **_provenance()}, sort_keys=True)
    return runs.FRESH / f"{spec.study}-{spec.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _provenance() -> dict:
    ours = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return runs.provenance() | {"objectives": ours}


def joined_file(spec: Objectives, seeds: int) -> Path:
    """Give the file of the joined runs of *seeds* seeds."""
    return folder(spec) / f"seeds-{spec.seed:03d}-{spec.seed + seeds - 1:03d}.nc"


def _file(spec: Objectives) -> Path:
    return folder(spec) / f"seed-{spec.seed:03d}.nc"


def run(spec: Objectives) -> xr.Dataset:
    """Train, round and measure once on one thread, or load the result if this very run was made before."""
    found = runs._kept(_file(spec), spec)
    if found is not None:
        return found
    with one_thread():
        split = runs.split_of(spec)
        out = measure(spec, split, runs._trained(spec, split, runs.checkpoint_file(spec)))
    out = out.assign_coords(seed=spec.seed)
    measures.describe(out, runs._UNITS.get(spec.dataset, "input units (pixel / 255)"))
    names = {
        "choosing_band_flips": (
            "low-margin boundary-band flips on calibration inputs not learned from",
            "share of the band",
        ),
        "term_weight": ("weight of the objective's term, η", "1"),
        "fell_back": ("learned gates ended above nearest, which was taken", "flag"),
    }
    for name, (long_name, units) in names.items():
        out[name].attrs = {"long_name": long_name, "units": units}
    provenance = {name: json.dumps(value, sort_keys=True) for name, value in _provenance().items()}
    out.attrs = {
        "title": f"Boundary-aware quantization: rounding objectives on {spec.dataset}, one run", "spec": spec.text(),
        "command": spec.command(), **provenance,
    }  # fmt: skip
    save_dataset(out, _file(spec))
    return load_dataset(_file(spec))


def sweep(
    spec: Objectives, seeds: int | None = None, *, workers: int | None = None, progress: bool = True
) -> xr.Dataset:
    """
    Run *seeds* seeds and join them along ``seed``; finished runs are kept, a stopped sweep goes on.

    Parameters
    ----------
    spec : Objectives
    seeds : int, optional
        By default the baseline's number.
    workers : int, optional
        Processes; by default one for each core.
    progress : bool
        Show a bar with the time left, on standard error.
    """
    seeds = check_integer("seeds", BASELINES[baseline(spec.dataset)] if seeds is None else seeds, 1)
    workers = check_integer("workers", cpu_count() if workers is None else workers, 1)
    joined = joined_file(spec, seeds)
    found = runs._kept(joined, spec)
    if found is not None:
        return found
    each = [replace(spec, seed=spec.seed + i) for i in range(seeds)]
    missing = [one for one in each if not _file(one).exists()]
    with tqdm(
        total=seeds, initial=seeds - len(missing), desc=f"objectives, {spec.dataset}: runs", unit="run",
        disable=not progress or not missing,
    ) as bar:  # fmt: skip
        pool = Parallel(min(workers, max(1, len(missing))), return_as="generator_unordered")
        with runs._deaf():
            done = pool(delayed(_make)(one) for one in missing)
        for _ in done:
            bar.update()
    out = xr.concat(
        [run(one) for one in each], "seed", data_vars="all", coords="minimal", compat="override",
        combine_attrs="drop_conflicts",
    )  # fmt: skip
    out.attrs |= {
        "title": f"Boundary-aware quantization: rounding objectives on {spec.dataset}, {seeds} runs",
        "spec": spec.text(), "seeds": seeds, "command": spec.command(seeds),
    }  # fmt: skip
    save_dataset(out, joined)
    return load_dataset(joined)


def _make(spec: Objectives) -> None:
    run(spec)  # the result is read from its file
