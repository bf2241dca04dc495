"""
What the book's explorer page draws from, as one script for each network.

Of a one-hidden-layer network that is its weights, slice and test images: the page computes the rest. Of a larger one
it is what bqcore computed: the labels of its slice at every level (frames), and logits, radius, displacement and signed
distance change of the test inputs.
"""

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import check_choice, check_labels, to_numpy
from bqcore.metrics import margins, planes
from bqcore.quantizers import uniform

from . import measures, networks, specs, sweeps

KEPT = Path("data/explorer")
NETWORKS = ("digits", "mnist", "fashion-mnist")
FRAMED = {
    "mnist-cnn": ("mnist", "cnn"), "fashion-mnist-cnn": ("fashion-mnist", "cnn"), "cifar-10-cnn": ("cifar-10", "cnn"),
    "cifar-10-resnet": ("cifar-10", "resnet"),
}  # fmt: skip
SHOWN = 300  # test images of a kept network
NODES = 81  # a side of the frames; grids of 41 and 21 nodes are every second and every fourth of them
_NAMES = {
    "fashion-mnist": "T-shirt, trousers, pullover, dress, coat, sandal, shirt, trainer, bag, boot",
    "cifar-10": "aeroplane, car, bird, cat, deer, dog, frog, horse, ship, lorry",
}
_CHANGES = ("displacement", "signed_distance_change", "normal_variation")
_LOADED = "bqNetworks"  # the global that the scripts add to


def network(
    model: nn.Sequential, plane: planes.Plane, images, classes, *, name: str, scale: int, class_names: str = ""
) -> xr.Dataset:
    """
    Collect what the explorer needs of one network of linear, ReLU, linear; its weights are kept in float32.

    *images* are integers (N, height, width), 0 to 255; the model's inputs are these divided by *scale* in float32.
    *plane* is the slice shown first; *class_names* have commas between, and are empty where the numbers are the names.
    """
    check_choice("Network", name, NETWORKS)
    layers = [layer for layer in model if not isinstance(layer, nn.Flatten)]
    if [type(layer) for layer in layers] != [nn.Linear, nn.ReLU, nn.Linear]:
        raise ValueError(
            f"The model's layers are {', '.join(type(layer).__name__ for layer in layers)}: the explorer draws "
            "networks of Linear, ReLU, Linear; larger ones need pictures made beforehand."
        )
    first, second = layers[0], layers[2]
    pixels, targets = to_numpy(images), check_labels(classes, "Classes")
    if pixels.ndim != 3 or pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"Images have shape {pixels.shape} of {pixels.dtype}: give (N, height, width) integers, 0 to 255."
        )
    if not len(pixels) == len(targets) or not pixels[0].size == len(plane.origin) == first.in_features:
        raise ValueError(
            f"There are {len(pixels)} images of {pixels[0].size} pixels, {len(targets)} classes, a plane in "
            f"{len(plane.origin)} values and a model of {first.in_features}: give one class an image, and one plane."
        )
    kept = {
        "first": (("hidden", "input"), first.weight), "first_bias": ("hidden", first.bias),
        "second": (("class", "hidden"), second.weight), "second_bias": ("class", second.bias),
    }  # fmt: skip
    return xr.Dataset(
        {key: (dims, to_numpy(values).astype(np.float32)) for key, (dims, values) in kept.items()}
        | {
            "origin": ("input", plane.origin), "axes": (("axis", "input"), plane.axes),
            "low": ("axis", plane.low), "high": ("axis", plane.high), "explained": ("axis", plane.explained),
            "image": (("sample", "row", "column"), pixels.astype(np.uint8)),
            "target": ("sample", targets.astype(np.uint8)),
        },
        attrs={"name": name, "scale": scale, "class_names": class_names},
    )  # fmt: skip


def digits_network() -> xr.Dataset:
    """Collect what the explorer needs of the digits network of the baseline's first run; it is trained if not kept."""
    spec = specs.Levels()
    split, model = sweeps.split_of(spec), sweeps.classifier(spec)
    images = (split.test_inputs * 16).round().to(torch.uint8).view(-1, 8, 8)
    return network(model, planes.pca_plane(split.train_inputs), images, split.test_classes, name="digits", scale=16)


def image_network(name: str) -> xr.Dataset:
    """
    Collect the first network of the stopping chapter on MNIST or Fashion-MNIST, with the slice of its held-out inputs.
    """
    check_choice("Network", name, NETWORKS[1:])
    spec = specs.baseline("stopping", name)
    split = sweeps.split_of(spec)
    images = (split.held_out_inputs[:SHOWN, 0] * 255).round().to(torch.uint8)
    names = _NAMES.get(name, "")
    plane = planes.pca_plane(split.held_out_inputs.flatten(1))
    return network(
        sweeps.classifier(spec), plane, images, split.held_out_classes[:SHOWN], name=name, scale=255, class_names=names
    )


def frames(
    levels: dict[int, nn.Module], plane: planes.Plane, inputs: torch.Tensor, classes, *, name: str, nodes: int = NODES
) -> xr.Dataset:
    """
    Compute what the explorer shows of a network that the page itself cannot run: the slice at every level, and inputs.

    Of *levels*, by bits, float first: ``label`` (bits, b, a), ``logits`` (bits, sample, class) in float32 as the
    studies have them, and in float64 ``radius``, ``displacement``, ``signed_distance_change``, ``normal_variation``,
    where the boundary of the float top-2 pair is (``reach``, along ``normal`` on the slice), and ``score``, the place
    on the slice.
    """
    labels = measures.labels_of(levels, plane, (nodes,))[nodes]
    doubles = {bits: networks.doubled(model) for bits, model in levels.items()}
    x = inputs.double()
    r = margins.radius(doubles[specs.FLOAT], x)
    changes = [margins.local_change(doubles[specs.FLOAT], model, x) for model in doubles.values()]
    margin, gradient = margins.margin_gradient(doubles[specs.FLOAT], x, changes[0].winner, changes[0].runner_up)
    slope = gradient.flatten(1).norm(dim=1, keepdim=True)
    with torch.no_grad():
        logits = np.stack([to_numpy(model(inputs)) for model in levels.values()])
    return xr.Dataset(
        {
            "label": (("bits", "b", "a"), np.stack(list(labels.values())).astype(np.uint8)),
            "logits": (("bits", "sample", "class"), logits.astype(np.float32)),
            "target": ("sample", to_numpy(classes).astype(np.uint8)),
            "score": (("sample", "axis"), plane.project(inputs)),
            "radius": ("sample", r.radius), "rival": ("sample", r.rival.astype(np.uint8)),
            **{name: (("bits", "sample"), np.stack([getattr(c, name) for c in changes])) for name in _CHANGES},
            "reach": ("sample", (margin / slope[:, 0]).numpy()),
            "normal": (("sample", "axis"), -(gradient.flatten(1) / slope).numpy() @ plane.axes.T),
            "origin": ("input", plane.origin), "axes": (("axis", "input"), plane.axes),
            "low": ("axis", plane.low), "high": ("axis", plane.high), "explained": ("axis", plane.explained),
        },
        {"bits": list(levels)},
        {"name": name},
    )  # fmt: skip


def framed_network(name: str) -> xr.Dataset:
    """
    Compute the frames of the first CNN or residual network of the stopping chapters, on the slice of held-out inputs.

    The first 300 held-out inputs are shown, those of CIFAR-10 without their pixels, for it states no licence.
    """
    check_choice("Network", name, tuple(FRAMED))
    dataset, kind = FRAMED[name]
    spec = specs.baseline("stopping", dataset, kind)
    split, model = sweeps.split_of(spec), sweeps.classifier(spec)
    grid = {"scheme": spec.scheme, "granularity": spec.granularity}
    levels = {specs.FLOAT: model} | uniform.levels_of(model, spec.bits, **grid)
    shown = split.held_out_inputs[:SHOWN]
    plane = planes.pca_plane(split.held_out_inputs)
    found = frames(levels, plane, shown, split.held_out_classes[:SHOWN], name=name)
    if dataset != "cifar-10":
        found["image"] = ("sample", "row", "column"), (shown[:, 0] * 255).round().to(torch.uint8).numpy()
    return found.assign_attrs(scale=255, class_names=_NAMES.get(dataset, ""))


def runs_of(labels: np.ndarray) -> np.ndarray:
    """
    Write labels 0 to 255 as pairs of bytes, a label and how often it follows itself at once (at most 255 times).

    >>> runs_of(np.array([[3, 3, 3], [3, 1, 1]]))
    array([3, 3, 1, 1], dtype=uint8)
    """
    flat = np.asarray(labels, np.uint8).ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    out = []
    for start, stop in zip(starts, np.append(starts[1:], len(flat))):
        whole, rest = divmod(int(stop - start), 256)
        out += [(flat[start], 255)] * whole + ([(flat[start], rest - 1)] if rest else [])
    return np.array(out, np.uint8).ravel()


def script(dataset: xr.Dataset) -> bytes:
    """
    Write *dataset*, of :func:`network` or :func:`frames`, as a script, which a page opened as a file can load.

    It adds the dataset to a global, as JSON that is :func:`packed`. Arrays are base64 of their little-endian bytes, in
    the order of C; the labels of frames are written by :func:`runs_of`. The same dataset gives the same bytes.
    """
    kept = dataset
    if "label" in dataset:  # the page does not run this network
        kept = dataset.drop_vars(["origin", "axes", "explained"]).assign(label=("run", runs_of(dataset.label)))
    sizes = {"row": "height", "column": "width"} | {dim: dim for dim in ("input", "hidden", "class", "sample")}
    content = dict(kept.attrs) | {title: kept.sizes[dim] for dim, title in sizes.items() if dim in kept.dims}
    if "label" in dataset:
        content |= {"bits": dataset.bits.values.tolist(), "nodes": dataset.sizes["a"]}
    for key, values in kept.data_vars.items():
        array = np.ascontiguousarray(values.values)
        content[key] = base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=int)
    name = json.dumps(dataset.attrs["name"])
    return f'(window.{_LOADED} = window.{_LOADED} || {{}})[{name}] = "{packed(text.encode())}";\n'.encode()


def packed(content: bytes) -> str:
    """Return *content* for a page to inflate: what gzip makes of it in base 85, the same each time."""
    return base64.b85encode(gzip.compress(content, mtime=0)).decode()
