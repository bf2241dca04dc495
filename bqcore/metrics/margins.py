"""
Local geometry of a decision boundary from logits and input gradients.

A classifier is here any callable that maps a tensor of inputs, shape (N, ...), to logits, shape (N, K), row by row and
differentiably: a torch module in eval mode, for example. Gradients are taken in the inputs' own floating-point type, by
:mod:`bqcore.metrics._gradients`, which is imported when first asked for one: it needs torch. Lengths are L2 in the
model's input units, over all axes but the first.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._checks import check_logits


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
    signed_distance_change: np.ndarray  # of the distance to the pair's boundary; NaN where either margin is flat
    winner: np.ndarray
    runner_up: np.ndarray
    third_class: np.ndarray  # True where the candidate decides for neither a nor b
    flat_reference: int
    flat_candidate: int


class TopMargins(NamedTuple):
    """The top-2 pair (a, b) at each input, its margin m = z_a − z_b, and the length of the margin's gradient."""

    first: np.ndarray
    second: np.ndarray
    margin: np.ndarray
    length: np.ndarray

    def displacement(self, logits) -> np.ndarray:
        """
        Return the first-order displacement of a candidate from its logits alone, as :func:`displacement` has it.

        Parameters
        ----------
        logits : array or tensor, shape (N, K)
            The candidate's, at the inputs of these margins.

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
        most = int(max(self.first.max(), self.second.max()))
        if len(logits) != len(self.margin) or logits.shape[1] <= most:
            raise ValueError(
                f"Candidate logits have shape {logits.shape}: {len(self.margin)} inputs and more than {most} classes "
                "are expected."
            )
        rows = np.arange(len(logits))
        change = logits[rows, self.first] - logits[rows, self.second] - self.margin
        return np.divide(change, self.length, out=np.full(len(rows), np.nan), where=self.length > 0)


def radius(classifier: Callable, inputs, *, batch_size: int = 4096) -> Radius:
    """
    Measure the local logit-margin radius r(x) = min over j ≠ c of (z_c − z_j) / ‖∇(z_c − z_j)‖, c the decision at x.

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
    >>> import torch
    >>> import bqcore as bq
    >>> line = torch.nn.Linear(2, 2).double()
    >>> _ = line.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([0.0, 5.0])})
    >>> bq.radius(line, torch.zeros(1, 2, dtype=torch.float64)).radius
    array([1.])
    """
    from ._gradients import batches, radius_of

    parts = [radius_of(classifier, x, start, batch_size) for x, start in batches(inputs, batch_size)]
    *columns, flat = zip(*parts)
    return Radius(*(np.concatenate(column) for column in columns), sum(flat))


def displacement(reference: Callable, candidate: Callable, inputs, *, batch_size: int = 4096) -> np.ndarray:
    """
    Measure the first-order boundary displacement δ(x) = (m_q − m_f) / ‖∇m_f‖, the paper's local boundary shift.

    m = z_a − z_b is the margin of the float classifier's top-2 pair at x. δ is how far this pair's boundary moves along
    its normal, to first order. It reads a shift only where both classifiers have one scale: for q = c · f it is
    (c − 1) r although nothing moved, r being the pair's radius. :func:`signed_distance_change` is free of scale.

    Parameters
    ----------
    reference, candidate : callable, inputs (N, ...) -> logits (N, K)
        The float and the quantized classifier.
    inputs : float tensor, shape (N, ...), N >= 1
    batch_size : int
        Inputs that go through a classifier at once.

    Returns
    -------
    displacement : float array, shape (N,)
        In input units, positive where the boundary moves away from x; NaN where the float margin has no gradient. The
        paper reports the median and the 95th percentile of its magnitude.

    Raises
    ------
    ValueError
        As :func:`radius`, or if the classifiers differ in K.

    Examples
    --------
    >>> import torch
    >>> import bqcore as bq
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> bq.displacement(lambda x: x, lambda x: x + torch.tensor([1.0, 0.0]), x).round(4)
    array([ 0.7071, -0.7071], dtype=float32)
    """
    return local_change(reference, candidate, inputs, batch_size=batch_size).displacement


def signed_distance_change(reference: Callable, candidate: Callable, inputs, *, batch_size: int = 4096) -> np.ndarray:
    """
    Measure the change of the signed distance to the pair's boundary, m_q / ‖∇m_q‖ − m_f / ‖∇m_f‖, free of scale.

    m = z_a − z_b is the margin of the float classifier's top-2 pair at x; each distance is of first order. The change
    is 0 for q = c · f, c > 0, and equals :func:`displacement` to first order where x lies on the boundary.

    Parameters
    ----------
    reference, candidate, inputs, batch_size
        As of :func:`displacement`.

    Returns
    -------
    change : float array, shape (N,)
        In input units, positive where the boundary moves away from x; NaN where either margin has no gradient.

    Raises
    ------
    ValueError
        As :func:`displacement`.

    Examples
    --------
    >>> import torch
    >>> import bqcore as bq
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> bq.signed_distance_change(lambda x: x, lambda x: 2 * x, x)
    array([0., 0.], dtype=float32)
    >>> bq.displacement(lambda x: x, lambda x: 2 * x, x).round(4)
    array([2.1213, 0.7071], dtype=float32)
    """
    return local_change(reference, candidate, inputs, batch_size=batch_size).signed_distance_change


def normal_variation(reference: Callable, candidate: Callable, inputs, *, batch_size: int = 4096) -> np.ndarray:
    """
    Measure the normal variation ν(x) = 1 − cos of the angle between ∇m_f and ∇m_q: how far a boundary's normal turns.

    m = z_a − z_b is the margin of the float classifier's top-2 pair at x.

    Parameters
    ----------
    reference, candidate, inputs, batch_size
        As of :func:`displacement`.

    Returns
    -------
    variation : float array, shape (N,)
        From 0 (equal normals) to 2 (opposite ones); NaN where either margin has no gradient.

    Raises
    ------
    ValueError
        As :func:`displacement`.

    Examples
    --------
    >>> import torch
    >>> import bqcore as bq
    >>> turned = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> bq.normal_variation(lambda x: x, lambda x: x @ turned, torch.tensor([[3.0, 0.0]])).round(4)
    array([2.], dtype=float32)
    """
    return local_change(reference, candidate, inputs, batch_size=batch_size).normal_variation


def local_change(reference: Callable, candidate: Callable, inputs, *, batch_size: int = 4096) -> LocalChange:
    """
    Measure :func:`displacement`, :func:`normal_variation` and :func:`signed_distance_change` at once.

    Parameters
    ----------
    reference, candidate, inputs, batch_size
        As of :func:`displacement`.

    Returns
    -------
    LocalChange
        The three measures, (N,), with the pair, where a third class wins, and how many margins are flat.

    Raises
    ------
    ValueError
        As :func:`displacement`.
    """
    from ._gradients import batches, change_of

    parts = [change_of(reference, candidate, x, start) for x, start in batches(inputs, batch_size)]
    *columns, flat_reference, flat_candidate = zip(*parts)
    return LocalChange(*(np.concatenate(column) for column in columns), sum(flat_reference), sum(flat_candidate))


def top_margins(classifier: Callable, inputs, *, batch_size: int = 125) -> TopMargins:
    """
    Measure what displacements are measured by: top-2 pairs, margins and gradient lengths of the float classifier.

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
    from ._gradients import batches, top_of

    parts = [top_of(classifier, x, start) for x, start in batches(inputs, batch_size)]
    return TopMargins(*(np.concatenate(column) for column in zip(*parts)))


def margin_gradient(classifier: Callable, inputs, winner, rival) -> tuple:
    """
    Return the margin m = z_winner − z_rival at each input and its gradient ∇m with respect to the input.

    Parameters
    ----------
    classifier : callable, inputs (N, ...) -> logits (N, K)
    inputs : float tensor, shape (N, ...), N >= 1
        All go through the classifier at once.
    winner, rival : int arrays or tensors, shape (N,), from 0 to K − 1
        The two classes of each input's margin.

    Returns
    -------
    margin, gradient : tensors, shapes (N,) and (N, ...)
        In units of the logits, and of the logits by the inputs'. What overflows in the classifier is not refused.

    Raises
    ------
    ValueError
        If inputs, logits or classes have the wrong shape or type, or the logits have no gradient.
    """
    from ._gradients import margin_and_gradient

    return margin_and_gradient(classifier, inputs, winner, rival)
