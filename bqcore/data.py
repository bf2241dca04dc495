"""Data sets as float32 tensors in the model's input units, with seeded, stratified splits."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .checks import check_integer, check_share


class Split(NamedTuple):
    """Training and test inputs (N, ...) with their classes (N,)."""

    train_inputs: torch.Tensor
    train_classes: torch.Tensor
    test_inputs: torch.Tensor
    test_classes: torch.Tensor


def digits(seed: int, test_share: float = 0.25) -> Split:
    """
    Give the digits set that ships with scikit-learn: 1,797 images of 8 × 8, pixels / 16, stratified at random.

    Parameters
    ----------
    seed : int
        Of the split alone.
    test_share : float
        0.25 keeps 450 images for the test, as the paper's 438/450 asks.

    Returns
    -------
    Split
        Inputs float32 (N, 64) in [0, 1], classes int64 (N,).
    """
    seed = check_integer("Seed", seed, 0)
    test_share = check_share("Test share", test_share)
    pixels, classes = load_digits(return_X_y=True)
    parts = train_test_split(
        (pixels / 16).astype("float32"), classes, test_size=test_share, random_state=seed, stratify=classes
    )
    x_train, x_test, y_train, y_test = (torch.from_numpy(part) for part in parts)
    return Split(x_train, y_train, x_test, y_test)
