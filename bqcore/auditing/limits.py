"""Limits that guard a release: the largest rates that an audit may find, and which of them it exceeds."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from .._checks import check_choice, check_share
from .streaming import RATES

LIMITS = (*RATES, "accuracy_loss")
_BY_CLASSES = {name for name in LIMITS if name.startswith(("right_", "wrong_", "accuracy"))}
_ROUNDING = 1e-12  # fractions of N and decimals differ in their last digits: 0.9 - 0.89 > 0.01


def check_limits(limits: Mapping[str, float], *, labelled: bool = True) -> None:
    """
    Refuse limits that cannot be judged: of no name in :data:`LIMITS`, not in [-1, 1], or of what needs classes.

    It takes no audit, only whether held-out classes are given (*labelled*).
    """
    for name, limit in limits.items():
        check_share(f"Limit of {check_choice('A limit', name, LIMITS)}", limit, -1.0)
        if name in _BY_CLASSES and not labelled:
            raise ValueError(
                f"A limit is stated for {name}, which is not measured without classes: give them with the held-out "
                "inputs."
            )


def exceeded(dataset: xr.Dataset, limits: Mapping[str, float]) -> list[str]:
    """
    Return a line for each of the *limits*, by name of :data:`LIMITS`, that the held-out numbers of an audit exceed.

    A rate at its limit does not exceed it.
    """
    held, lines = dataset.sel(split="heldout"), []
    check_limits(limits, labelled=bool(np.isfinite(held.accuracy)))
    for name, limit in limits.items():
        value = float(held.accuracy_reference - held.accuracy if name == "accuracy_loss" else held[name])
        if value > limit + _ROUNDING:
            lines.append(f"{RATES.get(name, 'loss of accuracy')}: {value:.4f} exceeds the limit {limit:g}")
    return lines
