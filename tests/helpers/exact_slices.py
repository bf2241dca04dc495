"""Checks of exact slices that their tests share, with the networks that are checked."""

import copy
from itertools import product

import numpy as np
import torch
from torch import nn


def network(*layers) -> nn.Sequential:
    """Build a ReLU network in float64 from (weight, bias) of each layer."""
    modules = []
    for weight, bias in layers:
        weight, bias = np.array(weight, float), np.array(bias, float)
        linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight)), linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def logits_at(model, plane, points) -> np.ndarray:
    inputs = torch.from_numpy(plane.points(points[:, 0], points[:, 1]).reshape(len(points), *plane.shape))
    with torch.no_grad():
        return copy.deepcopy(model).double()(inputs).numpy()


def area_of(ring) -> float:
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(ring, [*ring[1:], *ring[:1]])) / 2


def terms(model, plane) -> float:
    """Bound the terms that the logits are sums of, through all layers: the same map of magnitudes."""
    absolute = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in absolute.parameters():
            p.abs_()
    for module in absolute.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.abs_().neg_()
    corners = np.array([[a, b] for a, b in product(*zip(plane.low, plane.high))])
    reach = np.abs(plane.points(*corners.T)).max(axis=0).reshape(1, *plane.shape)
    with torch.no_grad():
        return float(absolute(torch.from_numpy(reach)).max())


def check_slice(model, plane, exact):
    """
    Check what holds on every exact slice.

    Margins: within 1e-12 of the terms that the logits are sums of; float64 leaves 1e-16 of each. Areas: within 1e-12 of
    the box. Segments and regions: by the divergence theorem, class by class, for fields that vanish on the box's sides; a
    segment too many, too few or of the wrong classes would break it.
    """
    sides = plane.high - plane.low
    box = sides.prod()
    assert abs(exact.areas.sum() - box) <= 1e-12 * box
    area = np.array([area_of((ring - ring[0]).tolist()) for ring in exact.polygons])
    assert (area >= 0).all()
    np.testing.assert_allclose(np.bincount(exact.classes, area, len(exact.areas)), exact.areas, atol=1e-12 * box)
    ends = exact.segments.reshape(-1, 2)
    scale = terms(model, plane)
    if len(ends):
        z = logits_at(model, plane, ends)
        left, right = np.repeat(exact.pairs, 2, axis=0).T
        row = np.arange(len(z))
        assert np.abs(z[row, left] - z[row, right]).max() <= 1e-12 * scale
        assert (z.max(axis=1) - z[row, left]).max() <= 1e-12 * scale
        assert (exact.pairs[:, 0] < exact.pairs[:, 1]).all()
    if len(exact.junctions):
        z = logits_at(model, plane, exact.junctions)
        for values, classes in zip(z, exact.junction_classes):
            assert np.ptp(values[classes[classes >= 0]]) <= 1e-12 * scale
            assert (classes[:3] >= 0).all() and (np.diff(classes[classes >= 0]) > 0).all()
    centre = (plane.low + plane.high) / 2
    for axis in (0, 1):
        # Field u = (low − x)(x − high) along *axis*; its divergence 2 (centre − x) is linear: its mean over a triangle
        # is its value at the centroid. On a segment u is quadratic: Simpson's rule is exact.
        inside = np.zeros(len(exact.areas))
        for ring, label in zip(exact.polygons, exact.classes):
            for p, q in zip(ring[1:-1], ring[2:]):
                triangle = ((p - ring[0])[0] * (q - ring[0])[1] - (p - ring[0])[1] * (q - ring[0])[0]) / 2
                inside[label] += triangle * 2 * (centre[axis] - (ring[0] + p + q)[axis] / 3)
        along = exact.segments[:, 1] - exact.segments[:, 0]
        normal = along[:, 1] if axis == 0 else -along[:, 0]  # to the right of the segment: out of the left region
        three = np.stack([exact.segments[:, 0], exact.segments.mean(axis=1), exact.segments[:, 1]])[..., axis]
        flux = normal * ([1, 4, 1] @ ((three - plane.low[axis]) * (plane.high[axis] - three))) / 6
        outward = np.bincount(exact.pairs[:, 0], flux, len(inside)) - np.bincount(exact.pairs[:, 1], flux, len(inside))
        np.testing.assert_allclose(outward, inside, atol=1e-11 * box * sides[axis])


def check_cells(model, plane, exact, seed=0):
    """Check that every convex piece has the network's own decision at a random point of its inside."""
    weights = np.random.default_rng(seed).dirichlet(np.ones(exact.polygons.shape[1]), len(exact.polygons))
    points = (weights[..., None] * exact.polygons).sum(axis=1)
    z = logits_at(model, plane, points)
    gap = z.max(axis=1) - z[np.arange(len(z)), exact.classes]
    assert gap.max() <= 1e-12 * (1 + np.abs(z).max())
