"""
The label of every node of a grid on a slice, folded and evaluated quickly where the classifier allows it.

Labels are those of float64.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from .._checks import (
    check_finite,
    check_integer,
    check_labels,
    check_same_shape,
    is_module,
    is_tensor,
    to_numpy,
    without_gradients,
)
from .planes import Plane

_LEAST = 16  # nodes at a time at least: fewer leave a convolution idle
_CACHED = 2**17  # values of the first layer at a time: 1 MB stays in a core's cache
_TILED = 64  # nodes a side from which on tiles take less time
# float32 logits are off by some 1e-6 of the largest one; a top-2 gap below this fraction of it is a close call.
_CLOSE = 1e-3


def label_grid(classifier: Callable, plane: Plane, n: int, *, batch_size: int | None = None) -> np.ndarray:
    """
    Label every node of an n × n grid on *plane*.

    A torch module is evaluated in a float64 copy on the CPU; where it is an nn.Sequential that starts with a linear
    layer (after flattening) or a convolution, that layer is folded onto the plane: its output is affine in the two
    coordinates. If it starts with a convolution, it is evaluated in float32 first, and in float64 where that is a close
    call. Of a ReLU network with one hidden layer many nodes need no evaluation: where the corners of 8 × 8 nodes have
    one label, a bound on how far the ReLUs bend the logits between them mostly settles it. Any other callable gets
    float64 arrays.

    Parameters
    ----------
    classifier : torch module in eval mode, or callable
        Inputs (N, ...) to logits (N, K) or to integer labels (N,).
    plane : Plane
    n : int
        Nodes a side, at least 2.
    batch_size : int, optional
        Nodes that go through the classifier at once; it bounds the memory. By default as many as a core's cache takes.

    Returns
    -------
    labels : int16 array, shape (n, n)
        Rows run along b, columns along a; the first class wins a tie.

    Raises
    ------
    ValueError
        If the classifier's output is neither finite logits nor labels from 0 to 32767, or it takes other inputs.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> plane = bq.Plane(np.zeros(2), np.eye(2), np.zeros(2), np.ones(2), np.ones(2) / 2, (2,))
    >>> bq.label_grid(lambda x: np.stack([x[:, 0], x[:, 1]], axis=1), plane, 3)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 1, 0]], dtype=int16)
    """
    n = check_integer("Nodes a side", n, 2)
    batch_size = None if batch_size is None else check_integer("Batch size", batch_size, 1)
    out = np.empty((n, n), dtype=np.int16)
    with without_gradients():
        tiled = _by_tiles(classifier, plane, n, batch_size)
        if tiled is not None:
            return tiled
        evaluate, values = _evaluator(classifier, plane, *plane.nodes(n))
        batch_size = batch_size or max(_LEAST, _CACHED // values)
        height, width = max(1, batch_size // n), min(n, batch_size)
        for top in range(0, n, height):
            for left in range(0, n, width):
                block = slice(top, top + height), slice(left, left + width)
                out[block] = _labels_of(evaluate(*block), out[block].shape, (top, left))
    return out


def _by_tiles(classifier: Callable, plane: Plane, n: int, batch_size: int | None) -> np.ndarray | None:
    """
    Return the labels of a ReLU network of one hidden layer; None if it is another, its logits are not finite, or the
    grid or the batches are too small for tiles.
    """
    if n < _TILED or (batch_size or n) < n or not is_module(classifier):
        return None
    import torch
    from torch import nn

    from . import _tiles

    layers, _ = _foldable(classifier, plane)
    if [type(layer) for layer in layers] != [nn.Linear, nn.ReLU, nn.Linear] or layers[2].out_features < 2:
        return None
    parameters = layers[0].weight, layers[0].bias, layers[2].weight, layers[2].bias
    weight, bias, *last = (p if p is None else p.detach().to("cpu", torch.float64) for p in parameters)
    offset = nn.functional.linear(torch.from_numpy(plane.origin), weight, bias)
    slopes = nn.functional.linear(torch.from_numpy(plane.axes), weight)
    a, b = (torch.from_numpy(side)[:, None] * slope for side, slope in zip(plane.nodes(n), slopes))
    return _tiles.labels(a, b + offset, *last, most=batch_size or _CACHED // len(weight))


def _evaluator(classifier: Callable, plane: Plane, a: np.ndarray, b: np.ndarray) -> tuple[Callable, int]:
    """Return *classifier* as a function of a block of the grid a × b, and the values that a node has in it at first."""

    def points(rows: slice, columns: slice) -> np.ndarray:
        return plane.points(a[columns], b[rows, None]).reshape(-1, *plane.shape)

    if not is_module(classifier):
        return lambda rows, columns: classifier(points(rows, columns)), len(plane.origin)
    import torch

    model = copy.deepcopy(classifier).to("cpu", torch.float64)
    layers, shape = _foldable(model, plane)
    if not layers:
        return lambda rows, columns: model(torch.from_numpy(points(rows, columns))), len(plane.origin)
    # Both are changed, and may stand elsewhere in the model too. The input of the ReLUs here is fresh.
    first = copy.deepcopy(layers[0])
    rest = torch.nn.Sequential(*(torch.nn.ReLU(True) if type(m) is torch.nn.ReLU else m for m in layers[1:]))
    along_a, along_b, form = _fold(first, plane, shape, a, b)
    values = along_a.shape[1]
    if type(first) is torch.nn.Conv2d:
        quick = copy.deepcopy(rest).to(torch.float32, memory_format=torch.channels_last)
        # The layers behind a convolution gain from more nodes at a time.
        return partial(_close_calls_in_float64, rest, quick, along_a, along_b, form), values // 4
    return _perceptron(rest, along_a, along_b, form), values


def _foldable(model, plane: Plane) -> tuple[list, tuple[int, ...]]:
    """Return the layers of *model* from a first one on that can be folded, with the shape it takes; or no layers."""
    from torch import nn

    # A subclass or a hook may do more than its layers say.
    plain = type(model) is nn.Sequential and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    layers = list(model) if plain else []
    shape = plane.shape
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers, shape = layers[1:], (len(plane.origin),)
    kind = {1: nn.Linear, 3: nn.Conv2d}.get(len(shape))
    if not layers or type(layers[0]) is not kind:
        return [], shape
    taken = layers[0].in_features if kind is nn.Linear else layers[0].in_channels
    if taken != shape[0]:
        raise ValueError(
            f"The classifier takes {taken} {'values' if kind is nn.Linear else 'channels'} and the plane lies in "
            f"{'×'.join(map(str, plane.shape))}: span the plane by the classifier's own inputs."
        )
    return layers, shape


def _fold(first, plane: Plane, shape: tuple[int, ...], a: np.ndarray, b: np.ndarray) -> tuple:
    """
    Fold the layer *first* onto the plane: its output at the node (b_i, a_j) is along_b[i] + along_a[j].

    Returned are along_a and along_b, one row a coordinate, and the shape of one output, channels last.
    """
    import torch

    offset = first(torch.from_numpy(plane.origin).view(1, *shape))
    first.bias = None
    slope_a, slope_b = first(torch.from_numpy(plane.axes).view(2, *shape))
    if len(shape) == 3:  # channels last, as convolutions in float32 are quicker
        offset, slope_a, slope_b = (values.movedim(-3, -1) for values in (offset, slope_a, slope_b))
    along_a = torch.from_numpy(a)[:, None] * slope_a.ravel()
    along_b = torch.from_numpy(b)[:, None] * slope_b.ravel() + offset.ravel()
    return along_a, along_b, offset.shape[1:]


def _perceptron(rest, along_a, along_b, form: tuple[int, ...]) -> Callable:
    """Return logits of a block of the grid by the layers *rest*, which follow a folded linear layer."""
    import torch
    from torch import nn

    buffer = torch.empty(0, dtype=torch.float64)  # fresh memory a block would take half the time

    def sums(in_a: torch.Tensor, in_b: torch.Tensor) -> torch.Tensor:
        shape = np.broadcast_shapes(in_a.shape, in_b.shape)  # torch's own takes longer than the sum
        if buffer.numel() < math.prod(shape):
            buffer.resize_(math.prod(shape))
        return torch.add(in_a, in_b, out=buffer[: math.prod(shape)].view(shape))

    if not all(type(layer) is nn.ReLU or type(layer) is nn.Linear and layer.bias is not None for layer in rest):
        return lambda rows, columns: rest(sums(along_a[columns], along_b[rows, None]).view(-1, *form))
    # Products that give few classes, and maxima over these, take less time where nodes, not classes, lie side by side.
    turned_a, turned_b = along_a.T.contiguous(), along_b.T.contiguous()

    def turned(rows: slice, columns: slice) -> torch.Tensor:
        hidden = sums(turned_a[:, None, columns], turned_b[:, rows, None]).flatten(1)
        for layer in rest:
            hidden = hidden.relu_() if type(layer) is nn.ReLU else layer.bias[:, None].addmm(layer.weight, hidden)
        return hidden.T

    return turned


def _close_calls_in_float64(
    exact: Callable, quick: Callable, along_a, along_b, form: tuple[int, ...], rows: slice, columns: slice
):
    """
    Return logits of a block of the grid with the largest one of *exact*, which is called where *quick* is not sure.

    Convolutions take four to five times as long in float64. The nodes that both see tell how far *quick* is off; if
    that is anywhere near what counts as close, *exact* does it all.
    """
    in_a, in_b = along_a[columns], along_b[rows, None]
    hidden = (in_a + in_b).view(-1, *form).movedim(-1, 1)
    logits = quick(hidden.float()).double()
    if logits.ndim != 2 or logits.shape[1] < 2:
        return logits  # refused by its shape later
    top, close = logits.topk(2).values, _CLOSE * logits.abs().amax(1)
    again = ~(top[:, 0] - top[:, 1] > close)  # also where it is not finite
    again[0] = True
    found = exact(hidden[again].contiguous())
    if not ((found - logits[again]).abs().amax(1) < close[again] / 30).all():
        return exact(hidden.contiguous())
    logits[again] = found
    return logits


def _labels_of(output, shape: tuple[int, int], start: tuple[int, int]) -> np.ndarray:
    """Return *output* at a block of nodes, of *shape* and beginning at the row and column *start*, as labels."""
    count = shape[0] * shape[1]
    array = to_numpy(output)
    if array.ndim == 1 and array.dtype.kind in "iu" and len(array) == count:
        if array.min() < 0 or array.max() > np.iinfo(np.int16).max:
            raise ValueError(f"The classifier's labels run from {array.min()} to {array.max()}: give 0 to 32767.")
        return array.reshape(shape)
    if array.ndim != 2 or len(array) != count or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"The classifier gave shape {array.shape} of {array.dtype} for {count} nodes: "
            "expected logits (N, K >= 2) or integer labels (N,)."
        )
    place = ("row", "column", "class")
    check_finite("Logits on the slice", array.reshape(*shape, -1), "the model diverged there", place, start)
    if is_tensor(output):
        return output.max(dim=1).indices.numpy().reshape(shape)  # as argmax, ties included, in a third of the time
    return array.argmax(axis=1).reshape(shape)


def grid_change(labels_a: np.ndarray, labels_b: np.ndarray) -> float:
    """
    Return the grid prediction change: the fraction of nodes whose label differs, in [0, 1].

    Parameters
    ----------
    labels_a, labels_b : int arrays of one shape (n, m)

    Examples
    --------
    >>> import numpy as np
    >>> grid_change(np.array([[0, 0], [0, 1]]), np.array([[0, 1], [0, 1]]))
    0.25
    """
    a, b = (check_labels(labels, "Grid labels", ndim=2) for labels in (labels_a, labels_b))
    check_same_shape("The first grid's labels", a, "the second's", b)
    return int(np.count_nonzero(a != b)) / a.size
