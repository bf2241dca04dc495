"""
The tolerance study: the Jaccard distance of boundary masks beside one that has no ruler, on networks of every data set.

A mask is one cell thick, so its Jaccard distance depends on the grid. The tolerance Jaccard distance, the share of the
two boundaries' length without a counterpart within a length, should not. Here both are taken from a grid and from one
with half its cells a side, and the latter distance also from the exact boundary where there is one.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from . import arrangement, curves, fixed_bits, measures, quantize, runs, slices, specs, train, train_cifar
from .calibration import SPLITS
from .checks import check_choice, check_integer
from .results import load_dataset, save_dataset
from .specs import FLOAT
from .workers import each

COMMAND = "python -m bqcore tolerance"
SEEDS = 3  # as many as the paper's own runs have
NODES = (41, 21)  # a side; the second grid's nodes are some of the first one's
# Input units. Chosen after a look at 4 bits, so that each data set has some that tell its levels apart; no claim is
# judged by them.
TOLERANCES = (0.02, 0.1, 0.5, 2.0, 10.0)
NETWORKS = {
    f"{spec.dataset} {spec.model}": spec
    for spec in specs.BASELINES
    if (spec.study, spec.granularity) == ("stopping", "tensor")
}
# Table 6: the network whose rounding the paper optimizes.
ROUNDED = {"full-cifar-10 strided-resnet": specs.baseline("rounding", "full-cifar-10")}
_MODULES = ("arrangement", "curves", "tolerance")  # beside those of every run


def sweep(
    networks: tuple[str, ...] | None = None, seeds: int = SEEDS, *, rounded: bool = False, workers: int | None = None
) -> xr.Dataset:
    """
    Measure *seeds* networks of each kind and join them along ``network`` and ``seed``.

    First those that are not published are trained, one after the other. Each is kept as soon as it is trained, and
    measured, so a sweep that was stopped goes on where it stopped.

    Parameters
    ----------
    networks : names of :data:`NETWORKS`, or of :data:`ROUNDED`; optional
        By default all of them.
    seeds : int
        From 0 on.
    rounded : bool
        Compare the ways of rounding of Table 6, in place of levels.
    workers : int, optional
        Processes; by default one a core.

    Returns
    -------
    xarray.Dataset
        Of :func:`measure`, with ``method`` for rounding; NaN at bits that a data set's study does not have.
    """
    known = ROUNDED if rounded else NETWORKS
    networks = tuple(networks or known)
    for name in networks:
        check_choice("network", name, tuple(known))
    seeds = check_integer("seeds", seeds, 1)
    jobs = {(name, seed): replace(known[name], seed=seed) for name in networks for seed in range(seeds)}
    missing = [spec for spec in jobs.values() if not file(spec).exists()]
    with train.one_thread():
        for spec in missing:
            runs.classifier(spec)
    each(
        _make, [(spec, file(spec).absolute()) for spec in missing], total=len(jobs), desc="tolerance", unit="network",
        workers=workers,
    )  # fmt: skip
    per_network = [
        xr.concat([load_dataset(file(jobs[name, seed])) for seed in range(seeds)], xr.Variable("seed", range(seeds)))
        for name in networks
    ]
    out = xr.concat(per_network, xr.Variable("network", list(networks)), combine_attrs="drop_conflicts", join="outer")
    out = out.sortby("bits", ascending=False)
    words = ["--rounding"] if rounded else []
    words += [] if networks == tuple(known) else [f"'{name}'" for name in networks]
    words += [] if seeds == SEEDS else [f"--seeds {seeds}"]
    spec = {"study": "tolerance", "networks": list(networks), "rounded": rounded, "seed": 0, "seeds": seeds}
    out.attrs |= {"command": " ".join([COMMAND, *words]), "spec": json.dumps(spec, sort_keys=True)}
    if (networks, seeds) == (tuple(known), SEEDS):
        save_dataset(out, joined_file(rounded=rounded))
    return out


def file(spec: specs.Stopping) -> Path:
    """Give the file of one network's measures."""
    return folder() / f"{spec.study}-{spec.dataset}-{spec.model}-seed-{spec.seed:03d}.nc"


def folder() -> Path:
    """Give the folder of the fresh results; other code or packages, another folder."""
    content = runs.provenance() | {"tolerance": runs.code_digest(_MODULES)}
    return runs.FRESH / f"tolerance-{runs.key(content)}"


def joined_file(*, rounded: bool = False) -> Path:
    """Give the file of all networks' results."""
    return folder() / ("rounding.nc" if rounded else "all.nc")


def _make(spec: specs.Stopping, path: Path) -> None:
    split = runs.split_of(spec)
    with train.one_thread():
        model, planes = runs.classifier(spec), [slices.pca_plane(inputs) for inputs in (split[2], split[4])]
        if spec.study == "rounding":
            reference = fixed_bits.reference_of(model)
            per_bits = []
            for bits in spec.bits:
                made = {name: q for name, (q, _) in fixed_bits.rounded_models(spec, reference, split, bits).items()}
                per_bits.append(_on_planes(reference, dict(enumerate(made.values())), planes))
                per_bits[-1] = per_bits[-1].rename(bits="method").assign_coords(method=list(made))
            out = xr.concat(per_bits, xr.Variable("bits", list(spec.bits)))
        else:
            how = {"scheme": spec.scheme, "granularity": spec.granularity}
            out = _on_planes(model, quantize.levels_of(model, spec.bits, **how), planes)
    for name, (says, unit) in _LONG_NAMES.items():
        out[name].attrs = {"long_name": says, "units": unit}
    out.attrs = {
        "title": "Boundary-aware quantization: Jaccard distances with and without a ruler",
        **{key: json.dumps(value, sort_keys=True) for key, value in runs.provenance().items()},
    }
    save_dataset(out, path)


def _on_planes(reference: nn.Module, candidates: dict[int, nn.Module], planes: list[slices.Plane]) -> xr.Dataset:
    return xr.concat([measure(reference, candidates, plane) for plane in planes], xr.Variable("split", list(SPLITS)))


def measure(
    reference: nn.Module, levels: dict[int, nn.Module], plane: slices.Plane, *, nodes: tuple[int, int] = NODES,
    tolerances: tuple[float, ...] = TOLERANCES,
) -> xr.Dataset:  # fmt: skip
    """
    Compare each level's boundary on a slice with the float one, by masks and by lengths.

    Parameters
    ----------
    reference : torch module in eval mode
        The float classifier.
    levels : dict of torch modules by bits
    plane : Plane
    nodes : two ints
        Nodes a side of both grids.
    tolerances : tuple of float
        In input units.

    Returns
    -------
    xarray.Dataset
        Along ``bits``: ``boundary_jaccard`` and ``effective_displacement`` of masks, along ``nodes``;
        ``tolerance_jaccard`` of boundaries from interpolated logits, along ``nodes`` and ``tau``;
        ``exact_tolerance_jaccard``, NaN unless the classifiers are ReLU MLPs.
    """
    labels = measures.labels_of({FLOAT: reference} | levels, plane, nodes)
    out = measures.of_slices(labels, plane)[["boundary_jaccard", "effective_displacement"]].sel(bits=list(levels))
    found = {n: [_interpolated(model, plane, n) for model in (reference, *levels.values())] for n in nodes}
    per_grid = [[_jaccards(one, other, tolerances) for other in others] for one, *others in found.values()]
    out["tolerance_jaccard"] = ("nodes", "bits", "tau"), np.array(per_grid)
    exact = np.full((len(levels), len(tolerances)), np.nan)
    if is_relu_mlp(reference):
        one, *others = (arrangement.exact_slice(model, plane).segments for model in (reference, *levels.values()))
        exact = np.array([_jaccards(one, other, tolerances) for other in others])
    out["exact_tolerance_jaccard"] = ("bits", "tau"), exact
    return out.reset_coords(drop=True).assign_coords(tau=list(tolerances))


def is_relu_mlp(model: nn.Module) -> bool:
    """Tell whether a network is one that has exact slices: flat, linear layers and ReLUs alone."""
    return all(isinstance(part, (nn.Flatten, nn.Linear, nn.ReLU)) for part in list(model.modules())[1:])


def best(found: xr.Dataset) -> xr.DataArray:
    """Give the tolerance Jaccard distance from exact boundaries where there are any, else from the finer grid."""
    return found.exact_tolerance_jaccard.fillna(found.tolerance_jaccard.sel(nodes=found.nodes.max()))


def _interpolated(model: nn.Module, plane: slices.Plane, n: int) -> np.ndarray:
    """Give the boundary's segments from float32 logits, whose rounding is far below what interpolation leaves out."""
    layout = train_cifar.memory_layout(model)
    copied = copy.deepcopy(model).to(memory_format=layout)
    return arrangement.interpolated_slice(_float32(copied, layout), plane, n).segments


def _float32(model: nn.Module, layout: torch.memory_format) -> Callable:
    def logits(points: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(points).float()
        if inputs.ndim == 4:
            inputs = inputs.to(memory_format=layout)
        return model(inputs).double().numpy()

    return logits


def _jaccards(one: np.ndarray, other: np.ndarray, tolerances: tuple[float, ...]) -> list[float]:
    return [curves.tolerance_jaccard(one, other, tolerance) for tolerance in tolerances]


_LONG_NAMES = {
    "boundary_jaccard": measures.LONG_NAMES["boundary_jaccard"],
    "effective_displacement": measures.LONG_NAMES["effective_displacement"],
    "tolerance_jaccard": ("tolerance Jaccard distance, from interpolated logits", "share of the boundaries' length"),
    "exact_tolerance_jaccard": ("tolerance Jaccard distance, from exact boundaries", "share of the boundaries' length"),
    "tau": ("tolerance", "input units"),
    "bits": measures.LONG_NAMES["bits"],
    "nodes": measures.LONG_NAMES["nodes"],
}
