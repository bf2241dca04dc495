"""
The multiverse: every reading of the paper's words that can be defended, crossed where they interact.

:mod:`studies.multiverse.choices` has the axes, fixed before any run. Here the networks of a spec are named, and joined.

On digits every choice is crossed. On MNIST and Fashion-MNIST a sample is, stated here before any run too: their only
claims are S5 and S6, that boundary-aware stopping reduces flips. All that a stopping rule depends on is crossed as on
digits, on networks of two widths and two lengths of training, the baseline's first; scale and split are the baseline's.
(Five networks of each kind were meant; three were made, which was decided for time, before any was looked at.)
"""

from itertools import product

import numpy as np
import xarray as xr

from ..specs import Multiverse
from ..sweeps import Study
from .choices import KINDS_OF_INPUT, Network, measure

# Distances that no limit equals: a share may meet its limit exactly, and stays as it is.
_ROUNDED = ("boundary_jaccard", "stopping_jaccard", "displacement", "share_near", "chance_boundary")


def networks(spec: Multiverse, seeds: int) -> list[Network]:
    """Return the networks of *spec*, *seeds* of each kind, seed by seed."""
    scales, splits = KINDS_OF_INPUT[spec.dataset]
    choices = product(range(spec.seed, spec.seed + seeds), spec.width, spec.epochs, scales, splits)
    return [Network(*choice, spec.nodes, spec.dataset) for choice in choices]


def join(found: dict[Network, xr.Dataset], spec: Multiverse) -> xr.Dataset:
    """
    Join what was measured on each network along the axes of training, ``seed`` and those of the measures.

    Distances are rounded to 2^-14, which halves the file. What needs a calibration split has no axis ``split``; a data
    set of one scale and one split has neither axis.
    """
    without, *_, last = found.values()  # on digits without a calibration split, and with one
    scales, splits = KINDS_OF_INPUT[spec.dataset]
    axes = {
        "width": spec.width, "epochs": spec.epochs, "scale": scales, "split": splits,
        "seed": tuple(dict.fromkeys(network.seed for network in found)),
    }  # fmt: skip
    out = {}
    for name, variable in last.data_vars.items():
        here = axes if name in without else axes | {"split": splits[1:]}
        values = np.stack([
            found[Network(seed, width, epochs, scale, split, spec.nodes, spec.dataset)][name].values
            for width, epochs, scale, split, seed in product(*here.values())
        ])  # fmt: skip
        if name in _ROUNDED:
            values = (np.round(values * 2**14) / 2**14).astype(np.float32)
        kept = {axis: choices for axis, choices in here.items() if axis != "split" or name in without}
        values = values.reshape(*map(len, kept.values()), *variable.shape)
        out[name] = ((*kept, *variable.dims), values)
    coordinates = {dim: last[dim] for dim in last.dims} | {axis: list(values) for axis, values in axes.items()}
    joined = xr.Dataset(out, coordinates)
    return joined.squeeze([axis for axis in ("scale", "split") if len(axes[axis]) == 1], drop=True)


STUDY = Study(measure, join, jobs=networks)
