"""
Optimized rounding (AdaRound, Nagel et al. 2020) on the grids of PTQ-W, with the paper's boundary-gap term.

Each weight goes to the grid point below or above it, whichever a learned gate says. The gates are fitted to the float
model's outputs on calibration inputs, without labels; step sizes, biases and normalization layers stay as they are.
"""

import copy
import math
import numbers
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval
from tqdm import tqdm

from .checks import check_choice, check_finite, check_integer, check_share, to_numpy
from .decisions import boundary_band, top_pair
from .quantize import GRANULARITIES, LAYERS, level_range, quantize, step_size
from .train import one_thread

TARGETS = ("layers", "logits")
BETAS = (20.0, 2.0)  # of Nagel et al.: β falls from 20 to 2
WARM_UP = 0.2  # share of the steps before it, without the regularizer
_STRETCH = (1.2, -0.1)  # of the gate: h = clip(1.2 σ(V) − 0.1, 0, 1)
_NEAR = 0.8  # of the way from the float weights' gates to those of a start
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_PASS = 256  # inputs through the model at once, where nothing is learned
_PATCHES = 1 << 24  # values of a convolution's patches held at once


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
    model: nn.Module, inputs: torch.Tensor, bits: int, *, seed: int, on: str = "layers",
    start: nn.Module | None = None, gap: float = 0.0,
    share: float = 0.2, scheme: str = "narrow", granularity: str = "tensor", steps: int = 1000, batch_size: int = 32,
    learning_rate: float = 0.03, regularization: float = 0.01, unquantizable: str = "refuse", progress: str = "",
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
    inputs : float tensor, shape (N, ...)
        Calibration inputs, at least one batch.
    bits, scheme, granularity
        As in :func:`bqcore.quantize.step_size`, whose step sizes these are.
    seed : int
        Of the batches.
    on : {"layers", "logits"}
    start : torch module, optional
        *model* rounded on the same grids, for instance layer by layer; only on the logits. Gates start four fifths of
        the way from the float weights to these, and where they end at a higher loss, these are taken.
    gap : float
        η, 0 or more; only on the logits.
    share : float
        Of the inputs in the low-margin boundary band, in (0, 1].
    steps : int
        Adam's, of each layer or of all on the logits.
    batch_size : int
    learning_rate : float
    regularization : float
        λ. Where the record has many undecided gates (on the logits at few bits), more of it or more steps helps.
    unquantizable : {"refuse", "skip"}
        What to do with layers that cannot be quantized: other layers with weights; weights that are tied, computed, or
        of 16 bits; weights, or per channel those of a channel, that are all equal; layers that do not run, or layer by
        layer run twice. Skipped ones stay in float.
    progress : str
        What a bar with the time left is named; none if empty.

    Returns
    -------
    rounded : torch module
        In eval mode, every quantized weight at one of its two neighbouring grid points.
    record : Record

    Raises
    ------
    ValueError
        If an argument is out of range, inputs are fewer than a batch or not finite, a layer cannot be quantized, the
        band is empty, or a loss is not finite.

    Examples
    --------
    Inputs that always come together: the step is 1, and what one weight loses by going down, the other makes up for.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.4, 1.3, 3.0]])})
    >>> quantize(layer.weight, 3)
    tensor([[1., 1., 3.]])
    >>> rounded, record = optimize_rounding(layer, torch.tensor([[1.0, 1.0, 0.0]]).repeat(32, 1), 3, seed=0)
    >>> rounded.weight.tolist(), record.changed, record.free
    ([[2.0, 1.0, 3.0]], {'': 1}, {'': 2})
    """
    check_choice("Target", on, TARGETS)
    check_choice("Unquantizable", unquantizable, ("refuse", "skip"))
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    seed = check_integer("Seed", seed, 0)
    learning_rate = _check_number("Learning rate", learning_rate, zero=False)
    regularization = _check_number("Regularization", regularization, zero=True)
    gap = _check_number("Gap weight", gap, zero=True)
    share = check_share("Band share", share)
    level_range(bits, scheme)
    check_choice("Granularity", granularity, GRANULARITIES)
    if gap and on == "layers":
        raise ValueError(f"Gap weight is {gap:g} layer by layer: margins are of logits, so choose on='logits'.")
    if start is not None and on == "layers":
        raise ValueError("A start is given layer by layer: choose on='logits', or leave it out.")
    inputs = _check_inputs(inputs, batch_size)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    inputs = inputs.to(next(reference.parameters(), inputs).device)
    with one_thread():
        grids, skipped = _grids(reference, inputs[:1], bits, scheme, granularity, on, unquantizable)
        rounded = copy.deepcopy(reference)
        total = steps * (len(grids) if on == "layers" else 1)
        with tqdm(total=total, desc=progress, unit="step", disable=not progress) as bar:
            options = {"steps": steps, "learning_rate": learning_rate, "regularization": regularization, "bar": bar}
            if on == "layers":
                found = _by_layer(reference, rounded, grids, inputs, **options)
            else:
                band = _Band(reference, inputs, share, batch_size, seed) if gap else None
                found = _on_logits(
                    reference, rounded, grids, inputs, start=None if start is None else _weights_of(start, grids),
                    batch_size=batch_size, seed=seed, gap=gap, band=band, **options,
                )  # fmt: skip
    for ours, theirs in zip(rounded.parameters(), model.parameters()):
        ours.requires_grad_(theirs.requires_grad)
    counts = {
        "free": {name: int(grid.span.sum()) for name, grid in grids.items()},
        "changed": {name: grid.changed(rounded.get_submodule(name).weight) for name, grid in grids.items()},
    }
    return rounded, Record(**found, **counts, skipped=skipped)


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """
    Copy *model* with each batch norm folded into the convolution or linear layer before it; in eval mode.

    A layer without a bias gets one, and an identity stands where the batch norm stood. "Before it" means in one
    ``nn.Sequential``, also inside of other modules, such as the residual blocks of :mod:`bqcore.models`.

    Parameters
    ----------
    model : torch module

    Raises
    ------
    ValueError
        If a batch norm cannot be folded: it keeps no running statistics, follows no convolution or linear layer in an
        ``nn.Sequential``, or it or that layer is used in several places.

    Examples
    --------
    >>> fold_batchnorm(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)))
    Sequential( (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1)) (1): Identity() )
    """
    out = copy.deepcopy(model).eval()
    places = Counter(id(m) for _, m in out.named_modules(remove_duplicate=False))
    owners = Counter(
        id(p) for m in out.modules() for p in m.parameters(recurse=False)
    )  # a weight shared by two layers would be scaled in both
    for parent in list(out.modules()):
        names = list(parent._modules) if isinstance(parent, nn.Sequential) else []
        for before, after in zip(names, names[1:]):
            layer, norm = parent._modules[before], parent._modules[after]
            if not isinstance(layer, LAYERS) or not isinstance(layer.weight, nn.Parameter):
                continue  # a computed weight cannot be scaled in place of the batch norm
            if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
                continue
            if places[id(layer)] == places[id(norm)] == 1 and owners[id(layer.weight)] == 1:
                fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
                parent._modules[before], parent._modules[after] = fuse(layer, norm), nn.Identity()
    left = [name for name, module in out.named_modules() if isinstance(module, _BatchNorm)]
    if left:
        raise ValueError(
            f"Batch norm {_list(left)} cannot be folded: it needs running statistics and, before it in an "
            "nn.Sequential, a convolution or linear layer of its own."
        )
    return out


class _Grid:
    """The two grid points beside each weight of a layer, and gates that choose between them."""

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, granularity: str):
        kind = {"scheme": scheme, "granularity": granularity}
        low, high = level_range(bits, scheme)
        self.step = step_size(weight, bits, **kind)
        self.nearest = quantize(weight, bits, **kind)
        x = weight * (1.0 / self.step)  # as bqcore.quantize has it
        # A weight on the grid but for rounding (the largest one, for instance) has no neighbours to choose from.
        x = torch.where((x - x.round()).abs() <= 4 * torch.finfo(x.dtype).eps * x.abs(), x.round(), x)
        self.lower = x.floor().clamp(low, high) + 0.0
        self.span = x.ceil().clamp(low, high) - self.lower
        scale, shift = _STRETCH
        self.start = torch.logit(((x - self.lower).clamp(0, 1) - shift) / scale)

    def near(self, weight: torch.Tensor) -> torch.Tensor:
        """Give the variables of gates that lie near those of a rounded *weight*."""
        scale, shift = _STRETCH
        up = ((weight - self.lower * self.step) > self.step / 2).to(self.lower.dtype)
        return torch.logit(((1 - _NEAR) * _gate(self.start) + _NEAR * up - shift) / scale)

    def soft(self, gates: torch.Tensor) -> torch.Tensor:
        """Give the weights of *gates* h in [0, 1]."""
        return (self.lower + gates * self.span) * self.step

    def hard(self, variables: torch.Tensor) -> torch.Tensor:
        """Give the weights when every gate goes to the nearer of 0 and 1."""
        return self.soft((_gate(variables.detach()) >= 0.5).to(self.lower.dtype))

    def penalty(self, gates: torch.Tensor, beta: float) -> torch.Tensor:
        """Give Σ 1 − |2h − 1|^β over the weights that have two neighbours."""
        return ((1 - (2 * gates - 1).abs().pow(beta)) * self.span).sum()

    def undecided(self, variables: torch.Tensor) -> int:
        """Count the gates between 0.01 and 0.99."""
        gates = _gate(variables.detach())
        return int(((gates > 0.01) & (gates < 0.99) & (self.span > 0)).sum())

    def changed(self, weight: torch.Tensor) -> int:
        """Count the weights that are not at the nearest grid point."""
        return int((weight != self.nearest).sum())


def _gate(variables: torch.Tensor) -> torch.Tensor:
    scale, shift = _STRETCH
    return (scale * variables.sigmoid() + shift).clamp(0, 1)


def _beta(step: int, steps: int) -> float | None:
    """Give the regularizer's exponent at a step, None during the warm-up."""
    begin = WARM_UP * steps
    if step < begin:
        return None
    (start, end), done = BETAS, (step - begin) / max(1.0, steps - begin)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class _Quadratic:
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
        """Give the error at *weight* and its gradient."""
        change = self._rows(weight.detach()) - self.weight
        half = change @ self.gram + self.cross
        return (change * (half + self.cross)).sum() + self.rest, (2 * half).reshape(weight.shape)


def _channels_last(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Give one row for each input or position, one column for each output channel."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    if output.ndim == len(layer.kernel_size) + 1:  # without a batch axis
        output = output[None]
    return output.movedim(1, -1).reshape(-1, output.shape[1])


def _patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Give what each output position of *layer* sees of *x*, one row a position, group by group."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    sides = len(layer.kernel_size)
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation), 2):
        x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + sides).reshape(-1, math.prod((x.shape[1], *layer.kernel_size)))


def _by_layer(
    reference, rounded, grids: dict[str, _Grid], inputs, *, steps, learning_rate, regularization, bar
) -> dict:
    """Learn the gates of one layer after the other, and put each layer's weights into *rounded*."""
    losses, nearest_errors, errors, undecided, fell_back = {}, {}, {}, {}, []
    for name, grid in grids.items():
        error = _Quadratic(reference.get_submodule(name))
        for part in inputs.split(_PASS):
            target = _caught(reference, name, part, output=True)
            error.add(_caught(rounded, name, part, output=False), target)
        error.close()
        variables = grid.start.clone().requires_grad_()
        optimizer = torch.optim.Adam([variables], lr=learning_rate)
        losses[name] = np.empty(steps)
        for step in range(steps):
            gates = _gate(variables)
            weight, beta = grid.soft(gates), _beta(step, steps)
            loss, gradient = error(weight)
            penalty = weight.new_zeros(()) if beta is None else regularization * grid.penalty(gates, beta)
            losses[name][step] = _finite((loss + penalty).item(), step, f"layer {name!r}")
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


class _Band:
    """The calibration inputs of the boundary band, with the float margin and its gradient's length at each."""

    def __init__(self, reference: nn.Module, inputs: torch.Tensor, share: float, batch_size: int, seed: int):
        band = torch.from_numpy(boundary_band(_logits(reference, inputs), share).copy()).to(inputs.device)
        x, rows = inputs[band], []
        for part in x.split(_PASS):
            leaf = part.clone().requires_grad_()
            logits = reference(leaf)
            pair = torch.from_numpy(np.stack(top_pair(logits), 1)).to(part.device)
            margin = _margin(logits, pair)
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
        self.batches = _batches(len(self.inputs), min(batch_size, len(self.inputs)), generator)

    def term(self, logits: torch.Tensor, rows) -> torch.Tensor:
        """Give the mean squared displacement of *rows*, whose logits after quantization are given."""
        change = _margin(logits, self.pair[rows]) - self.margin[rows]
        return (change / self.length[rows]).square().mean()


def _weights_of(start: nn.Module, grids: dict[str, _Grid]) -> dict[str, torch.Tensor]:
    """Give the weights of *start*, after making sure that each is one of the two grid points beside the float one."""
    out = {}
    for name, grid in grids.items():
        weight = start.get_submodule(name).weight.detach()
        if weight.shape != grid.lower.shape or not ((weight == grid.soft(0.0)) | (weight == grid.soft(1.0))).all():
            raise ValueError(
                f"The start's layer {name or 'model'!r} is not rounded on this grid: round it at these bits."
            )
        out[name] = weight.clone()
    return out


def _margin(logits: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    of_pair = logits.gather(1, pair)
    return of_pair[:, 0] - of_pair[:, 1]


def _on_logits(
    reference,
    rounded,
    grids: dict[str, _Grid],
    inputs,
    *,
    start: dict[str, torch.Tensor] | None,
    steps,
    learning_rate,
    regularization,
    batch_size,
    seed,
    gap,
    band,
    bar,
) -> dict:
    """Learn all gates at once against the float logits, and put the weights into *rounded*."""
    target = _logits(reference, inputs)
    variables = {
        name: (grid.near(start[name]) if start else grid.start.clone()).requires_grad_() for name, grid in grids.items()
    }
    optimizer = torch.optim.Adam(variables.values(), lr=learning_rate)
    batches = _batches(len(inputs), batch_size, torch.Generator().manual_seed(seed))
    losses = np.empty(steps)

    def measured(weights: dict[str, torch.Tensor]) -> tuple[float, float]:
        with torch.no_grad():
            for name, weight in weights.items():
                rounded.get_submodule(name).weight.copy_(weight)
            error = float((_logits(rounded, inputs) - target).double().square().sum(1).mean())
            return error, float(band.term(_logits(rounded, band.inputs), slice(None))) if band else math.nan

    for step in range(steps):
        gates = {name: _gate(v) for name, v in variables.items()}
        weights = {f"{name}.weight".lstrip("."): grids[name].soft(h) for name, h in gates.items()}
        rows = next(batches).to(inputs.device)
        loss = (functional_call(reference, weights, (inputs[rows],)) - target[rows]).square().sum(1).mean()
        if band:
            near = next(band.batches).to(inputs.device)
            loss = loss + gap * band.term(functional_call(reference, weights, (band.inputs[near],)), near)
        beta = _beta(step, steps)
        if beta is not None:
            loss = loss + regularization * sum(grid.penalty(gates[name], beta) for name, grid in grids.items())
        losses[step] = _finite(loss.item(), step, "the logits")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
    ends = [{name: grid.hard(variables[name]) for name, grid in grids.items()}, *([start] if start else [])]
    ends.append({name: grid.nearest for name, grid in grids.items()})
    found = [measured(end) for end in ends]
    totals = [error + (gap * gap_left if band else 0) for error, gap_left in found]
    best = totals.index(min(totals))
    (nearest_error, nearest_gap), (error, gap_left) = found[-1], measured(ends[best])
    return {
        "losses": {"logits": losses}, "nearest_errors": {"logits": nearest_error}, "errors": {"logits": error},
        "undecided": {name: grid.undecided(variables[name]) for name, grid in grids.items()},
        "fell_back": ("logits",) if best else (), "nearest_gap": nearest_gap, "gap": gap_left,
        "flat": band.flat if band else 0,
    }  # fmt: skip


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Give batches of *size* of *count* indices for ever, each pass over them in another order."""
    while True:
        yield from torch.randperm(count, generator=generator)[: count - count % size].split(size)


def _logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(_PASS)])


class _Reached(Exception):
    """Ends a forward pass once the layer that is looked for has been seen."""


def _caught(model: nn.Module, name: str, x: torch.Tensor, *, output: bool) -> torch.Tensor:
    """Give what goes into the layer *name* of *model* at *x*, or its output."""
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


def _grids(
    model: nn.Module, x: torch.Tensor, bits: int, scheme: str, granularity: str, on: str, unquantizable: str
) -> tuple[dict[str, _Grid], tuple[str, ...]]:
    """Give the grids of the layers in the order in which they run, and the names of those left in float."""
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
                grids[name] = _Grid(layer.weight, bits, scheme, granularity)
            except ValueError as error:
                raise ValueError(f"Layer {name or 'model'!r}: {error}") from None
    if not grids:
        raise ValueError(
            f"The model ({type(model).__name__}) has no linear or convolution layer to round"
            + (f", with {_list(skipped)} skipped." if skipped else ".")
        )
    return grids, tuple(skipped)


def _unfit(layer: nn.Module, owners: dict[int, list[str]], calls: int, on: str, granularity: str) -> str:
    """Say why *layer* cannot be quantized, or nothing."""
    if not isinstance(layer, LAYERS):
        weights = any(p.ndim > 1 for p in layer.parameters(recurse=False)) and not isinstance(layer, _NORMS)
        return f"{type(layer).__name__} has weights but is no linear or convolution layer" if weights else ""
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other parameters"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"its weights are {weight.dtype}, and gates are learned in float32 or float64"
    if len(owners[id(weight)]) > 1:
        return f"its weight is tied, {_list(owners[id(weight)])} hold it"
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
    """Give when each quantizable layer runs in a forward pass at *x*: places in the order of all such calls."""
    seen, handles = [], []
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            handles.append(layer.register_forward_pre_hook(lambda *_, name=name: seen.append(name)))
    try:
        _logits(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: [place for place, other in enumerate(seen) if other == name] for name in seen}


def _finite(loss: float, step: int, where: str) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss of {where} is {loss} at step {step + 1}: lower the learning rate or scale the inputs."
        )
    return loss


def _check_number(name: str, value, *, zero: bool) -> float:
    """Give *value* as a finite float above 0, or of at least 0 if *zero* is allowed."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    if not fits or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} is {value!r}: give a number {'of at least' if zero else 'above'} 0.")
    return float(value)


def _check_inputs(inputs, batch_size: int) -> torch.Tensor:
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


def _list(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
