"""
Inputs of every kind as batches.

Inputs are an array, a tensor or a data frame with one row a sample, or a dictionary of such; a split is inputs, or the
pair (inputs, classes), or something that gives batches of either, such as a torch DataLoader.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse

from .._checks import check_finite, check_integer, check_logits, is_tensor, needed, one_line, to_numpy
from . import forms, loaders

_DIVERGED = "the model diverged or its input was not scaled"
_BATCH, _VALUES = 512, 1 << 24  # samples at a time, fewer if one batch would hold more values than this


class Batch(NamedTuple):
    """Samples that go through a classifier at once."""

    start: int  # index of the first one in its split
    inputs: object
    classes: np.ndarray | None


def read(logits, batch: Batch, name: str) -> np.ndarray:
    """
    Check what a classifier returned for *batch* and return it as logits, one row for each of its samples.

    A logit may be −∞, by which a classifier rules a class out, but not every one of a sample.
    """
    return decided(logits, batch, name)[0]


def decided(logits, batch: Batch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits as :func:`read` does, and the decisions, whose values alone tell whether a row is refused."""
    array, count = check_logits(as_array(logits, name), name, finite=False), length(batch.inputs)
    decision = array.argmax(axis=1)
    if not np.isfinite(array[np.arange(len(array)), decision]).all():  # the largest is NaN if any is
        low = np.isneginf(array)
        if (none := low.all(axis=1)).any():
            raise ValueError(
                f"{name} are −∞ for every class in {none.sum()} rows of {len(array)}, first at sample "
                f"{batch.start + none.argmax()}: leave at least one class."
            )
        bad = _not_finite(batch.inputs, logits)
        advice = f"the inputs hold {bad}, too; clean or impute them" if bad else _DIVERGED
        check_finite(name, np.where(low, 0, array), advice, ("sample", "class"), (batch.start,))
    if len(array) != count:
        raise ValueError(f"{name} have {len(array)} rows for {count} inputs: the classifier must give one row each.")
    return array, decision


def as_array(output, name: str) -> np.ndarray:
    """Return what a classifier returned as an array, or say in one line what it is instead."""
    kind = "None" if output is None else f"a {type(output).__name__}"
    if isinstance(output, (tuple, Mapping)):
        parts = f" ({', '.join(map(str, output))})" if isinstance(output, Mapping) else ""
        raise ValueError(f"{name} are {kind}{parts}: give a classifier that returns them alone.")
    try:
        array = to_numpy(output)
    except Exception as error:  # of any kind of tensor, array or list
        raise ValueError(f"{name} are {kind} that is no array ({one_line(error)}): give one, (N, K).") from None
    if array.dtype.kind == "O":
        raise ValueError(f"{name} are {kind} that is no array of numbers: give one, (N, K).")
    return array


def length(inputs, name: str = "Inputs") -> int:
    """Return the number of samples, which all arrays of a dictionary must share."""
    if not isinstance(inputs, Mapping):
        return inputs.shape[0]  # sparse matrices have no length
    lengths = {key: value.shape[0] for key, value in inputs.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{key}: {count}" for key, count in lengths.items())
        raise ValueError(f"{name} hold arrays of different lengths ({found}): give one row a sample in each.")
    return next(iter(lengths.values()))


def take(inputs, part: slice):
    """Return a range of samples."""
    if isinstance(inputs, Mapping):
        return {key: take(value, part) for key, value in inputs.items()}
    return inputs.iloc[part] if hasattr(inputs, "iloc") else inputs[part]  # data frames may take numbers for labels


def join(parts: list):
    """Join batches of inputs, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Mapping):
        return {key: join([part[key] for part in parts]) for key in parts[0]}
    if is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    if all(hasattr(part, "tocsr") for part in parts):
        return scipy.sparse.vstack(parts, format="csr")
    return np.concatenate([np.asarray(part) for part in parts])


def _not_finite(inputs, output) -> int:
    """Return how many values of the inputs are not finite; none if they hold the output, as saved logits do."""
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    try:
        arrays, found = [forms.plain_array(part) for part in parts], to_numpy(output)
    except (TypeError, ValueError):  # texts
        return 0
    if any(part.shape == found.shape and np.array_equal(part, found, equal_nan=True) for part in arrays):
        return 0
    return sum(int((~np.isfinite(part)).sum()) for part in arrays if part.dtype.kind == "f")


def shape(inputs):
    """Return the shape of one sample."""
    return {k: shape(v) for k, v in inputs.items()} if isinstance(inputs, Mapping) else tuple(inputs.shape[1:])


def width(inputs) -> int:
    """Return the number of values of one sample."""
    if isinstance(inputs, Mapping):
        return sum(width(value) for value in inputs.values())
    return int(np.prod(inputs.shape[1:], dtype=np.int64))


def usual(inputs) -> int:
    """Return how many samples make a batch where nothing else is said."""
    return max(1, min(_BATCH, _VALUES // max(1, width(inputs))))


def whole_inputs(split, name: str):
    """Return the inputs of a split that is there as a whole, None of one that comes in batches."""
    if callable(split) and not forms.is_inputs(split):
        return None
    return forms.parts_of(split, name)[0] if _whole(split) else None


def bar(split, name: str, passes: int, progress: str):
    """Return a bar of the samples that *passes* classifiers answer to, for a terminal; None if it has no name."""
    if not progress:
        return None
    inputs = whole_inputs(split, name)
    total = None if inputs is None else length(inputs) * passes
    return needed("tqdm", "A progress bar").tqdm(desc=f"{progress}, {name}", total=total, unit="sample", disable=None)


def batches(
    split, name: str, size: int | None = None, known: np.ndarray | None = None, *, listed: bool = False
) -> Iterator[Batch]:
    """
    Yield a split, called *name* in errors, batch by batch.

    It is inputs, (inputs, classes), an iterable of batches or samples of either, a data set, or a function that gives
    one of these. *size* is by default 512 or as many as hold 2^24 values; an iterable brings its own batches. *known*
    are the names of the classes in the order of the columns, if classes may be given by name. A loader that shuffles is
    refused if the samples are to be *listed*.

    >>> [(batch.start, batch.classes.tolist()) for batch in batches((np.eye(3), np.arange(3)), "A split", 2)]
    [(0, [0, 1]), (2, [2])]
    """
    if size is not None:
        size = check_integer("Batch size", size, 1)
    if callable(split) and not forms.is_inputs(split):
        yield from batches(split(), name, size, known, listed=listed)
        return
    if listed:
        loaders.check_listed(split, name)
    whole = _whole(split)
    start, labelled = 0, None
    for item in [split] if whole else forms.batches_of(split, name, size):
        inputs, classes = forms.parts_of(item, name)
        count = length(inputs, f"{name}: inputs")
        if count and classes is not None:
            classes = forms.classes_of(classes, name, known)
            if len(classes) != count:
                raise ValueError(f"{name} has {count} inputs and {len(classes)} classes: give one class an input.")
        if labelled not in (None, classes is not None):
            raise ValueError(f"{name}: some batches have classes and others have none: give classes with all or none.")
        labelled = classes is not None
        step = (size or usual(inputs)) if whole else max(1, count)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            yield Batch(start + first, take(inputs, part), classes[part] if labelled else None)
        start += count
    if start == 0:
        raise ValueError(f"{name} holds no samples: give at least five.")


def _whole(split) -> bool:
    """Return whether a split is there as a whole; else it comes in batches."""
    if isinstance(split, Mapping) or forms.is_inputs(split):
        return True
    if not isinstance(split, (tuple, list)) or len(split) != 2 or forms.is_samples(split):
        return forms.is_rows(split)
    if isinstance(split, tuple) or not all(map(forms.is_inputs, split)) or isinstance(split[1], Mapping):
        return isinstance(split, tuple)
    # Of a list: inputs and classes, not two batches of inputs, if one row of whole numbers is for as many samples.
    classes = to_numpy(split[1])
    return classes.ndim == 1 and classes.dtype.kind in "iu" and length(split[0]) == len(classes)
