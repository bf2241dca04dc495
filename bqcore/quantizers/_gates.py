"""What all learned roundings share: gates between two grid points, a layer's quadratic error, the boundary band."""

import copy
import math
import numbers
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._checks import check_finite, to_numpy
from ..metrics.decisions import boundary_band, top_pair
from . import uniform
from .uniform import LAYERS, level_range, quantize, step_size

BETAS = (20.0, 2.0)  # of Nagel et al.: β falls from 20 to 2
WARM_UP = 0.2  # fraction of the steps before it, without the regularizer
STRETCH = (1.2, -0.1)  # of the gate: h = clip(1.2 σ(V) − 0.1, 0, 1)
_NEAR = 0.8  # of the way from the float weights' gates to those of a start
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PASS = 256  # inputs through the model at once, where nothing is learned
_PATCHES = 1 << 24  # values of a convolution's patches held at once


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
        scale, shift = STRETCH
        self.start = torch.logit(((x - self.lower).clamp(0, 1) - shift) / scale)

    def near(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the variables of gates that lie near those of a rounded *weight*."""
        scale, shift = STRETCH
        up = ((weight - self.lower * self.step) > self.step / 2).to(self.lower.dtype)
        return torch.logit(((1 - _NEAR) * gates_of(self.start) + _NEAR * up - shift) / scale)

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

    def changed(self, weight: torch.Tensor) -> int:
        """Count the weights that are not at the nearest grid point."""
        return int((weight != self.nearest).sum())


def gates_of(variables: torch.Tensor) -> torch.Tensor:
    """Return the gates h = clip(1.2 σ(V) − 0.1, 0, 1) of their *variables* V."""
    scale, shift = STRETCH
    return (scale * variables.sigmoid() + shift).clamp(0, 1)


def exponent_at(step: int, steps: int) -> float | None:
    """Return the regularizer's exponent at a step, None during the warm-up."""
    begin = WARM_UP * steps
    if step < begin:
        return None
    (start, end), done = BETAS, (step - begin) / max(1.0, steps - begin)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class Quadratic:
    """A layer's squared output error as a form of its weights: D G D' + 2 D C + c, D = rounded − float, by groups."""

    def __init__(self, layer: nn.Module):
        self.layer, self.groups = layer, getattr(layer, "groups", 1)
        self.weight = self._rows(layer.weight)
        groups, out, width = self.weight.shape
        options = {"dtype": torch.float64, "device": layer.weight.device}
        self.gram, self.cross = torch.zeros(groups, width, width, **options), torch.zeros(groups, out, width, **options)
        self.rest, self.count = 0.0, 0

    def _rows(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(self.groups, -1, weight[0].numel())

    def add(self, x: torch.Tensor, target: torch.Tensor) -> None:
        """Take in the quantized prefix's inputs *x* and the float outputs *target* of the layer."""
        each = 1 if isinstance(self.layer, nn.Linear) else self.layer.weight[0, 0].numel()
        size = max(1, _PATCHES * len(x) // (x.numel() * each))
        for part, y in zip(x.split(size), target.split(size)):
            error = _channels_last(self.layer, self.layer(part) - y)
            patches, error = _patches(self.layer, part), error.reshape(len(error), self.groups, -1)
            patches = patches.reshape(len(patches), self.groups, -1)
            self.gram += torch.einsum("mgi,mgj->gij", patches, patches)
            self.cross += torch.einsum("mgo,mgi->goi", error, patches)
            self.rest += float(error.double().square().sum())
            self.count += len(patches)

    def close(self) -> None:
        """Turn sums into means, in the weights' own type."""
        kind = self.weight.dtype
        self.gram, self.cross = (self.gram / self.count).to(kind), (self.cross / self.count).to(kind)
        self.rest /= self.count

    def __call__(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the error at *weight* and its gradient."""
        change = self._rows(weight.detach()) - self.weight
        half = change @ self.gram + self.cross
        return (change * (half + self.cross)).sum() + self.rest, (2 * half).reshape(weight.shape)


def _channels_last(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Return one row for each input or position, one column for each output channel."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    if output.ndim == len(layer.kernel_size) + 1:  # without a batch axis
        output = output[None]
    return output.movedim(1, -1).reshape(-1, output.shape[1])


def _patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what each output position of *layer* sees of *x*, one row a position, group by group."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    sides = len(layer.kernel_size)
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation), 2):
        x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + sides).reshape(-1, math.prod((x.shape[1], *layer.kernel_size)))


def learn_by_layer(
    reference, rounded, grids: dict[str, Grid], inputs, *, steps, learning_rate, regularization, bar
) -> dict:
    """Learn the gates of one layer after the other, and put each layer's weights into *rounded*."""
    losses, nearest_errors, errors, undecided, fell_back = {}, {}, {}, {}, []
    for name, grid in grids.items():
        error = Quadratic(reference.get_submodule(name))
        for part in inputs.split(PASS):
            target = caught(reference, name, part, output=True)
            error.add(caught(rounded, name, part, output=False), target)
        error.close()
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
            leaf = part.clone().requires_grad_()
            logits = reference(leaf)
            pair = torch.from_numpy(np.stack(top_pair(logits), 1)).to(part.device)
            margin = pair_margin(logits, pair)
            (gradient,) = torch.autograd.grad(margin.sum(), leaf)
            rows.append((pair, margin.detach(), torch.linalg.vector_norm(gradient.flatten(1), dim=1)))
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


def endless_batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of *size* of *count* indices for ever, each pass over them in another order."""
    while True:
        yield from torch.randperm(count, generator=generator)[: count - count % size].split(size)


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of *model* at *inputs*, without gradients, a few inputs at a time."""
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(PASS)])


class _Reached(Exception):
    """Ends a forward pass once the layer that is looked for has been seen."""


def caught(model: nn.Module, name: str, x: torch.Tensor, *, output: bool) -> torch.Tensor:
    """Return what goes into the layer *name* of *model* at *x*, or its output."""
    kept = []

    def keep(module, args, result=None):
        kept.append(result if output else args[0])
        raise _Reached

    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(keep) if output else layer.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            model(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    return kept[0]


def rounding_grids(
    model: nn.Module, x: torch.Tensor, bits: int, scheme: str, granularity: str, on: str, unquantizable: str
) -> tuple[dict[str, Grid], tuple[str, ...]]:
    """Return the grids of the layers in the order in which they run, and the names of those left in float."""
    owners = {}  # names of the modules that hold a parameter, twice in place if one module is
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name or "model")
    calls = _calls(model, x)
    modules = sorted(model.named_modules(), key=lambda item: calls.get(item[0], [math.inf])[0])
    grids, skipped = {}, []
    for name, layer in modules:
        reason = _unfit(layer, owners, len(calls.get(name, [])), on, granularity)
        if reason and unquantizable == "refuse":
            raise ValueError(f"Layer {name or 'model'!r}: {reason}; unquantizable='skip' leaves it in float.")
        if reason:
            skipped.append(name or "model")
        elif isinstance(layer, LAYERS):
            try:
                grids[name] = Grid(layer.weight, bits, scheme, granularity)
            except ValueError as error:
                raise ValueError(f"Layer {name or 'model'!r}: {error}") from None
    if not grids:
        raise ValueError(
            f"The model ({type(model).__name__}) has no linear or convolution layer to round"
            + (f", with {quoted(skipped)} skipped." if skipped else ".")
        )
    return grids, tuple(skipped)


def _unfit(layer: nn.Module, owners: dict[int, list[str]], calls: int, on: str, granularity: str) -> str:
    """Return why *layer* cannot be quantized, or nothing."""
    if not isinstance(layer, LAYERS):
        weights = any(p.ndim > 1 for p in layer.parameters(recurse=False)) and not isinstance(layer, _NORMS)
        return f"{type(layer).__name__} has weights but is no linear or convolution layer" if weights else ""
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other parameters"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"its weights are {weight.dtype}, and gates are learned in float32 or float64"
    if len(owners[id(weight)]) > 1:
        return f"its weight is tied, {quoted(owners[id(weight)])} hold it"
    if calls == 0 or (calls > 1 and on == "layers"):
        return f"it runs {calls} times in a forward pass, and once is needed"
    channels = weight.detach().reshape(1 if granularity == "tensor" else len(weight), -1)
    equal = (channels == channels[:, :1]).all(1).nonzero()[:, 0].tolist() if channels.shape[1] > 1 else []
    if equal and granularity == "tensor":
        return f"its {weight.numel()} weights are all equal"
    return (
        f"{len(equal)} of {len(channels)} channels hold equal weights only, first channel {equal[0]}" if equal else ""
    )


def _calls(model: nn.Module, x: torch.Tensor) -> dict[str, list[int]]:
    """Return when each quantizable layer runs in a forward pass at *x*: places in the order of all such calls."""
    seen, handles = [], []
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            handles.append(layer.register_forward_pre_hook(lambda *_, name=name: seen.append(name)))
    try:
        logits_of(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: [place for place, other in enumerate(seen) if other == name] for name in seen}


def check_loss(loss: float, step: int, where: str) -> float:
    """Return *loss*, or refuse it if it is not finite."""
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss of {where} is {loss} at step {step + 1}: lower the learning rate or scale the inputs."
        )
    return loss


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


def quoted(names: list[str]) -> str:
    """Return the first three *names* in quotes, and how many more there are."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class StepGrid(Grid):
    """Gates around the grid of a given step, beyond whose ends weights are clipped."""

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, step: torch.Tensor):
        low, high = uniform.level_range(bits, scheme)
        x = (weight / step).clamp(low, high)
        self.step, self.nearest = step, (x.round() + 0.0) * step
        self.lower = x.floor() + 0.0
        self.span = x.ceil() - self.lower
        scale, shift = STRETCH
        self.start = torch.logit(((x - self.lower) - shift) / scale)


def step_grids(reference, inputs, bits: int, scheme: str, step_sizes: dict[str, float] | None) -> dict[str, Grid]:
    """Return the rounding grids of all layers by name, on PTQ-W's steps or on those given."""
    uniform.level_range(bits, scheme)
    grids, _ = rounding_grids(reference, inputs[:1], bits, scheme, "tensor", "logits", "refuse")
    if step_sizes is None:
        return grids
    if set(step_sizes) != set(grids):
        raise ValueError(f"Step sizes are of {quoted(sorted(step_sizes))}: give those of {quoted([*grids])}.")
    for name, size in step_sizes.items():
        check_number(f"Step size of {name!r}", size, zero=False)
    weights = {name: reference.get_submodule(name).weight for name in grids}
    return {
        name: StepGrid(weight, bits, scheme, torch.tensor(step_sizes[name], dtype=weight.dtype))
        for name, weight in weights.items()
    }


def with_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Copy *model* in eval mode, with the *weights* of the named layers."""
    out = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            out.get_submodule(name).weight.copy_(weight)
    return out
