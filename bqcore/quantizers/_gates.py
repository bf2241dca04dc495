"""What all learned roundings share: gates between two grid points, a layer's quadratic error, the boundary band."""

import copy
import math
import numbers
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .._checks import check_finite, to_numpy
from ..metrics.decisions import boundary_band, top_pair
from ..metrics.margins import margin_gradient
from ._layers import PASS, calls_of, layer_error, logits_of, unfit
from .uniform import level_range, quantize, step_size
from .weights import LAYERS, quoted

BETAS = (20.0, 2.0)  # of Nagel et al.: β falls from 20 to 2
WARM_UP = 0.2  # fraction of the steps before it, without the regularizer
STRETCH = (1.2, -0.1)  # of the gate: h = clip(1.2 σ(V) − 0.1, 0, 1)
_STEP_RATE = 0.1  # of the learning rate, for the logarithm of a step size: a gate has further to go
_NEAR = 0.8  # of the way from the float weights' gates to those of a start


class Grid:
    """The two grid points beside each weight of a layer, and gates that choose between them."""

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, granularity: str):
        kind = {"scheme": scheme, "granularity": granularity}
        low, high = level_range(bits, scheme)
        self.step = step_size(weight, bits, **kind)
        self.nearest = quantize(weight, bits, **kind)
        x = weight * (1.0 / self.step)  # as bqcore.quantizers.uniform has it
        # A weight on the grid but for rounding (the largest one, for instance) has no neighbours to choose from.
        x = torch.where((x - x.round()).abs() <= 4 * torch.finfo(x.dtype).eps * x.abs(), x.round(), x)
        self.lower = x.floor().clamp(low, high) + 0.0
        self.span = x.ceil().clamp(low, high) - self.lower
        self.start = _variables((x - self.lower).clamp(0, 1))

    def near(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the variables of gates that lie near those of a rounded *weight*."""
        up = ((weight - self.lower * self.step) > self.step / 2).to(self.lower.dtype)
        return _variables((1 - _NEAR) * gates_of(self.start) + _NEAR * up)

    def soft(self, gates: torch.Tensor) -> torch.Tensor:
        """Return the weights of *gates* h in [0, 1]."""
        return (self.lower + gates * self.span) * self.step

    def hard(self, variables: torch.Tensor) -> torch.Tensor:
        """Return the weights when every gate goes to the nearer of 0 and 1."""
        return self.soft((gates_of(variables.detach()) >= 0.5).to(self.lower.dtype))

    def penalty(self, gates: torch.Tensor, beta: float) -> torch.Tensor:
        """Return Σ 1 − |2h − 1|^β over the weights that have two neighbours."""
        return ((1 - (2 * gates - 1).abs().pow(beta)) * self.span).sum()

    def undecided(self, variables: torch.Tensor) -> int:
        """Count the gates between 0.01 and 0.99."""
        gates = gates_of(variables.detach())
        return int(((gates > 0.01) & (gates < 0.99) & (self.span > 0)).sum())


def gates_of(variables: torch.Tensor) -> torch.Tensor:
    """Return the gates h = clip(1.2 σ(V) − 0.1, 0, 1) of their *variables* V."""
    scale, shift = STRETCH
    return (scale * variables.sigmoid() + shift).clamp(0, 1)


def _variables(gates: torch.Tensor) -> torch.Tensor:
    scale, shift = STRETCH
    return torch.logit((gates - shift) / scale)


def exponent_at(step: int, steps: int) -> float | None:
    """Return the regularizer's exponent at a step, None during the warm-up."""
    begin = WARM_UP * steps
    if step < begin:
        return None
    (start, end), done = BETAS, (step - begin) / (steps - begin)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def learn_by_layer(
    reference, rounded, grids: dict[str, Grid], inputs, *, steps, learning_rate, regularization, bar
) -> dict:
    """Learn the gates of one layer after the other, and put each layer's weights into *rounded*."""
    losses, nearest_errors, errors, undecided, fell_back = {}, {}, {}, {}, []
    for name, grid in grids.items():
        error = layer_error(reference, rounded, name, inputs)
        variables = grid.start.clone().requires_grad_()
        optimizer = torch.optim.Adam([variables], lr=learning_rate)
        losses[name] = np.empty(steps)
        for step in range(steps):
            gates = gates_of(variables)
            weight, beta = grid.soft(gates), exponent_at(step, steps)
            loss, gradient = error(weight)
            penalty = weight.new_zeros(()) if beta is None else regularization * grid.penalty(gates, beta)
            losses[name][step] = check_loss((loss + penalty).item(), step, f"layer {name!r}")
            # The gradient of the error is known: this stands in for the loss in the backward pass.
            (variables.grad,) = torch.autograd.grad((weight * gradient).sum() + penalty, variables)
            optimizer.step()
            bar.update()
        found, nearest = grid.hard(variables), grid.nearest
        undecided[name] = grid.undecided(variables)
        errors[name], nearest_errors[name] = (max(0.0, float(error(weight)[0])) for weight in (found, nearest))
        if errors[name] > nearest_errors[name]:
            fell_back.append(name)
            found, errors[name] = nearest, nearest_errors[name]
        rounded.get_submodule(name).weight.copy_(found)
    return {
        "losses": losses, "nearest_errors": nearest_errors, "errors": errors, "undecided": undecided,
        "fell_back": tuple(fell_back), "nearest_gap": math.nan, "gap": math.nan, "flat": 0,
    }  # fmt: skip


class Band:
    """The calibration inputs of the boundary band, with the float margin and its gradient's length at each."""

    def __init__(self, reference: nn.Module, inputs: torch.Tensor, fraction: float, batch_size: int, seed: int):
        band = torch.from_numpy(boundary_band(logits_of(reference, inputs), fraction).copy()).to(inputs.device)
        x, rows = inputs[band], []
        for part in x.split(PASS):
            pair = torch.from_numpy(np.stack(top_pair(logits_of(reference, part)), 1)).to(part.device)
            margin, gradient = margin_gradient(reference, part, *pair.T)
            rows.append((pair, margin, torch.linalg.vector_norm(gradient.flatten(1), dim=1)))
        pair, margin, length = (torch.cat(column) for column in zip(*rows))
        check_finite("Margin gradients", to_numpy(length), "move or rescale that input", ("input of the band",))
        steep = length > 0
        if not steep.any():
            raise ValueError(
                f"The band of {len(band)} inputs is empty: at none of them has the float margin a gradient."
            )
        self.flat = int((~steep).sum())
        self.inputs, self.pair, self.margin, self.length = x[steep], pair[steep], margin[steep], length[steep]
        # A generator of its own, so that the batches of the logits do not depend on the band.
        generator = torch.Generator().manual_seed(seed)
        self.batches = endless_batches(len(self.inputs), min(batch_size, len(self.inputs)), generator)

    def term(self, logits: torch.Tensor, rows) -> torch.Tensor:
        """Return the mean squared displacement of *rows*, whose logits after quantization are given."""
        change = pair_margin(logits, self.pair[rows]) - self.margin[rows]
        return (change / self.length[rows]).square().mean()


def weights_on(start: nn.Module, grids: dict[str, Grid]) -> dict[str, torch.Tensor]:
    """Return the weights of *start*, after making sure that each is one of the two grid points beside the float one."""
    out = {}
    for name, grid in grids.items():
        weight = start.get_submodule(name).weight.detach()
        if weight.shape != grid.lower.shape or not ((weight == grid.soft(0.0)) | (weight == grid.soft(1.0))).all():
            raise ValueError(
                f"The start's layer {name or 'model'!r} is not rounded on this grid: round it at these bits."
            )
        out[name] = weight.clone()
    return out


def pair_margin(logits: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """Return the margin z_a − z_b of each row of *logits* (N, K), (a, b) being its row of *pair* (N, 2)."""
    of_pair = logits.gather(1, pair)
    return of_pair[:, 0] - of_pair[:, 1]


def descend(
    grids: dict[str, Grid], batch_loss: Callable, begin: dict[str, torch.Tensor] | None, *, steps: int,
    learning_rate: float, regularization: float, bar: tqdm, logs: Mapping[str, torch.Tensor] | None = None,
) -> tuple[dict[str, torch.Tensor], np.ndarray]:  # fmt: skip
    """
    Learn the gates of all layers at once, and return their variables and the loss of each step.

    *batch_loss* is a function from weights by layer to the loss on the next batch. Gates start near the rounded weights
    *begin* by layer, if given, else at the float weights. *logs* are logarithms of what step sizes grow by, learned
    too.
    """
    starts = {name: grid.near(begin[name]) if begin else grid.start.clone() for name, grid in grids.items()}
    variables, logs = {name: start.requires_grad_() for name, start in starts.items()}, logs or {}
    optimizer = torch.optim.Adam(list(variables.values()), lr=learning_rate)
    if logs:
        optimizer.add_param_group({"params": list(logs.values()), "lr": _STEP_RATE * learning_rate})
    losses = np.empty(steps)
    for step in range(steps):
        gates = {name: gates_of(v) for name, v in variables.items()}
        weights = {name: grids[name].soft(h) for name, h in gates.items()}
        weights |= {name: weights[name] * log.exp() for name, log in logs.items()}
        loss, beta = batch_loss(weights), exponent_at(step, steps)
        if beta is not None:
            loss = loss + regularization * sum(grid.penalty(gates[name], beta) for name, grid in grids.items())
        losses[step] = check_loss(loss.item(), step, "the logits")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
    return variables, losses


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of *size* of *count* indices without end, each pass over them in another order."""
    while True:
        yield from torch.randperm(count, generator=generator)[: count - count % size].split(size)


def rounding_grids(
    model: nn.Module, x: torch.Tensor, bits: int, scheme: str, granularity: str, on: str, unquantizable: str
) -> tuple[dict[str, Grid], tuple[str, ...]]:
    """Return the grids of the layers in the order in which they run, and the names of those left in float."""
    owners = {}  # names of the modules that hold a parameter, twice in place if one module is
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name or "model")
    calls = calls_of(model, x)
    modules = sorted(model.named_modules(), key=lambda item: calls.get(item[0], [math.inf])[0])
    grids, skipped = {}, []
    for name, layer in modules:
        reason = unfit(layer, owners, len(calls.get(name, [])), on)
        if reason and unquantizable == "refuse":
            raise ValueError(f"Layer {name or 'model'!r}: {reason}; unquantizable='skip' leaves it in float.")
        if reason:
            skipped.append(name or "model")
        elif isinstance(layer, LAYERS):
            if layer.weight.numel() > 1 and layer.weight.min() == layer.weight.max():
                continue  # quantize() keeps equal weights as they are
            try:
                grids[name] = Grid(layer.weight, bits, scheme, granularity)
            except ValueError as error:
                raise ValueError(f"Layer {name or 'model'!r}: {error}") from None
    if not grids:
        after = f", with {quoted(skipped)} skipped." if skipped else "."
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer to round{after}")
    return grids, tuple(skipped)


def check_loss(loss: float, step: int, where: str) -> float:
    """Return *loss*, or refuse it if it is not finite."""
    if math.isfinite(loss):
        return loss
    raise ValueError(f"The loss of {where} is {loss} at step {step + 1}: lower the learning rate or scale the inputs.")


def check_number(name: str, value, *, zero: bool) -> float:
    """Return *value* as a finite float above 0, or of at least 0 if *zero* is allowed."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    if not fits or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} is {value!r}: give a number {'of at least' if zero else 'above'} 0.")
    return float(value)


def check_inputs(inputs, batch_size: int) -> torch.Tensor:
    """Return calibration *inputs* without their history; refuse what is not finite, or fewer than a batch."""
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
        shape = tuple(getattr(inputs, "shape", ()))
        raise ValueError(f"Inputs are {type(inputs).__name__} of shape {shape}: give a float tensor, (N, ...).")
    if len(inputs) < batch_size:
        raise ValueError(
            f"The calibration set holds {len(inputs)} inputs, fewer than a batch of {batch_size}: "
            "give more inputs or a smaller batch."
        )
    check_finite("Inputs", to_numpy(inputs), "clean the data", ("sample",))
    return inputs.detach()


class StepGrid(Grid):
    """Gates around the grid of a given step, beyond whose ends weights are clipped."""

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, step: torch.Tensor):
        x = (weight / step).clamp(*level_range(bits, scheme))
        self.step, self.nearest = step, (x.round() + 0.0) * step
        self.lower = x.floor() + 0.0
        self.span = x.ceil() - self.lower
        self.start = _variables(x - self.lower)


def step_grids(model, inputs, bits: int, scheme: str, step_sizes=None) -> tuple[nn.Module, dict[str, Grid]]:
    """Return a copy of *model* as reference, and its layers' grids by name, on PTQ-W's steps or on those given."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    level_range(bits, scheme)
    grids, _ = rounding_grids(reference, inputs[:1], bits, scheme, "tensor", "logits", "refuse")
    if step_sizes is None:
        return reference, grids
    if set(step_sizes) != set(grids):
        raise ValueError(f"Step sizes are of {quoted(sorted(step_sizes))}: give those of {quoted([*grids])}.")
    for name, size in step_sizes.items():
        check_number(f"Step size of {name!r}", size, zero=False)
    weights = {name: reference.get_submodule(name).weight for name in grids}
    steps = {name: torch.tensor(step_sizes[name], dtype=weight.dtype) for name, weight in weights.items()}
    return reference, {name: StepGrid(weight, bits, scheme, steps[name]) for name, weight in weights.items()}


def with_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Copy *model* in eval mode, with the *weights* of the named layers."""
    out = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            out.get_submodule(name).weight.copy_(weight)
    return out
