"""Checks of what comes in, with one wording: what is wrong, how much of it, where first, what to do."""

import contextlib
import importlib
import numbers
import sys
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch

# What to install for a package that only some users need; where nothing is said, the package of that name.
_INSTALL = {
    "torch": "'bqcore[torch]'", "safetensors": "'bqcore[torch]'", "onnxruntime": "'bqcore[onnx]'",
    "sklearn": "'bqcore[sklearn]'", "PIL": "pillow",
}  # fmt: skip


class Refusal(ValueError):
    """What is wrong with what was given, in one line that names it; what a foreign classifier raises is none."""


def line_of(error: BaseException, which: int = 0) -> str:
    """Return one line of what an error says, without the full stop, or its kind if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[which][:300].rstrip(".") if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    kind, says = type(error).__name__, line_of(error)
    return kind if says == kind else f"{kind}: {says}"


def needed(module: str, use: str):
    """Return a module of a package that only some users need, or say in one line what to install for *use*."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError:
        install = _INSTALL.get(package, package)
        raise ValueError(f"{use} needs the package {package}, which is not installed: pip install {install}.") from None


def is_tensor(value) -> "TypeGuard[torch.Tensor]":
    """Return whether a value is a torch tensor; where torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value) -> "TypeGuard[torch.nn.Module]":
    """Return whether a value is a torch module; where torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def without_gradients():
    """Return a context in which torch keeps nothing for gradients; nothing happens where torch is not imported."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.inference_mode()


def to_numpy(values) -> np.ndarray:
    """Return *values* (a tensor on any device, any array or nested lists) as a NumPy array, not copied if possible."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.dtype.is_floating_point and values.element_size() == 2 and "bfloat16" in str(values.dtype):
            values = values.float()  # NumPy has no bfloat16; float32 holds every one of its values
        return values.numpy()
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)  # SciPy's sparse ones


def check_finite(
    name: str, values: np.ndarray, advice: str, axes: tuple[str, ...] = (), start: tuple[int, ...] = ()
) -> None:
    """
    Refuse NaN and infinity in *values*; *axes* name the place of the first one, *advice* ends the message.

    *start* is where *values* begin along their first axes, if they are one batch of many.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        first = [i + s for i, s in zip(first, start)] + first[len(start) :]
        place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first)) if axes else f"index {tuple(first)}"
        raise ValueError(f"{name} hold {bad.sum()} non-finite values of {values.size}, first at {place}: {advice}.")


def check_logits(logits, name: str = "Logits", start: int = 0, *, finite: bool = True) -> np.ndarray:
    """
    Return *logits* as a finite float array of shape (N, K), N >= 1 and K >= 2, or raise ValueError.

    *start* is the index of the first sample, if they are one batch of many; without *finite* any number will do.
    """
    array = to_numpy(logits)
    one = "is it a score s, give the columns (0, s); is it a probability p, give (log(1 - p), log p)"
    if array.ndim != 2:
        ask = f"; {one}" if array.ndim == 1 else ""
        raise ValueError(f"{name} have shape {array.shape}: give one row a sample and one column a class, (N, K){ask}.")
    if array.shape[0] == 0:
        raise ValueError(f"{name} hold no samples (shape {array.shape}): give at least one.")
    if array.shape[1] < 2:
        raise ValueError(f"{name} have K = {array.shape[1]} class: a decision boundary needs two; {one}.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} are of type {array.dtype}: give real numbers.")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if finite:
        check_finite(name, array, "the model diverged or its input was not scaled", ("sample", "class"), (start,))
    return array


def check_labels(labels, name: str = "Labels", ndim: int = 1) -> np.ndarray:
    """Return *labels* as a non-empty integer array of *ndim* dimensions, or raise ValueError."""
    array = to_numpy(labels)
    if array.ndim != ndim:
        raise ValueError(f"{name} have shape {array.shape}: expected {ndim} dimension{'s' if ndim > 1 else ''}.")
    if array.size == 0:
        raise ValueError(f"{name} are empty (shape {array.shape}): give at least one.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} are of type {array.dtype}: give class indices as integers.")
    return array


def check_same_shape(name_a: str, a, name_b: str, b) -> None:
    """Refuse two arrays or tensors that do not describe the same samples, nodes or cells."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} have shape {tuple(a.shape)} and {name_b} {tuple(b.shape)}: "
            "both must come from the same inputs, in one order."
        )


def check_integer(name: str, value, low: int, high: int | None = None) -> int:
    """Return *value* as an int in [low, high], or raise ValueError; True and 8.0 are no integers here."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} is {value!r}: give an integer.")
    if value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ValueError(f"{name} is {value}: give an integer {span}.")
    return int(value)


def check_share(name: str, value, low: float = 0.0, high: float = 1.0) -> float:
    """Return *value* as a float in [low, high], or raise ValueError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}: give a number from {low:g} to {high:g}.")
    return float(value)


def check_choice(name: str, value, choices: tuple) -> str:
    """Refuse a *value* that is not one of *choices*."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, choices))}.")
    return value
