"""
One universe of the multiverse: a network, trained once and measured in every reading of the paper's words.

The axes below were fixed before any run, and the first value of each is the baseline's. Those of training need a
network each (:mod:`studies.multiverse.sweep` makes them); all others are derived from one, on grids that nest. On
digits all are measured; of other data sets the abstract claims only what stopping rules do, and so only
their readings are.
"""

import json
from itertools import cycle, product
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore.metrics import decisions, label_grids, masks, planes
from bqcore.quantizers import uniform

from .. import measures, networks, training
from ..data import splits
from ..specs import FLOAT, baseline
from . import readings

BITS = (8, 7, 6, 5, 4, 3, 2)
SLICE_BITS = (8, 4)  # the two levels whose boundary Jaccard on digits the paper states
SHIFT_BITS = (8, 4, 2)
SCALES = ("pixels / 16", "standardized")  # standardized: less the training mean, over its deviation, pixel by pixel
SPLITS = ("75/25", "50/25/25")
KINDS_OF_INPUT = {  # scales and splits by data set; "official": 50,000 / 10,000 / the official test set
    "digits": (SCALES, SPLITS),
    **dict.fromkeys(("mnist", "fashion-mnist"), (("pixels / 255",), ("official",))),
}
PLANES = ("training PCA", "training PCA, padded", "test PCA", "three images")
PADDING = 0.1  # of the padded one: a share of the range, on each side
SHARES = (0.2, 0.15, 0.1)
PLACES = ("test inputs", "band of 20 %", "band of 10 %", "slice boundary")
KINDS = ("changed cells", "cells of other classes")
PARTS = ("calibration", "held-out")
STEPS = (11, 11, 21)  # of a transition on the middle grid, on the coarse one, and there once more
_QUANTIZERS = tuple(product(uniform.SCHEMES, uniform.GRANULARITIES))


class Network(NamedTuple):
    """What one trained network, and what is measured on it, depends on."""

    seed: int
    width: int  # hidden units
    epochs: int
    scale: str  # one of its data set's KINDS_OF_INPUT, as is the split
    split: str
    nodes: int  # a side of the finest grid: one more than a multiple of 4, since the others have half and a quarter
    dataset: str = "digits"

    @property
    def units(self) -> str:
        """Return the units of the inputs, on their scale."""
        return "input units of the scale"

    def text(self) -> str:
        """Return all that the network depends on, as JSON."""
        return json.dumps(self._asdict(), sort_keys=True)

    def stem(self) -> str:
        """Return the name of the file of what is measured on it, without its suffix."""
        words = [self.scale.split()[0], self.split.replace("/", "-"), f"{self.nodes}"]
        return f"seed-{self.seed:03d}-width-{self.width}-epochs-{self.epochs}-{'-'.join(words)}"

    def attrs(self) -> dict:
        """Return the attributes of its result that name what it is."""
        return {"spec": self.text()}


def measure(network: Network) -> xr.Dataset:
    """
    Train one network and measure it in every reading, along ``scheme``, ``granularity`` and the axes of each measure.

    On digits: decisions on the test split; the boundary-mask Jaccard distance by plane, nodes and mask; the local
    boundary shift by place, gradient and pair; the junctions of transitions by grid, count and summary. On all, what
    stopping rules need, if there is a calibration split.
    """
    split = split_of(network)
    model = networks.build("mlp", splits.SHAPES[network.dataset], 10, width=network.width, seed=network.seed)
    inputs, classes = split.train_inputs, split.train_classes
    batch_size = baseline("stopping", network.dataset).batch_size
    training.fit(model, inputs, classes, epochs=network.epochs, seed=network.seed, batch_size=batch_size)
    levels = {
        (scheme, granularity): uniform.levels_of(model, BITS, scheme=scheme, granularity=granularity)
        for scheme, granularity in _QUANTIZERS
    }
    parts = []
    if network.dataset == "digits":
        parts += [
            _decisions(model, levels, split), _jaccard(model, levels, split, network.nodes),
            _shift(model, levels, split, network.nodes), _junctions(levels, split, network.nodes),
        ]  # fmt: skip
    if isinstance(split, splits.StoppingSplit):
        parts.append(_stopping(model, levels, split, network.nodes))
    return xr.merge(parts, compat="identical", join="exact")


def split_of(network: Network) -> splits.Split | splits.StoppingSplit:
    """Return the inputs, on the network's scale, and classes of its split; the test inputs are held out of both."""
    two = network.split == SPLITS[0]
    split = splits.digits(network.seed) if two else splits.stopping_split(network.dataset, network.seed)
    if network.scale != SCALES[1]:
        return split
    mean, deviation = split.train_inputs.mean(0), split.train_inputs.std(0, correction=0)
    deviation[deviation == 0] = 1.0  # a pixel that never changes stays at 0, as scikit-learn has it
    return type(split)(*((part - mean) / deviation if part.is_floating_point() else part for part in split))


def _grids(nodes: int) -> tuple[int, int, int]:
    return nodes, nodes // 2 + 1, nodes // 4 + 1


def _by_quantizer(rows: list[xr.Dataset]) -> xr.Dataset:
    """Join one row for each quantizer along scheme and granularity."""
    kinds = len(uniform.GRANULARITIES)
    halves = [
        xr.concat(rows[i : i + kinds], xr.Variable("granularity", list(uniform.GRANULARITIES)))
        for i in range(0, len(rows), kinds)
    ]
    return xr.concat(halves, xr.Variable("scheme", list(uniform.SCHEMES)))


def _decisions(model: nn.Module, levels: dict, split) -> xr.Dataset:
    inputs, classes = split[-2:]  # of the test
    rows = []
    for of_kind in levels.values():
        found = measures.of_decisions(measures.logits_of({FLOAT: model} | of_kind, inputs), classes, SHARES[0])
        rows.append(found[["accuracy", "flip_rate"]].sel(bits=list(BITS)))
    return _by_quantizer(rows)


def three_images(split) -> torch.Tensor:
    """Return the first three training inputs of three different classes."""
    classes = split.train_classes.tolist()
    first = sorted(classes.index(c) for c in set(classes))[:3]
    return split.train_inputs[first]


def slice_planes(split) -> dict[str, planes.Plane]:
    """Return the plane and box of each of :data:`PLANES`."""
    found = (
        planes.pca_plane(split.train_inputs), planes.pca_plane(split.train_inputs, padding=PADDING),
        planes.pca_plane(split[-2]), readings.plane_through(three_images(split)),
    )  # fmt: skip
    return dict(zip(PLANES, found))


def _masks(classifier: nn.Module, plane: planes.Plane, grids: tuple[int, ...]) -> list[list[np.ndarray]]:
    """Return the masks of every kind on every grid, which are taken from the first."""
    labels = label_grids.label_grid(classifier, plane, grids[0])
    strides = [(grids[0] - 1) // (n - 1) for n in grids]
    return [[mask(labels[::s, ::s]) for mask in readings.MASKS.values()] for s in strides]


def _distances(first: list[list[np.ndarray]], second: list[list[np.ndarray]]) -> list[list[float]]:
    return [[readings.mask_jaccard(a, b) for a, b in zip(*pair)] for pair in zip(first, second)]


def _jaccard(model: nn.Module, levels: dict, split, nodes: int) -> xr.Dataset:
    grids = _grids(nodes)
    out = np.empty((len(_QUANTIZERS), len(SLICE_BITS), len(PLANES), len(grids), len(readings.MASKS)))
    for i, plane in enumerate(slice_planes(split).values()):
        reference = _masks(model, plane, grids)
        for k, of_kind in enumerate(levels.values()):
            for m, bits in enumerate(SLICE_BITS):
                out[k, m, i] = _distances(reference, _masks(of_kind[bits], plane, grids))
    dims = ("slice_bits", "plane", "nodes", "mask")
    coordinates = dict(zip(dims, map(list, (SLICE_BITS, PLANES, grids, readings.MASKS))))
    return _by_quantizer([xr.Dataset({"boundary_jaccard": (dims, one)}, coordinates) for one in out])


def _shift(model: nn.Module, levels: dict, split, nodes: int) -> xr.Dataset:
    plane, inputs = planes.pca_plane(split.train_inputs), split[-2].double()
    points = torch.cat([inputs, torch.from_numpy(boundary_cells(model, plane, _grids(nodes)[-1]))])
    reference = readings.linearize(networks.doubled(model), points)
    count = len(inputs)
    bands = [decisions.boundary_band(reference.logits[:count], share) for share in (SHARES[0], SHARES[-1])]
    places = [np.arange(count), *bands, np.arange(count, len(points))]
    rows = []
    for of_kind in levels.values():
        found = [
            readings.displacements(reference, readings.linearize(networks.doubled(of_kind[bits]), points), plane.axes)
            for bits in SHIFT_BITS
        ]
        medians = [[_median(one[..., place]) for place in places] for one in found]
        dims = ("shift_bits", "place", "gradient", "pair")
        coordinates = dict(zip(dims, map(list, (SHIFT_BITS, PLACES, readings.GRADIENTS, readings.PAIRS))))
        rows.append(xr.Dataset({"displacement": (dims, medians)}, coordinates))
    return _by_quantizer(rows)


def boundary_cells(classifier: nn.Module, plane: planes.Plane, n: int) -> np.ndarray:
    """Return the inputs (M, D) at the centres of the cells that the boundary crosses on n × n nodes."""
    row, column = np.nonzero(masks.boundary_mask(label_grids.label_grid(classifier, plane, n)))
    a, b = ((side[1:] + side[:-1]) / 2 for side in plane.nodes(n))
    return plane.points(a[column], b[row])


def _median(values: np.ndarray) -> np.ndarray:
    """Return the median along the last axis over what is defined; NaN where nothing is."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    return np.nanmedian(values, axis=-1)


def _junctions(levels: dict, split, nodes: int) -> xr.Dataset:
    plane = planes.pca_plane(split.train_inputs)
    _, middle, coarse = _grids(nodes)
    transitions = list(zip(BITS, BITS[1:]))
    rows = []
    for of_kind in levels.values():
        ends = {bits: label_grids.label_grid(model, plane, middle) for bits, model in of_kind.items()}
        counts, near, chance = [], [], []
        for first, second in transitions:
            paths = _paths(of_kind[first], of_kind[second], ends[first], ends[second], plane, coarse)
            moves = [masks.transition(path) for path in paths]
            counts.append([readings.junction_counts(path) for path in paths])
            near.append([(move.share_near, move.share_rearranged_near) for move in moves])
            chance.append([move.chance_boundary for move in moves])
        rows.append(xr.Dataset({
            "junctions": (("transition", "grid", "count", "summary"), np.array(counts, dtype=np.int32)),
            "share_near": (("grid", "kind"), _mean(np.array(near))),
            "chance_boundary": ("grid", _mean(np.array(chance))),
        }, {
            "transition": [f"{first}→{second}" for first, second in transitions],
            "grid": [f"{n} nodes, {s} steps" for n, s in zip((middle, coarse, coarse), STEPS)],
            "count": list(readings.COUNTS), "summary": list(readings.SUMMARIES), "kind": list(KINDS),
        }))  # fmt: skip
    return _by_quantizer(rows)


def _paths(first: nn.Module, second: nn.Module, start, end, plane: planes.Plane, coarse: int) -> list[np.ndarray]:
    """Return the label grids from one level to the next: on the middle grid, on the coarse one, and in finer steps."""
    t = np.arange(STEPS[-1]) / (STEPS[-1] - 1)
    inner = uniform.interpolations(first, second, t[1:-1])
    grids = [label_grids.label_grid(model, plane, n) for model, n in zip(inner, cycle((coarse, len(start))))]
    even = [start, *grids[1::2], end]
    thin = [grid[::2, ::2] for grid in even]
    both = [grid for pair in zip(thin, grids[::2]) for grid in pair] + [thin[-1]]
    return [np.stack(even), np.stack(thin), np.stack(both)]


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is defined; NaN where nothing is."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0.0).sum(axis=0) / there.sum(axis=0)


def _accuracy(logits: torch.Tensor, classes: torch.Tensor) -> float:
    return float((decisions.decide(logits) == classes.numpy()).mean())


def _stopping(model: nn.Module, levels: dict, split: splits.StoppingSplit, nodes: int) -> xr.Dataset:
    grids = _grids(nodes)[1:]
    parts = []
    for inputs, classes in (split[2:4], split[4:6]):
        plane, z = planes.pca_plane(inputs), model(inputs).detach()
        reference = _masks(model, plane, grids)
        rows = []
        for of_kind in levels.values():
            logits = [of_kind[bits](inputs).detach() for bits in BITS]
            jaccard = [_distances(reference, _masks(of_kind[bits], plane, grids)) for bits in BITS]
            in_band = [[decisions.band_flip_rate(z, q, share) for share in SHARES] for q in logits]
            rows.append(xr.Dataset({
                "stopping_loss": ("bits", [_accuracy(z, classes) - _accuracy(q, classes) for q in logits]),
                "stopping_flip_rate": ("bits", [decisions.flips(z, q).rate for q in logits]),
                "stopping_band_flip_rate": (("bits", "share"), in_band),
                "stopping_jaccard": (("bits", "stopping_nodes", "mask"), jaccard),
            }, {
                "bits": list(BITS), "share": list(SHARES), "stopping_nodes": list(grids), "mask": list(readings.MASKS),
            }))  # fmt: skip
        parts.append(_by_quantizer(rows))
    return xr.concat(parts, xr.Variable("part", list(PARTS)))
