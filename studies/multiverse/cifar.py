"""
The multiverse on CIFAR-10, and on digits for comparison: one network, by every reading of the paper's words.

All axes were fixed before any run, and the first value of each is the baseline's, but for two: the order of nodes is
that of the grids, and the baseline's network of the full set is the strided one. Crossed are:

- the network: architecture and length of training together, with its seeds (:class:`studies.specs.Readings`);
- PTQ-W: one step a tensor with the batch norms in float, one step a tensor after the batch norms are folded, one step a
  channel (folding changes nothing there, since a channel's step scales with its weights); and both step conventions;
- the boundary band: its fraction, and whether the inputs of smallest margin or of smallest radius are in it;
- the ruler: the plane, its extent, the nodes a side and the thickness of the mask. One grid serves all of these: it
  reaches a tenth of the scores' range beyond it, and coarser grids and smaller extents are nodes of it, so that extents
  differ in what they show and not in their step.

What is chosen from these (bits by accuracy or by a boundary measure) is :mod:`studies.multiverse.cifar_judging`'s.
"""

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore.metrics import decisions, label_grids, margins, masks, planes
from bqcore.quantizers import batchnorm, uniform

from .. import sweeps, training
from ..data import splits
from ..specs import Readings, Stopping, baseline
from ..sweeps import Study
from .choices import three_images
from .readings import plane_through

BITS = (8, 7, 6, 5, 4, 3)
STEPS = ("a tensor", "a tensor, batch norms folded", "a channel")
PLANES = ("held-out PCA", "calibration PCA", "three images")
EXTENTS = ("range", "range and a tenth more", "inner 60 %")
THICKNESS = (0, 1, 2)  # cells by which a mask is thickened on every side
SHARES = (0.2, 0.15, 0.1)
NEARNESS = ("margin", "radius")
SPLITS = ("calibration", "held-out")
_BATCH = 100  # what convolutions make of more leaves a core's cache


class Network(NamedTuple):
    """One network of a data set, with the finest grid that it is measured on."""

    dataset: str
    model: str
    width: int
    epochs: int
    seed: int
    nodes: int

    @property
    def units(self) -> str:
        """Return the units of the inputs."""
        return self.trained_by().units

    def trained_by(self) -> Stopping:
        """Return the run of the stopping study that trains this network."""
        usual = baseline("stopping", self.dataset)
        return Stopping(
            dataset=self.dataset, model=self.model, width=self.width, epochs=self.epochs, seed=self.seed,
            batch_size=usual.batch_size, sizes=usual.sizes,
        )  # fmt: skip

    def text(self) -> str:
        """Return all that the result depends on, as JSON."""
        return json.dumps(self._asdict(), sort_keys=True)

    def stem(self) -> str:
        """Return the name of the file of what is measured on it, without its suffix."""
        return f"{self.model}-{self.width}-epochs-{self.epochs}-nodes-{self.nodes}-seed-{self.seed:03d}"

    def attrs(self) -> dict:
        """Return the attributes of its result that name what it is."""
        return {"spec": self.text()}


def jobs(spec: Readings, seeds: int) -> list[Network]:
    """Return the networks of *spec*, *seeds* of each kind, seed by seed."""
    kinds = [name.split() for name in spec.networks]
    return [
        Network(spec.dataset, model, int(width), int(epochs), seed, int(nodes[0]) if nodes else spec.nodes)
        for seed in range(spec.seed, spec.seed + seeds)
        for model, width, epochs, *nodes in kinds
    ]


def measure(network: Network) -> xr.Dataset:
    """Train one network, or load it, and measure PTQ-W in every reading, along ``step``, ``scheme`` and ``bits``."""
    run = network.trained_by()
    split, model = sweeps.split_of(run), sweeps.classifier(run, progress="")
    read = reader(model, split, network.nodes)
    quantized = {STEPS[0]: (model, "tensor"), STEPS[1]: (folded(model), "tensor"), STEPS[2]: (model, "channel")}
    rows = [
        read(uniform.quantize_model(start, bits, scheme=scheme, granularity=granularity)) if start else None
        for start, granularity in quantized.values()
        for scheme in uniform.SCHEMES
        for bits in BITS
    ]
    return stacked(rows, {"step": STEPS, "scheme": uniform.SCHEMES, "bits": BITS})


def folded(model: nn.Module) -> nn.Module | None:
    """Return *model* with its batch norms folded, or nothing if it has none."""
    return batchnorm.fold_batchnorm(model) if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else None


def reader(model: nn.Module, split: splits.StoppingSplit, nodes: int) -> Callable[[nn.Module], xr.Dataset]:
    """Return what measures a quantized model against *model*, the float one, on both splits and all rulers."""
    parts = split[2:4], split[4:6]
    reference = [logits_of(model, inputs) for inputs, _ in parts]
    nearness = [(decisions.margin(z), _radius(model, x)) for z, (x, _) in zip(reference, parts)]
    bands = [[[_lowest(values, share) for share in SHARES] for values in of_split] for of_split in nearness]
    accuracy = [_accuracy(z, classes) for z, (_, classes) in zip(reference, parts)]
    slices = slice_planes(split)
    boundaries = {name: _masks(model, plane, nodes) for name, plane in slices.items()}

    def read(candidate: nn.Module) -> xr.Dataset:
        logits = [logits_of(candidate, inputs) for inputs, _ in parts]
        rates = np.array([
            [
                [
                    (decisions.flips(z[band], q[band]).rate, decisions.pair_order_flip_rate(z[band], q[band]))
                    for band in by_share
                ]
                for by_share in of_split
            ]
            for of_split, z, q in zip(bands, reference, logits)
        ])  # fmt: skip
        distances = [
            [masks.boundary_jaccard(a, b).distance for a, b in zip(boundaries[name], _masks(candidate, plane, nodes))]
            for name, plane in slices.items()
        ]
        lost = [one - _accuracy(q, classes) for one, q, (_, classes) in zip(accuracy, logits, parts)]
        axes = {"extent": EXTENTS, "nodes": _grids(nodes), "thickness": THICKNESS}
        by_band = ("split", "nearness", "share")
        return xr.Dataset({
            "accuracy_lost": ("split", lost),
            "flip_rate": ("split", [decisions.flips(z, q).rate for z, q in zip(reference, logits)]),
            "band_flip_rate": (by_band, rates[..., 0]), "band_pair_order_flip_rate": (by_band, rates[..., 1]),
            "boundary_jaccard": (("plane", *axes), np.reshape(distances, (len(PLANES), *map(len, axes.values())))),
        }, {
            "split": list(SPLITS), "nearness": list(NEARNESS), "share": list(SHARES), "plane": list(PLANES),
            **{name: list(values) for name, values in axes.items()},
        })  # fmt: skip

    return read


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, K) of *model* at *inputs*, in the quicker memory layout."""
    with torch.no_grad():
        return torch.cat([model(x) for x in _laid_out(model, inputs).split(_BATCH)])


def _laid_out(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return *inputs* in the memory layout that is quickest for *model*, which is put into it too."""
    if inputs.ndim < 4:
        return inputs
    layout = training.memory_layout(model)
    model.to(memory_format=layout)
    return inputs.to(memory_format=layout)


def _radius(model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    return margins.radius(model, _laid_out(model, inputs), batch_size=500).radius


def _lowest(values: np.ndarray, share: float) -> np.ndarray:
    """Return the indices of the lowest *share* of *values*, as :func:`decisions.boundary_band` takes them."""
    return np.argsort(values, kind="stable")[: math.ceil(round(share * len(values), 9))]


def _accuracy(logits: torch.Tensor, classes: torch.Tensor) -> float:
    return float((decisions.decide(logits) == classes.numpy()).mean())


def slice_planes(split: splits.StoppingSplit) -> dict[str, planes.Plane]:
    """Return the plane of each of :data:`PLANES`, over the range of its scores and a tenth more on each side."""
    found = (
        planes.pca_plane(split.held_out_inputs, padding=0.1), planes.pca_plane(split.calibration_inputs, padding=0.1),
        plane_through(three_images(split), padding=0.1),
    )  # fmt: skip
    return dict(zip(PLANES, found))


def _grids(nodes: int) -> list[int]:
    """Return the nodes a side of the range, of the finest grid and of those nested in it, down to 11."""
    return [n for n in (81, 41, 21, 11) if n <= nodes]


def _masks(classifier: nn.Module, plane: planes.Plane, nodes: int) -> list[np.ndarray]:
    """Return the boundary masks by extent, nodes and thickness, from one grid."""
    tenth = (nodes - 1) // 10
    labels = label_grids.label_grid(classifier, plane, 12 * tenth + 1)
    bounds = ((tenth, 11 * tenth), (0, 12 * tenth), (3 * tenth, 9 * tenth))  # in the order of EXTENTS
    out = []
    for low, high in bounds:
        for n in _grids(nodes):
            kept = slice(low, high + 1, (nodes - 1) // (n - 1))
            thin = masks.boundary_mask(labels[kept, kept])
            out += [masks.thickened(thin, cells) if cells else thin for cells in THICKNESS]
    return out


def stacked(rows: list[xr.Dataset | None], axes: dict) -> xr.Dataset:
    """Stack one row for each choice of *axes*, in their order; what was not measured is NaN."""
    some = next(row for row in rows if row is not None)
    sizes = tuple(map(len, axes.values()))
    out = {}
    for name, variable in some.data_vars.items():
        values = [np.full(variable.shape, np.nan) if row is None else row[name].values for row in rows]
        out[name] = ((*axes, *variable.dims), np.reshape(values, (*sizes, *variable.shape)))
    return xr.Dataset(out, {**some.coords, **{name: list(values) for name, values in axes.items()}})


def join(found: dict[Network, xr.Dataset], spec: Readings) -> xr.Dataset:
    """Join what was measured along ``seed`` and ``trained``; distances are rounded to 2^-14, which halves the file."""
    seeds = list(dict.fromkeys(network.seed for network in found))
    names = [" ".join(name.split()[:3]) for name in spec.networks]
    # Networks come seed by seed, and their kinds in the spec's order; of some the finest grids are missing.
    rows = [one.reindex(nodes=_grids(spec.nodes)) for one in found.values()]
    joined = stacked(rows, {"seed": seeds, "trained": names})
    for name in joined.data_vars:
        if name.endswith("boundary_jaccard"):
            joined[name] = np.round(joined[name] * 2**14) / 2**14
    return joined.astype(np.float32)


STUDY = Study(measure, join, jobs=jobs)
