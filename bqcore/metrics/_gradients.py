"""
Input gradients of margins: layer by layer for a plain multilayer perceptron, by autograd for any other classifier.

What :mod:`bqcore.metrics.margins` imports when it is first asked for a gradient, so that all else works without torch.
"""

import math

import numpy as np

from .._checks import (
    check_finite,
    check_integer,
    check_labels,
    check_logits,
    check_same_shape,
    needed,
    to_numpy,
)
from .decisions import top_pair

torch = needed("torch", "The gradient of a margin")
nn = torch.nn


def batches(inputs: torch.Tensor, size: int) -> zip:
    """Return the checked inputs in batches, each with the index of its first one."""
    _check_tensor(inputs)
    size = check_integer("Batch size", size, 1)
    # One sum sees any NaN or infinity at a tenth of the cost of a mask; only then is the place looked for.
    if not math.isfinite(inputs.sum().item()) and not torch.isfinite(inputs).all():
        bad = int((~torch.isfinite(inputs)).sum())
        first = int((~torch.isfinite(inputs.flatten(1))).any(1).nonzero()[0])
        raise ValueError(
            f"Inputs hold {bad} non-finite values of {inputs.numel()}, first at sample {first}: clean the data."
        )
    return zip(inputs.split(size), range(0, len(inputs), size))


def radius_of(classifier, x: torch.Tensor, start: int, batch_size: int) -> tuple:
    """Return the fields of :class:`bqcore.metrics.margins.Radius` for the batch that begins at *start*."""
    logits, gradient = logits_at(classifier, x, "Logits", start)
    values, order = logits.detach().T.sort(dim=0, descending=True, stable=True)
    # One forward pass, then the backward passes of many ranks as one: nine at a time cost half of nine in a row.
    ranks = order[1:].split(max(1, batch_size // len(x)))
    norms = np.concatenate([
        to_numpy(torch.linalg.vector_norm(gradient(order[0], rivals), dim=2)) for rivals in ranks
    ])  # fmt: skip
    _check_norms(norms.T, "Logits", start)
    # What is left is small, where NumPy's calls cost a third of torch's.
    values, order, samples = to_numpy(values), to_numpy(order), np.arange(len(x))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # narrow types overflow
        gaps = values[0] - values[1:]
        distances = gaps / norms  # infinite where a pair has no gradient
    distances[gaps == 0] = 0.0
    nearest = distances.argmin(axis=0)  # the runner-up if no pair has a gradient
    return distances[nearest, samples], order[0], order[nearest + 1, samples], int((norms == 0).sum())


def change_of(reference, candidate, x: torch.Tensor, start: int) -> tuple:
    """Return the fields of :class:`bqcore.metrics.margins.LocalChange` for the batch that begins at *start*."""
    z_f, a, b, g_f = reference.at(x, start) if isinstance(reference, Remembered) else _top_gradient(reference, x, start)
    z_q, gradient_q = logits_at(candidate, x, "Candidate logits", start)
    check_same_shape("Reference logits", z_f, "candidate logits", z_q)
    pair = pair_on(z_f, a, b)
    m_f, m_q = margin_of(z_f, *pair), margin_of(z_q.to(torch.promote_types(z_q.dtype, z_f.dtype)), *pair)
    g_q = gradient_q(*pair)[0]
    n_f, n_q = torch.linalg.vector_norm(g_f, dim=1), torch.linalg.vector_norm(g_q, dim=1)
    _check_norms(n_f[:, None], "Reference logits", start)
    _check_norms(n_q[:, None], "Candidate logits", start)
    steep = (n_f > 0) & (n_q > 0)
    moved = torch.where(n_f > 0, (m_q - m_f) / n_f, torch.nan)
    # 1 − cos as half the squared chord of the unit normals: exact 0 for equal normals, no loss for near ones.
    chord = g_f / n_f[:, None] - g_q / n_q[:, None]
    variation = torch.where(steep, chord.square().sum(1) / 2, torch.nan).clamp(max=2.0)
    change = torch.where(steep, m_q / n_q - m_f / n_f, torch.nan)
    decision = to_numpy(z_q.detach().argmax(1))
    third = (decision != a) & (decision != b)
    flat_f, flat_q = int((n_f == 0).sum()), int((n_q == 0).sum())
    return to_numpy(moved), to_numpy(variation), to_numpy(change), a, b, third, flat_f, flat_q


class Remembered:
    """A reference whose logits and gradients are computed once for each batch, however many candidates it meets."""

    def __init__(self, classifier):
        self.classifier, self.found = classifier, {}

    def at(self, x: torch.Tensor, start: int) -> tuple:
        """Return logits, top-2 pair and its margin's gradient for the batch that begins at *start*."""
        if start not in self.found:
            self.found[start] = _top_gradient(self.classifier, x, start)
        return self.found[start]


def _top_gradient(reference, x: torch.Tensor, start: int) -> tuple:
    logits, gradient = logits_at(reference, x, "Reference logits", start)
    a, b = top_pair(logits)
    return logits.detach(), a, b, gradient(*pair_on(logits, a, b))[0]


def top_of(classifier, x: torch.Tensor, start: int) -> tuple:
    """Return the fields of :class:`bqcore.metrics.margins.TopMargins` for the batch that begins at *start*."""
    logits, gradient = logits_at(classifier, x, "Logits", start)
    first, second = top_pair(logits)
    pair = pair_on(logits, first, second)
    length = torch.linalg.vector_norm(gradient(*pair)[0], dim=1)
    _check_norms(length[:, None], "Logits", start)
    return first, second, to_numpy(margin_of(logits, *pair)), to_numpy(length)


def margin_and_gradient(classifier, inputs: torch.Tensor, winner, rival) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`bqcore.metrics.margins.margin_gradient` does."""
    _check_tensor(inputs)
    winner, rival = check_labels(winner, "Winners"), check_labels(rival, "Rivals")
    check_same_shape("Winners", winner, "rivals", rival)
    logits, gradient = logits_at(classifier, inputs, "Logits", finite=False)
    check_same_shape("Winners", winner, "decisions", logits[:, 0])
    low, high = min(winner.min(), rival.min()), max(winner.max(), rival.max())
    if low < 0 or high >= logits.shape[1] or (winner == rival).any():
        raise ValueError(
            f"Winners and rivals run from {low} to {high}: give each input two classes from 0 to {logits.shape[1] - 1}."
        )
    pair = pair_on(logits, winner.astype(np.int64), rival.astype(np.int64))
    return margin_of(logits, *pair), gradient(*pair)[0].reshape(inputs.shape)


def logits_at(classifier, x: torch.Tensor, name: str, start: int = 0, *, finite: bool = True):
    """Return the logits at *x*, and a function that turns winners (N,) and rivals (R, N) into gradients (R, N, D)."""
    layers = _layers(classifier, x)
    logits, gradient = _layerwise(layers, x) if layers else _by_autograd(classifier, x)
    check_logits(logits, name, start, finite=finite)
    if len(logits) != len(x):
        raise ValueError(
            f"{name} have {len(logits)} rows for {len(x)} inputs: the classifier must give one row an input."
        )
    if gradient is None:
        raise ValueError(f"{name} have no gradient: the classifier must be differentiable by torch, without no_grad.")
    return logits, gradient


def pair_on(logits: torch.Tensor, winner: np.ndarray, rival: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes (N,) and the one row of rivals (1, N) that gradients are asked for, where the logits are."""
    return torch.from_numpy(winner).to(logits.device), torch.from_numpy(rival).to(logits.device)[None]


def margin_of(logits: torch.Tensor, winner: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """Return the margin (N,) of a pair as :func:`pair_on` returns it."""
    return (logits.gather(1, winner[:, None]) - logits.gather(1, rivals.T))[:, 0].detach()


def _by_autograd(classifier, x: torch.Tensor):
    """Return logits and gradients of any classifier, or None for the latter if torch cannot differentiate it."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier(leaf.clone())  # what works in place may not do so on a leaf
    if not isinstance(logits, torch.Tensor) or not logits.requires_grad:
        return logits, None

    def gradient(winner: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(len(rivals), *logits.shape, dtype=logits.dtype, device=logits.device)
        weights.scatter_(2, winner[:, None].expand(len(rivals), -1, -1), 1.0).scatter_(2, rivals[:, :, None], -1.0)
        found = torch.autograd.grad(logits, leaf, weights, retain_graph=True, allow_unused=True, is_grads_batched=True)
        found = found[0] if found[0] is not None else leaf.new_zeros(len(weights), *leaf.shape)
        return found.flatten(2)

    return logits, gradient


def _layers(classifier, x: torch.Tensor) -> list[nn.Module]:
    """Return the layers of a plain multilayer perceptron, without those that flatten; [] for any other classifier."""
    # A subclass or a hook may do more than its layers say.
    plain = type(classifier) is nn.Sequential and not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in classifier.modules()
    )
    layers = list(classifier) if plain else []
    flat = [type(m) is nn.Flatten and (m.start_dim, m.end_dim) == (1, -1) for m in layers[:1]] == [True]
    layers = layers[flat:]
    known = [type(m) for m in layers]
    flat = flat or x.ndim == 2
    return layers if flat and {*known} <= {nn.Linear, nn.ReLU} and known[-1:] == [nn.Linear] else []


def _layerwise(layers: list[nn.Module], x: torch.Tensor):
    """Do for a multilayer perceptron what autograd does, by the same operations, without its cost: half of the time."""
    passed = [x.detach().flatten(1)]
    with torch.no_grad():
        for layer in layers:  # a ReLU that works in place would change what is passed on
            passed.append(torch.relu(passed[-1]) if type(layer) is nn.ReLU else layer(passed[-1]))

    def gradient(winner: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        weight = layers[-1].weight
        with torch.no_grad():  # what the gradients are made of is theirs alone, so it may change in place
            found = weight.index_select(0, rivals.flatten()).view(*rivals.shape, -1)
            found = torch.sub(weight.index_select(0, winner), found, out=found)
            for layer, before in zip(layers[-2::-1], passed[-3::-1]):
                if type(layer) is nn.ReLU:
                    torch.ops.aten.threshold_backward.grad_input(found, before, 0, grad_input=found)
                else:
                    found = found @ layer.weight
        return found

    return passed[-1], gradient


def _check_tensor(inputs) -> None:
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise ValueError(
            f"Inputs are {type(inputs).__name__} of {getattr(inputs, 'dtype', 'no type')}: give a float tensor."
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise ValueError(f"Inputs have shape {tuple(inputs.shape)}: give at least one sample, (N, ...).")


def _check_norms(norms, name: str, start: int) -> None:
    place = ("sample", "rank")
    check_finite(f"{name}: margin gradients", to_numpy(norms), "move or rescale that input", place, (start,))
