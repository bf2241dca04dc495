"""What tells the samples of a split apart: the names that they are given, and pictures of those that flip."""

import io
from collections.abc import Mapping

import numpy as np

from .._checks import needed, to_numpy
from . import batching, forms

SHOWN = 50  # flipped samples whose pictures are kept, those of lowest margin
_PIXELS = 96  # a side of a picture


def names_of(split, ids=None) -> list[str] | None:
    """Return the names of a split's samples: *ids*, or the files of a folder, or the index of a data frame."""
    inputs = split[0] if isinstance(split, tuple) and len(split) == 2 else split
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if ids is not None:
        if isinstance(ids, str) or not hasattr(ids, "__len__"):
            raise ValueError(f"ids are {type(ids).__name__}: give a list of names, one for each held-out sample.")
        if np.ndim(ids) > 1 and hasattr(ids, "shape"):
            raise ValueError(f"There are ids of shape {ids.shape}: give a list of names, one for each held-out sample.")
        known = [part.shape[0] for part in parts if len(getattr(part, "shape", ())) > 0]
        if known and known[0] != len(ids):
            raise ValueError(f"{_miscounted(ids, known[0])}.")
        return list(map(str, ids))
    if isinstance(named := getattr(split, "ids", None), list):
        return named
    for part in parts:
        index = getattr(part, "index", None) if hasattr(part, "iloc") else None
        if index is not None and list(index) != list(range(len(index))):
            return list(map(str, index))
    return None


def _miscounted(names, count: int) -> str:
    return f"There are {len(names)} ids for {count} held-out samples: give one for each, in their order"


def flipped_names(names: list[str], flipped: np.ndarray, count: int) -> np.ndarray | str:
    """Return the names of the flipped of *count* samples, or say that there are as many as for other samples."""
    if len(names) != count:
        return f"Samples are listed by number. {_miscounted(names, count)}."
    return np.array([names[i] for i in flipped], dtype=object if len(flipped) else "U1")


class Pictures:
    """The inputs of the flipped samples of lowest margin, if they are images."""

    def __init__(self):
        self._found: dict[int, tuple[float, np.ndarray]] = {}

    def add(self, batch: batching.Batch, margin: np.ndarray, flipped: np.ndarray) -> None:
        """Keep what is needed of a batch, of which *margin* and *flipped* are known."""
        if not is_image(batch.inputs):
            return
        rows = np.flatnonzero(flipped)
        for row in rows[np.argsort(margin[rows], kind="stable")][:SHOWN]:
            self._found[batch.start + int(row)] = (
                float(margin[row]),
                to_numpy(batching.take(batch.inputs, slice(row, row + 1)))[0].copy(),
            )
        lowest = sorted(self._found, key=lambda sample: (self._found[sample][0], sample))[:SHOWN]
        self._found = {sample: self._found[sample] for sample in lowest}

    def made(self) -> dict[int, bytes]:
        """Return the pictures as PNG by sample, by growing margin; none where Pillow is not installed."""
        pictures = {sample: picture(pixels) for sample, (_, pixels) in self._found.items()}
        return {sample: png for sample, png in pictures.items() if png is not None}


def is_image(inputs) -> bool:
    """Return whether inputs are images: (N, channels, height, width) or (N, height, width, channels)."""
    shape = getattr(inputs, "shape", ())
    return len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)) and min(sorted(shape[1:])[1:]) >= 8


def picture(pixels: np.ndarray) -> bytes | None:
    """Return one image as PNG: 8-bit values and those in [0, 1] as they are, others from lowest to highest."""
    try:
        pillow = needed("PIL.Image", "A picture")
    except ValueError:
        return None
    values = forms.plain_array(pixels)
    values = np.moveaxis(values, 0, -1) if values.shape[0] in (1, 3) else values
    if values.dtype != np.uint8:
        values = np.nan_to_num(values.astype(np.float64))
        low, high = values.min(), values.max()
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        values = np.round(255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    image = pillow.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.thumbnail((_PIXELS, _PIXELS))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
