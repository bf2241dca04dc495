"""
Local geometry of a decision boundary from logits and input gradients.

A classifier is here any callable that maps a tensor of inputs, shape (N, ...), to logits, shape (N, K), row by row and
differentiably: a torch module in eval mode, for example. Gradients are taken in the inputs' own floating-point type.
Lengths are L2 in the model's input units, over all axes but the first.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from .checks import check_integer, check_logits
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
        Rows that go through the classifier at once; each input takes K of them (at least one input goes at a time).

    Returns
    -------
    Radius
        ``radius`` (N,) in input units: 0 on a tie at the top, infinite where no pair has a gradient.

    Raises
    ------
    ValueError
        If inputs or logits are empty, not finite or of the wrong shape, or K < 2.

    Examples
    --------
    >>> line = torch.nn.Linear(2, 2).double()
    >>> _ = line.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([0.0, 5.0])})
    >>> radius(line, torch.zeros(1, 2, dtype=torch.float64)).radius
    array([1.])
    """
    inputs = _check_inputs(inputs)
    batch_size = check_integer("Batch size", batch_size, 1)
    with torch.no_grad():
        classes = check_logits(classifier(inputs[:1])).shape[1]
    parts = [_radius(classifier, x, classes) for x in inputs.split(max(1, batch_size // classes))]
    return Radius(*(np.concatenate(column) for column in list(zip(*parts))[:3]), sum(part[3] for part in parts))


def _radius(classifier: Classifier, x: torch.Tensor, classes: int):
    # One forward pass of K copies and one backward pass give all K gradients: copy k asks for the gradient of logit k.
    copies = x.detach().repeat(classes, *[1] * (x.ndim - 1)).requires_grad_(True)
    with torch.enable_grad():
        logits = classifier(copies)
        asked = torch.eye(classes, dtype=logits.dtype, device=logits.device).repeat_interleave(len(x), dim=0)
        (gradients,) = torch.autograd.grad(logits, copies, asked)
    check_logits(logits)
    z = logits.detach()[: len(x)]
    winner = z.argmax(dim=1)
    rows = torch.arange(len(x), device=z.device)
    gradients = gradients.reshape(classes, len(x), -1)
    norms = torch.linalg.vector_norm(gradients[winner, rows] - gradients, dim=2).T
    gaps = z[rows, winner][:, None] - z
    distances = torch.where(norms > 0, gaps / norms, torch.inf)
    distances[gaps == 0] = 0.0
    flat = (norms == 0).sum() - len(x)  # the winner against itself is flat by construction
    distances[rows, winner] = torch.inf
    gaps[rows, winner] = torch.inf
    shortest, rival = distances.min(dim=1)
    rival = torch.where(torch.isinf(shortest), gaps.argmin(dim=1), rival)  # no pair has a gradient: name the runner-up
    return shortest.cpu().numpy(), winner.cpu().numpy(), rival.cpu().numpy(), int(flat)


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
        If inputs or logits are empty, not finite or of the wrong shape, K < 2, or the classifiers differ in K.
    """
    inputs = _check_inputs(inputs)
    batch_size = check_integer("Batch size", batch_size, 1)
    parts = [_local_change(reference, candidate, x) for x in inputs.split(batch_size)]
    *columns, flat_reference, flat_candidate = zip(*parts)
    return LocalChange(*(np.concatenate(column) for column in columns), sum(flat_reference), sum(flat_candidate))


def _local_change(reference: Classifier, candidate: Classifier, x: torch.Tensor):
    z_f, back_f = _logits(reference, x, "Reference logits")
    z_q, back_q = _logits(candidate, x, "Candidate logits")
    if z_f.shape != z_q.shape:
        raise ValueError(f"Reference logits have shape {tuple(z_f.shape)} and candidate logits {tuple(z_q.shape)}.")
    a, b = top_pair(z_f)
    pair = torch.from_numpy(np.stack([a, b], axis=1)).to(z_f.device)
    asked = torch.zeros_like(z_f).scatter_(
        1, pair, torch.tensor([[1.0, -1.0]], dtype=z_f.dtype).expand(len(a), 2).to(z_f.device)
    )
    m_f, m_q = (z_f.detach() * asked).sum(1), (z_q.detach() * asked).sum(1)
    g_f, g_q = back_f(asked), back_q(asked)
    n_f, n_q = torch.linalg.vector_norm(g_f, dim=1), torch.linalg.vector_norm(g_q, dim=1)
    displacement = torch.where(n_f > 0, (m_q - m_f) / n_f, torch.nan)
    # 1 − cos as half the squared chord of the unit normals: exact 0 for equal normals, no loss for near ones.
    chord = g_f / n_f[:, None] - g_q / n_q[:, None]
    variation = torch.where((n_f > 0) & (n_q > 0), chord.square().sum(1) / 2, torch.nan).clamp(max=2.0)
    decision = z_q.detach().argmax(1).cpu().numpy()
    third = (decision != a) & (decision != b)
    return (
        displacement.cpu().numpy(), variation.cpu().numpy(), a, b, third,
        int((n_f == 0).sum()), int((n_q == 0).sum()),
    )  # fmt: skip


def _logits(classifier: Classifier, x: torch.Tensor, name: str):
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier(leaf)
    check_logits(logits, name)
    return logits, lambda asked: torch.autograd.grad(logits, leaf, asked)[0].flatten(1)


def _check_inputs(inputs) -> torch.Tensor:
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise ValueError(
            f"Inputs are {type(inputs).__name__} of {getattr(inputs, 'dtype', 'no type')}: give a float tensor."
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise ValueError(f"Inputs have shape {tuple(inputs.shape)}: give at least one sample, (N, ...).")
    if not torch.isfinite(inputs).all():
        bad = int((~torch.isfinite(inputs)).sum())
        first = int((~torch.isfinite(inputs.flatten(1))).any(1).nonzero()[0])
        raise ValueError(
            f"Inputs hold {bad} non-finite values of {inputs.numel()}, first at sample {first}: clean the data."
        )
    return inputs
