"""Data sets as float32 tensors in the model's input units, with seeded, stratified splits."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from bqcore._checks import check_choice, check_integer, check_share

SIZES = {  # of the baseline: training, calibration and held-out inputs
    "digits": (898, 449, 450), "mnist": (50_000, 10_000, 10_000), "fashion-mnist": (50_000, 10_000, 10_000),
    "cifar-10": (5_000, 600, 600), "full-cifar-10": (45_000, 5_000, 10_000),
}  # fmt: skip
SHAPES = {  # of an input
    "digits": (64,), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar-10": (3, 32, 32),
    "full-cifar-10": (3, 32, 32),
}  # fmt: skip
_FULL = "full-"


class Split(NamedTuple):
    """Training and test inputs (N, ...) with their classes (N,)."""

    train_inputs: torch.Tensor
    train_classes: torch.Tensor
    test_inputs: torch.Tensor
    test_classes: torch.Tensor


class StoppingSplit(NamedTuple):
    """Training, calibration and held-out inputs (N, ...) with their classes (N,)."""

    train_inputs: torch.Tensor
    train_classes: torch.Tensor
    calibration_inputs: torch.Tensor
    calibration_classes: torch.Tensor
    held_out_inputs: torch.Tensor
    held_out_classes: torch.Tensor


def digits(seed: int, test_share: float = 0.25) -> Split:
    """
    Return scikit-learn's 1,797 digits, stratified at random: float32 (N, 64), pixels / 16, in [0, 1]. A *test_share* of
    0.25 keeps 450 images for the test, as the paper's 438/450 asks.
    """
    from sklearn.model_selection import train_test_split

    seed = check_integer("Seed", seed, 0)
    test_share = check_share("Test share", test_share)
    inputs, classes = _digits()
    parts = train_test_split(inputs, classes, test_size=test_share, random_state=seed, stratify=classes)
    x_train, x_test, y_train, y_test = (torch.from_numpy(part) for part in parts)
    return Split(x_train, y_train, x_test, y_test)


def stopping_split(
    dataset: str, seed: int, *, train: int | None = None, calibration: int | None = None, held_out: int | None = None
) -> StoppingSplit:
    """
    Split a data set into training, calibration and held-out inputs, stratified at random and disjoint.

    Digits, which have no official test set, are cut in three; held out is what :func:`digits` holds out of the same
    seed. Of the others, training and calibration inputs are drawn from the official training set, held-out ones from
    the official test set; if all of it is held out, it stands in its own order. Numbers are by default ``SIZES``.

    Inputs are float32: digits (N, 64), pixels / 16; MNIST and Fashion-MNIST (N, 1, 28, 28) and CIFAR-10 (N, 3, 32, 32),
    pixels / 255. Those of the full CIFAR-10 have mean 0 and deviation 1 by channel, over the training inputs.
    """
    check_choice("Data set", dataset, tuple(SIZES))
    seed = check_integer("Seed", seed, 0, 2**32 - 1)
    names = ("Training inputs", "Calibration inputs", "Held-out inputs")
    asked = zip(names, (train, calibration, held_out), SIZES[dataset])
    sizes = [check_integer(name, size if size is not None else default, 10) for name, size, default in asked]
    if dataset == "digits":
        inputs, classes = _digits()
        inputs = torch.from_numpy(inputs)
        _check_room(dataset, sizes, len(classes) - sizes[2])
        rest, last = _draw(np.arange(len(classes)), classes, len(classes) - sizes[2], sizes[2], seed)
        parts = [*_draw(rest, classes, *sizes[:2], seed), last]
        pairs = [(inputs[part], torch.from_numpy(classes[part])) for part in parts]
    else:
        from . import archives

        archive = archives.load(dataset.removeprefix(_FULL))
        official, test = (np.arange(len(part)) for part in (archive.train_classes, archive.test_classes))
        _check_room(dataset, sizes, len(official))
        parts = _draw(official, archive.train_classes, *sizes[:2], seed)
        if sizes[2] != len(test):
            if sizes[2] > len(test) - 10:
                raise ValueError(
                    f"{sizes[2]} held-out inputs are asked of the {len(test)} official test images of {dataset}: "
                    f"ask for all of them, or for {len(test) - 10} at most."
                )
            test = _draw(test, archive.test_classes, len(test) - sizes[2], sizes[2], seed)[1]
        pairs = [_tensors(archive.train_images[part], archive.train_classes[part]) for part in parts]
        pairs.append(_tensors(archive.test_images[test], archive.test_classes[test]))
        if dataset.startswith(_FULL):
            _standardize([inputs for inputs, _ in pairs], archive.train_images[parts[0]])
    return StoppingSplit(*(tensor for pair in pairs for tensor in pair))


@cache  # no one changes the arrays: what is drawn of them is a copy
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits and their classes; pages that read results need not wait for scikit-learn."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    return (pixels / 16).astype("float32"), classes


def _check_room(dataset: str, sizes: list[int], there: int) -> None:
    if sizes[0] + sizes[1] > there:
        raise ValueError(
            f"{sizes[0]} training and {sizes[1]} calibration inputs are asked of the {max(there, 0)} that {dataset} "
            "has for them: ask for fewer."
        )


def _draw(pool: np.ndarray, classes: np.ndarray, first: int, second: int, seed: int) -> list[np.ndarray]:
    """Draw two disjoint, stratified parts of *pool*, which holds indices into *classes*."""
    from sklearn.model_selection import train_test_split

    return train_test_split(pool, train_size=first, test_size=second, random_state=seed, stratify=classes[pool])


def _tensors(images: np.ndarray, classes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(images)
    images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255), torch.from_numpy(classes).long()


def _standardize(parts: list[torch.Tensor], images: np.ndarray) -> None:
    """Scale *parts* in place, so that the channels of the first, whose *images* are given, have mean 0, deviation 1."""
    values = np.arange(256) / 255
    for channel in range(images.shape[-1]):
        shares = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size  # few, so exact
        mean = shares @ values
        deviation = np.sqrt(shares @ (values - mean) ** 2)
        for part in parts:
            part[:, channel].sub_(mean).div_(deviation)
