"""GPTQ (Frantar et al. 2023): layer by layer, what a weight loses by rounding the weights after it make up for."""

import copy

import torch
from torch import nn

from .._threads import one_thread
from ._gates import check_inputs, check_number, step_grids, with_weights
from ._layers import layer_error
from .uniform import level_range

DAMPING = 0.01  # of GPTQ's Hessian, as a share of its mean diagonal


def gptq(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, scheme: str = "narrow", damping: float = DAMPING
) -> nn.Module:
    """
    Copy *model* rounded layer by layer with error feedback: what a weight loses, the weights after it make up for.

    Columns come in their stored order, steps are PTQ-W's. The Hessian of a layer is the mean of x xᵀ over what the
    quantized layers before it make of the inputs, plus *damping* times its mean diagonal.

    Parameters
    ----------
    model, inputs, bits, scheme : as in :func:`bqcore.optimize_rounding`, one step for each weight tensor
    damping : float

    Returns
    -------
    rounded : torch module

    Raises
    ------
    ValueError
        If inputs are none or not finite, *damping* is not above 0, or a layer cannot be quantized.

    Examples
    --------
    Inputs that always come together: what the first weight loses by going down, the second makes up for.

    >>> import bqcore as bq
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.4, 1.3, 3.0]])})
    >>> bq.gptq(layer, torch.tensor([[1.0, 1.0, 0.0]]).repeat(8, 1), 3).weight.tolist()
    [[1.0, 2.0, 3.0]]
    """
    inputs = check_inputs(inputs, 1)
    damping = check_number("Damping", damping, zero=False)
    with one_thread(), torch.no_grad():
        reference, grids = step_grids(model, inputs, bits, scheme)
        rounded = copy.deepcopy(reference)
        for name, grid in grids.items():
            form, kept = layer_error(reference, rounded, name, inputs), rounded.get_submodule(name).weight
            how = (float(grid.step), *level_range(bits, scheme))
            rows = [error_feedback(*group, *how, damping=damping) for group in zip(form.weight, form.gram)]
            kept.copy_(torch.stack(rows).reshape(kept.shape))
    return with_weights(model, {name: rounded.get_submodule(name).weight for name in grids})


def error_feedback(
    weight: torch.Tensor, hessian: torch.Tensor, step: float, low: int, high: int, *, damping: float = DAMPING
) -> torch.Tensor:
    """
    Round the columns of *weight* (out, width) one after the other, each error fed to the columns after it (GPTQ).

    *hessian* (width, width) is symmetric and positive semidefinite; *low* and *high* are the ends of the grid in steps.
    *damping* is above 0: what never sees an input has no curvature, and the inverse would not exist.
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
