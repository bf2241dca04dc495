"""
Local geometry of a decision boundary from logits and input gradients.

A classifier is here any callable that maps a tensor of inputs, shape (N, ...), to logits, shape (N, K), row by row and
differentiably: a torch module in eval mode, for example. Gradients are taken in the inputs' own floating-point type.
Lengths are L2 in the model's input units, over all axes but the first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .._checks import check_finite, check_integer, check_logits, check_same_shape, to_numpy
from .decisions import top_pair

Classifier = Callable[[torch.Tensor], torch.Tensor]


class Radius(NamedTuple):
    """Local logit-margin radius of each input, with the winning class and the rival that attains it."""

    radius: np.ndarray
    winner: np.ndarray
    rival: np.ndarray
    flat: int  # pairs (winner, other) whose margin has no gradient; their radius is infinite


class LocalChange(NamedTuple):
    """What quantization does to the margin of each input's float top-2 pair (a, b), frozen."""

    displacement: np.ndarray  # first-order boundary displacement, signed; NaN where the float margin is flat
    normal_variation: np.ndarray  # 1 − cos between the two normals, in [0, 2]; NaN where either margin is flat
    winner: np.ndarray
    runner_up: np.ndarray
    third_class: np.ndarray  # True where the candidate decides for neither a nor b
    flat_reference: int
    flat_candidate: int


def radius(classifier: Classifier, inputs: torch.Tensor, *, batch_size: int = 4096) -> Radius:
    """
    Give the local logit-margin radius r(x) = min over j ≠ c of (z_c − z_j) / ‖∇(z_c − z_j)‖, c the decision at x.

    To first order, the distance from x to the decision boundary: one DeepFool step (Moosavi-Dezfooli et al. 2016).
    It is neither a lower nor an upper bound of the true distance.

    Parameters
    ----------
    classifier : callable, inputs (N, ...) -> logits (N, K)
    inputs : float tensor, shape (N, ...), N >= 1
    batch_size : int
        Inputs, and gradients, that go through the classifier at once: the memory does not grow with N or K.

    Returns
    -------
    Radius
        ``radius`` (N,) in input units: 0 on a tie at the top, infinite where no pair has a gradient.

    Raises
    ------
    ValueError
        If inputs or logits are empty, not finite or of the wrong shape, K < 2, or the logits have no finite gradient.

    Examples
    --------
    >>> line = torch.nn.Linear(2, 2).double()
    >>> _ = line.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([0.0, 5.0])})
    >>> radius(line, torch.zeros(1, 2, dtype=torch.float64)).radius
    array([1.])
    """
    inputs = _check_inputs(inputs)
    batch_size = check_integer("Batch size", batch_size, 1)
    parts = [_radius(classifier, x, start, batch_size) for x, start in _batches(inputs, batch_size)]
    *columns, flat = zip(*parts)
    return Radius(*(np.concatenate(column) for column in columns), sum(flat))


def _radius(classifier: Classifier, x: torch.Tensor, start: int, batch_size: int):
    logits, gradient = _logits(classifier, x, "Logits", start)
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


def local_change(
    reference: Classifier, candidate: Classifier, inputs: torch.Tensor, *, batch_size: int = 4096
) -> LocalChange:
    """
    Give first-order boundary displacement ("local boundary shift") and normal variation at each input.

    With (a, b) the float classifier's top-2 pair at x and m = z_a − z_b: the displacement is
    (m_q − m_f) / ‖∇m_f‖, how far the pair's boundary moves along its normal to first order, positive away from x;
    the normal variation is 1 − cos of the angle between ∇m_f and ∇m_q.

    Parameters
    ----------
    reference, candidate : callable, inputs (N, ...) -> logits (N, K)
        The float and the quantized classifier.
    inputs : float tensor, shape (N, ...), N >= 1
    batch_size : int
        Inputs that go through a classifier at once.

    Returns
    -------
    LocalChange
        Displacement in input units, normal variation in [0, 2], both (N,), with the pair and what was flat.

    Raises
    ------
    ValueError
        As :func:`radius`, or if the classifiers differ in K.
    """
    inputs = _check_inputs(inputs)
    batch_size = check_integer("Batch size", batch_size, 1)
    parts = [_local_change(reference, candidate, x, start) for x, start in _batches(inputs, batch_size)]
    *columns, flat_reference, flat_candidate = zip(*parts)
    return LocalChange(*(np.concatenate(column) for column in columns), sum(flat_reference), sum(flat_candidate))


def _local_change(reference: Classifier, candidate: Classifier, x: torch.Tensor, start: int):
    z_f, gradient_f = _logits(reference, x, "Reference logits", start)
    z_q, gradient_q = _logits(candidate, x, "Candidate logits", start)
    check_same_shape("Reference logits", z_f, "candidate logits", z_q)
    a, b = top_pair(z_f)
    pair = _pair(z_f, a, b)
    m_f, m_q = _margin(z_f, *pair), _margin(z_q.to(torch.promote_types(z_q.dtype, z_f.dtype)), *pair)
    g_f, g_q = gradient_f(*pair)[0], gradient_q(*pair)[0]
    n_f, n_q = torch.linalg.vector_norm(g_f, dim=1), torch.linalg.vector_norm(g_q, dim=1)
    _check_norms(n_f[:, None], "Reference logits", start)
    _check_norms(n_q[:, None], "Candidate logits", start)
    displacement = torch.where(n_f > 0, (m_q - m_f) / n_f, torch.nan)
    # 1 − cos as half the squared chord of the unit normals: exact 0 for equal normals, no loss for near ones.
    chord = g_f / n_f[:, None] - g_q / n_q[:, None]
    variation = torch.where((n_f > 0) & (n_q > 0), chord.square().sum(1) / 2, torch.nan).clamp(max=2.0)
    decision = to_numpy(z_q.detach().argmax(1))
    third = (decision != a) & (decision != b)
    flat_f, flat_q = int((n_f == 0).sum()), int((n_q == 0).sum())
    return to_numpy(displacement), to_numpy(variation), a, b, third, flat_f, flat_q


class TopMargins(NamedTuple):
    """The top-2 pair (a, b) at each input, its margin m = z_a − z_b, and the length of the margin's gradient."""

    first: np.ndarray
    second: np.ndarray
    margin: np.ndarray
    length: np.ndarray


def top_margins(classifier: Classifier, inputs: torch.Tensor, *, batch_size: int = 125) -> TopMargins:
    """
    Give what displacements are measured by: top-2 pairs, margins and gradient lengths of the float classifier.

    Parameters
    ----------
    classifier : callable, inputs (N, ...) -> logits (N, K)
    inputs : float tensor, shape (N, ...), N >= 1
    batch_size : int
        Inputs that go through the classifier at once.

    Returns
    -------
    TopMargins
        Each (N,). A margin without a gradient has the length 0.

    Raises
    ------
    ValueError
        As :func:`radius`.
    """
    inputs = _check_inputs(inputs)
    parts = []
    for x, start in _batches(inputs, check_integer("Batch size", batch_size, 1)):
        logits, gradient = _logits(classifier, x, "Logits", start)
        first, second = top_pair(logits)
        pair = _pair(logits, first, second)
        length = torch.linalg.vector_norm(gradient(*pair)[0], dim=1)
        _check_norms(length[:, None], "Logits", start)
        parts.append((first, second, to_numpy(_margin(logits, *pair)), to_numpy(length)))
    return TopMargins(*(np.concatenate(column) for column in zip(*parts)))


def displacement(margins: TopMargins, logits) -> np.ndarray:
    """
    Give the first-order boundary displacement of a candidate from its logits alone, as :func:`local_change` has it.

    Parameters
    ----------
    margins : TopMargins
        Of the float classifier.
    logits : array or tensor, shape (N, K)
        The candidate's, at the same inputs.

    Returns
    -------
    displacement : float array, shape (N,)
        Signed, in input units; NaN where the float margin has no gradient.

    Raises
    ------
    ValueError
        If the logits are not of the margins' inputs and classes, or not finite.
    """
    logits = check_logits(logits, "Candidate logits")
    most = int(max(margins.first.max(), margins.second.max()))
    if len(logits) != len(margins.margin) or logits.shape[1] <= most:
        raise ValueError(
            f"Candidate logits have shape {logits.shape}: {len(margins.margin)} inputs and more than {most} classes "
            "are expected."
        )
    rows = np.arange(len(logits))
    change = logits[rows, margins.first] - logits[rows, margins.second] - margins.margin
    return np.divide(change, margins.length, out=np.full(len(rows), np.nan), where=margins.length > 0)


def _batches(inputs: torch.Tensor, size: int) -> zip:
    return zip(inputs.split(size), range(0, len(inputs), size))


def _logits(classifier: Classifier, x: torch.Tensor, name: str, start: int):
    """Give the logits at *x*, and a function that turns winners (N,) and rivals (R, N) into gradients (R, N, D)."""
    layers = _layers(classifier, x)
    logits, gradient = _layerwise(layers, x) if layers else _by_autograd(classifier, x)
    check_logits(logits, name, start)
    if len(logits) != len(x):
        raise ValueError(
            f"{name} have {len(logits)} rows for {len(x)} inputs: the classifier must give one row an input."
        )
    if gradient is None:
        raise ValueError(f"{name} have no gradient: the classifier must be differentiable by torch, without no_grad.")
    return logits, gradient


def _by_autograd(classifier: Classifier, x: torch.Tensor):
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier(leaf)
    if not isinstance(logits, torch.Tensor) or not logits.requires_grad:
        return logits, None

    def gradient(winner: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(len(rivals), *logits.shape, dtype=logits.dtype, device=logits.device)
        weights.scatter_(2, winner[:, None].expand(len(rivals), -1, -1), 1.0).scatter_(2, rivals[:, :, None], -1.0)
        found = torch.autograd.grad(logits, leaf, weights, retain_graph=True, allow_unused=True, is_grads_batched=True)
        found = found[0] if found[0] is not None else leaf.new_zeros(len(weights), *leaf.shape)
        return found.flatten(2)

    return logits, gradient


def _layers(classifier: Classifier, x: torch.Tensor) -> list[nn.Module]:
    """Give the layers of a plain multilayer perceptron, without those that flatten; [] for any other classifier."""
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


def _pair(logits: torch.Tensor, winner: np.ndarray, rival: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the classes (N,) and the one row of rivals (1, N) that gradients are asked for, where the logits are."""
    return torch.from_numpy(winner).to(logits.device), torch.from_numpy(rival).to(logits.device)[None]


def _margin(logits: torch.Tensor, winner: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    return (logits.gather(1, winner[:, None]) - logits.gather(1, rivals.T))[:, 0].detach()


def _check_norms(norms, name: str, start: int) -> None:
    place = ("sample", "rank")
    check_finite(f"{name}: margin gradients", to_numpy(norms), "move or rescale that input", place, (start,))


def _check_inputs(inputs) -> torch.Tensor:
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise ValueError(
            f"Inputs are {type(inputs).__name__} of {getattr(inputs, 'dtype', 'no type')}: give a float tensor."
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise ValueError(f"Inputs have shape {tuple(inputs.shape)}: give at least one sample, (N, ...).")
    # One sum sees any NaN or infinity at a tenth of the cost of a mask; only then is the place looked for.
    if not math.isfinite(inputs.sum().item()) and not torch.isfinite(inputs).all():
        bad = int((~torch.isfinite(inputs)).sum())
        first = int((~torch.isfinite(inputs.flatten(1))).any(1).nonzero()[0])
        raise ValueError(
            f"Inputs hold {bad} non-finite values of {inputs.numel()}, first at sample {first}: clean the data."
        )
    return inputs
