"""Inputs and classes in the forms that people have them, brought to a few that a classifier takes."""

import numbers
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from .._checks import check_labels, is_tensor, to_numpy

COLUMNS = "for scikit-learn np.searchsorted(model.classes_, classes)"
CLASS_KEYS = ("classes", "class", "labels", "label", "targets", "target")  # of a dictionary of inputs
_AT_ONCE = 256  # samples of a data set
_SHOWN = 8


def is_inputs(value) -> bool:
    """Return whether a value is an array of samples of some kind, or a dictionary of such."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(is_inputs, value.values()))
    return hasattr(value, "shape") and hasattr(value, "__getitem__") and len(value.shape) > 0


def inputs_of(value, name: str):
    """
    Return inputs as an array, a tensor, a data frame or a dictionary of them, whose rows can be sliced.

    >>> inputs_of([[0.5, 1.0], [2.0, 3.0]], "A split").shape
    (2, 2)
    """
    if isinstance(value, Mapping) and value:
        return {key: inputs_of(part, f"{name}: {key}") for key, part in value.items()}
    if is_rows(value):
        try:
            return np.array(value, dtype=object) if isinstance(value[0], str) else _stack(list(value))
        except ValueError:
            raise ValueError(
                f"{name}: inputs are a {type(value).__name__} of rows of different lengths: pad them, or give batches."
            ) from None
    if isinstance(value, np.ma.MaskedArray):
        if count := int(np.ma.getmaskarray(value).sum()):
            raise ValueError(f"{name}: inputs are masked at {count} of {value.size} places: fill or leave them out.")
        return value.data
    if is_tensor(value) and str(value.layout) != "torch.strided":
        raise ValueError(f"{name}: inputs are a sparse tensor: give it as .to_dense() or as one of scipy.sparse.")
    if hasattr(value, "tocsr"):
        return value.tocsr()  # others of SciPy's have no rows to slice
    if not is_inputs(value):
        kind = type(value).__name__
        raise ValueError(f"{name}: inputs are {kind}: give an array, a tensor, a data frame or a dictionary.")
    return value


def plain_array(values) -> np.ndarray:
    """Return inputs as an array of a type that torch and ONNX Runtime know."""
    array = to_numpy(values)
    if array.dtype.kind == "O":  # of columns of several types, of types with missing values, or of numbers as objects
        array = values.to_numpy(float, na_value=np.nan) if hasattr(values, "iloc") else array.astype(np.float64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_rows(value) -> bool:
    """Return whether a list holds samples: texts, lists of numbers or one-dimensional arrays."""
    if not isinstance(value, (list, tuple)) or not value or _is_sample(value[0]):
        return False
    first = value[0]
    if isinstance(first, str) or getattr(first, "ndim", None) == 1:
        return True
    if not isinstance(first, (list, tuple)):
        return False
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, numbers.Number)


def is_samples(value) -> bool:
    """Return whether a list holds samples with their classes."""
    return all(map(_is_sample, value))


def classes_of(values, name: str, known: np.ndarray | None = None) -> np.ndarray:
    """
    Return true classes as column indices of the logits, (N,).

    They may come as a column, one-hot, as whole numbers of any type, or as names of *known* classes in the order of the
    columns. Numbers are column indices, unless *known* are numbers too.

    >>> classes_of([[0.0, 1.0], [1.0, 0.0]], "A split"), classes_of(["dog", "cat"], "A split", np.array(["cat", "dog"]))
    (array([1, 0]), array([1, 0]))
    """
    array = np.asarray(values) if hasattr(values, "dtype") and not is_tensor(values) else to_numpy(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "O":
        array = _inferred(array, name)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        array = _of_one_hot(array, name)
    if array.ndim != 1:
        raise ValueError(f"{name}: classes have shape {array.shape}: give one class a sample.")
    words = array.dtype.kind in "OSU"
    if known is not None and (words or known.dtype.kind not in "OSU"):
        return _columns(array, name, known)
    if words and len(array):
        raise ValueError(
            f"{name}: classes are names, such as {str(array[0])!r}: give each as the index of its column, {COLUMNS}."
        )
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64)
        bad = whole != array
        if bad.any():
            raise ValueError(
                f"{name}: classes are of type {array.dtype}, and {bad.sum()} of {len(array)} are no whole numbers, "
                f"first {array[bad][0]:g}: give class indices as integers."
            )
        array = whole
    return check_labels(array.astype(np.int64) if array.dtype.kind == "b" else array, f"{name}: classes")


def _inferred(array: np.ndarray, name: str) -> np.ndarray:
    """Return objects in the type of what they are, if none is missing."""
    import pandas as pd  # which xarray brings

    missing = pd.isna(array).ravel()
    if missing.any():
        raise ValueError(
            f"{name}: {missing.sum()} of {len(array)} classes are missing, first at sample {missing.argmax()}: leave "
            "these samples out."
        )
    return np.array(array.tolist())


def _of_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    bad = ~(((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1))
    if bad.any():
        raise ValueError(
            f"{name}: classes have shape {array.shape}, and {bad.sum()} of {len(array)} rows are not one-hot, the "
            f"first of sample {bad.argmax()}: give one class a sample."
        )
    return array.argmax(axis=1)


def _columns(array: np.ndarray, name: str, known: np.ndarray) -> np.ndarray:
    """Return the column of each class by its name."""
    place = {value: column for column, value in enumerate(known.tolist())}
    found, back = np.unique(array, return_inverse=True)
    columns = np.array([place.get(value, -1) for value in found.tolist()], dtype=np.int64)[back]
    if (columns < 0).any():
        bad = columns < 0
        raise ValueError(
            f"{name}: {bad.sum()} of {len(array)} classes are unknown, first {array[bad].tolist()[0]!r}: the "
            f"classifiers know {listed(known)}."
        )
    return columns


def listed(known: np.ndarray) -> str:
    """Return the first names of classes, in words."""
    return ", ".join(map(repr, known.tolist()[:_SHOWN])) + (", …" if len(known) > _SHOWN else "")


def parts_of(item, name: str):
    """Return the inputs and classes of a batch, or of a split that is there as a whole."""
    if isinstance(item, (tuple, list)) and (len(item) == 2 or not is_rows(item)):
        if len(item) not in (1, 2):
            raise ValueError(
                f"{name}: a batch holds {len(item)} parts: give inputs or (inputs, classes); a function can pick them."
            )
        inputs, classes = (*item, None)[:2]
    else:
        inputs, classes = item, None
    inputs = inputs_of(inputs, name)
    if classes is None and isinstance(inputs, Mapping):
        keys = [key for key in CLASS_KEYS if key in inputs]
        if len(keys) == 1 and len(inputs) > 1:
            return {key: value for key, value in inputs.items() if key != keys[0]}, inputs[keys[0]]
    return inputs, classes


def batches_of(source, name: str, size: int | None) -> Iterable:
    """Return the batches of an iterable of batches or of samples, or of a data set that only gives samples by index."""
    if not hasattr(source, "__iter__") and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _gathered((source[i] for i in range(len(source))), name, size or _AT_ONCE)
    if not hasattr(source, "__iter__") or isinstance(source, (str, bytes)) or getattr(source, "ndim", 1) == 0:
        raise ValueError(f"{name} is {type(source).__name__}: give inputs, (inputs, classes) or batches of them.")
    items = iter(source)
    first = next(items, None)
    if first is None:
        return ()
    items = _chained(first, items)
    return _gathered(items, name, size or _AT_ONCE) if _is_sample(first) else items


def _chained(first, rest: Iterator) -> Iterator:
    yield first
    yield from rest


def _is_scalar(value) -> bool:
    return isinstance(value, (numbers.Number, str)) or getattr(value, "ndim", None) == 0


def _is_sample(item) -> bool:
    """Return whether an item is one sample, which a class that is one number or name shows."""
    if isinstance(item, Mapping):
        return any(map(_is_scalar, item.values()))
    pair = isinstance(item, (tuple, list)) and len(item) == 2
    if not pair or (_is_scalar(item[0]) and not isinstance(item[0], str)):
        return False
    column = getattr(item[1], "shape", None) == (1,) and hasattr(item[0], "shape") and item[0].shape[0] != 1
    return _is_scalar(item[1]) or column


def _gathered(samples: Iterable, name: str, size: int) -> Iterator:
    """Yield samples as batches, of one shape each."""
    group, last = [], None
    for sample in samples:
        parts = sample if isinstance(sample, (tuple, list)) and not is_rows([sample]) else (sample,)
        if len(parts) not in (1, 2):
            raise ValueError(f"{name}: a sample holds {len(parts)} parts: give inputs or (inputs, class).")
        given = parts[0].values() if isinstance(parts[0], Mapping) else parts[:1]
        shapes = [np.shape(value) for value in given]
        if group and (shapes != last or len(group) == size):
            yield tuple(map(_stack, zip(*group)))
            group = []
        group.append(tuple(parts))
        last = shapes
    if group:
        yield tuple(map(_stack, zip(*group)))


def _stack(values):
    """Return the same part of several samples as one array, tensor or dictionary of them."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _stack([value[key] for value in values]) for key in first}
    if is_tensor(first):
        import torch

        return torch.stack(list(values))
    return np.array(values, dtype=object) if isinstance(first, str) else np.stack(list(map(np.asarray, values)))
