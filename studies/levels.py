"""The study of Tables 1 and 2 and Figures 1 and 2: what each level moves, and where, between levels."""

import numpy as np
import xarray as xr
from torch import nn

from bqcore._store import along
from bqcore.metrics import label_grids, masks, planes
from bqcore.quantizers import uniform

from . import measures
from .data import splits
from .specs import FLOAT, Levels
from .sweeps import Study, along_seed

GRID_DIMS = {"a", "b", "cell_a", "cell_b", "sample"}  # of what only pictures need


def measure(spec: Levels, split: splits.Split, model: nn.Module) -> xr.Dataset:
    """Quantize the trained *model* and measure every level on the test split and on the training split's slice."""
    levels = {FLOAT: model} | uniform.levels_of(model, spec.bits, scheme=spec.scheme, granularity=spec.granularity)
    plane = planes.pca_plane(split.train_inputs)
    labels = measures.labels_of(levels, plane, spec.nodes)
    return xr.merge([
        measures.of_decisions(measures.logits_of(levels, split.test_inputs), split.test_classes, spec.share),
        measures.of_geometry(levels, split.test_inputs),
        measures.of_slices(labels, plane, split.train_inputs),
        measures.of_boundaries(levels, plane),
        _transitions(levels, labels[spec.nodes[0]], plane, spec),
        _picture(labels[spec.nodes[0]], plane, split),
    ])  # fmt: skip


def _transitions(levels: dict, labels: dict, plane: planes.Plane, spec: Levels) -> xr.Dataset:
    t = np.arange(spec.steps) / (spec.steps - 1)
    rows, names = [], []
    for first, second in zip(spec.bits, spec.bits[1:]):
        inner = uniform.interpolations(levels[first], levels[second], t[1:-1])
        grids = (label_grids.label_grid(model, plane, spec.nodes[0]) for model in inner)
        path = np.stack([labels[first], *grids, labels[second]])
        found, junctions = masks.transition_with_junctions(path)
        names.append(f"{first}→{second}")
        rows.append({
            "junction_steps": ("t", found.junctions), "junction_union": found.union,
            "junction_union_changed": found.union_changed, "changed_cells": found.changed,
            "share_changed": found.share_changed, "share_near": found.share_near,
            "chance_boundary": found.chance_boundary, "chance_slice": found.chance_slice,
            "rearranged_cells": found.rearranged, "share_rearranged_near": found.share_rearranged_near,
            "junction_map": (("t", "cell_b", "cell_a"), junctions),
        })  # fmt: skip
    if not rows:
        return xr.Dataset()
    return along("transition", names, rows).assign_coords(t=t)


def _picture(labels: dict, plane: planes.Plane, split: splits.Split) -> xr.Dataset:
    a, b = plane.nodes(len(next(iter(labels.values()))))
    return xr.Dataset(
        {
            "labels": (("bits", "b", "a"), np.stack(list(labels.values())).astype(np.int8)),
            "score": (("sample", "axis"), plane.project(split.test_inputs)),
            "target": ("sample", split.test_classes.numpy().astype(np.int8)),
        },
        {"bits": list(labels), "a": a, "b": b, "cell_a": (a[1:] + a[:-1]) / 2, "cell_b": (b[1:] + b[:-1]) / 2},
    )


def join(found: dict[Levels, xr.Dataset], spec: Levels) -> xr.Dataset:
    """Join runs along ``seed``, without what only pictures need."""
    slim = {one: run.drop_dims([dim for dim in run.dims if dim in GRID_DIMS]) for one, run in found.items()}
    return along_seed(slim, spec)


STUDY = Study(measure, join)
