"""
Labels of a network of one hidden layer on a grid, tile by tile: where the corners of a tile settle it, no more is done.

Before its ReLUs the network is affine on the slice. So its logits at a point of a tile are those interpolated between
the tile's corners, but for what the ReLUs that switch inside of it lie below their chords.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

SIDE = 8  # nodes a side of a tile: fewer leave more corners, more leave more tiles that the boundary crosses
_ROUNDING = 1e-12  # of a logit's largest summands; sums of a thousand terms in float64 are off by less


def labels(
    along_a: torch.Tensor, along_b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, most: int
) -> np.ndarray | None:
    """
    Return the labels (B, A) of weight · relu(along_a[j] + along_b[i]) + bias, or None if the logits are not finite.

    All are float64: *along_a* (A, H), *along_b* (B, H), *weight* (K, H), *bias* (K,) or None, K at least 2. About
    *most* nodes are evaluated at once.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    a, b = _side(along_a), _side(along_b)
    spread = weight.amax(0) - weight.amin(0)  # a hidden unit's largest share in the difference of two logits
    largest = a.corners.abs().amax(0) + b.corners.abs().amax(0)
    slack = _ROUNDING * float((weight.abs() @ largest + bias.abs()).max())
    tiles = torch.empty((len(b.low), len(a.low), SIDE, SIDE), dtype=torch.int16)
    buffer = torch.empty(max(most, SIDE**2), weight.shape[1], dtype=torch.float64)
    for rows in _slices(len(b.low), most // len(a.corners) - 1):
        hidden = (a.corners + b.corners[rows.start : rows.stop + 1, None]).relu_()
        logits = _logits(hidden, weight, bias)
        if not math.isfinite(logits.sum()):
            return None
        top, label = logits.max(0)
        least = top - logits.scatter_(0, label[None], -math.inf).amax(0)
        label, least = label.view(hidden.shape[:2]), _over_corners(torch.minimum, least.view(hidden.shape[:2]))
        below = (a.low + b.low[rows, None]).neg_().relu_()
        above = (a.high + b.high[rows, None]).relu_()
        chord = torch.minimum(below, above, out=above)  # relu lies no farther below its chord
        settled = least > (chord @ spread).add_(slack)  # not where one is NaN
        settled &= _over_corners(torch.minimum, label) == _over_corners(torch.maximum, label)
        tiles[rows] = label[:-1, :-1, None, None].to(torch.int16)
        open_ = (~settled).nonzero()
        for part in _slices(len(open_), most // SIDE**2):
            i, j = open_[part].T
            i = i + rows.start
            shape = len(i), SIDE, SIDE, weight.shape[1]
            hidden = torch.add(a.nodes[j, None], b.nodes[i, :, None], out=buffer[: len(i) * SIDE**2].view(shape))
            logits = _logits(hidden.relu_(), weight, bias)
            if not math.isfinite(logits.sum()):
                return None
            tiles[i, j] = logits.max(0).indices.view(shape[:3]).to(torch.int16)
    out = tiles.numpy().transpose(0, 2, 1, 3).reshape(len(b.low) * SIDE, -1)
    return out[: len(along_b), : len(along_a)]


class _Side(NamedTuple):
    """What tiles are made of along one side of the grid."""

    nodes: torch.Tensor  # (tiles, SIDE, H), the last of all repeated
    corners: torch.Tensor  # (tiles + 1, H)
    low: torch.Tensor  # (tiles, H), the lesser of two corners
    high: torch.Tensor


def _side(along: torch.Tensor) -> _Side:
    tiles = -(-len(along) // SIDE)
    nodes = torch.cat([along, along[-1:].expand(tiles * SIDE - len(along), -1)]).view(tiles, SIDE, -1)
    corners = torch.cat([nodes[:, 0], along[-1:]])
    low, high = (of(corners[1:], corners[:-1]) for of in (torch.minimum, torch.maximum))
    return _Side(nodes, corners, low, high)


def _over_corners(of: Callable, values: torch.Tensor) -> torch.Tensor:
    """Reduce values at corners (B + 1, A + 1) over the four of each tile."""
    values = of(values[1:], values[:-1])
    return of(values[:, 1:], values[:, :-1])


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    # (K, nodes): products that give few classes, and maxima over these, take less time where nodes lie side by side.
    return bias[:, None].addmm(weight, hidden.flatten(0, -2).T)


def _slices(count: int, most: int) -> list[slice]:
    """Cut *count* into parts of at most *most*, and of one at least."""
    most = max(1, most)
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]
