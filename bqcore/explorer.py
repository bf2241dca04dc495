"""What the book's explorer page draws from: a one-hidden-layer network, its slice and test images, as one script."""

import base64
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from . import models, runs, slices, specs, train
from .checks import check_choice, check_labels, to_numpy

KEPT = Path("data/explorer")
NETWORKS = ("digits", "mnist", "fashion-mnist")
SHOWN = 300  # test images of a kept network
FASHION = "T-shirt, trousers, pullover, dress, coat, sandal, shirt, trainer, bag, boot"
_LOADED = "bqNetworks"  # the global that the scripts add to


def network(
    model: nn.Sequential, plane: slices.Plane, images, classes, *, name: str, scale: int, class_names: str = ""
) -> xr.Dataset:
    """
    Collect what the explorer needs of one network.

    Parameters
    ----------
    model : nn.Sequential of linear, ReLU, linear (after flattening)
        The float classifier; its weights are kept in float32.
    plane : Plane
        The slice that is shown first; D values an input.
    images : integer array, shape (N, height, width), 0 to 255
        Test images; the model's inputs are these divided by *scale* in float32.
    classes : int array, shape (N,)
    name : str
        Of the data set: "digits", "mnist" or "fashion-mnist".
    scale : int
        16 or 255, say.
    class_names : str
        Names with commas between; empty where the numbers are the names.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        If the model has other layers, or its inputs are not those of the plane and of the images.
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


def model_of(dataset: xr.Dataset) -> nn.Sequential:
    """Give the float classifier that *dataset*, of :func:`network`, holds."""
    model = models.mlp((dataset.sizes["input"], dataset.sizes["hidden"], dataset.sizes["class"]), 0).eval()
    names = {"0.weight": "first", "0.bias": "first_bias", "2.weight": "second", "2.bias": "second_bias"}
    model.load_state_dict({key: torch.from_numpy(dataset[name].values) for key, name in names.items()})
    return model


def plane_of(dataset: xr.Dataset) -> slices.Plane:
    """Give the slice that *dataset*, of :func:`network`, holds."""
    values = (dataset[key].values for key in ("origin", "axes", "low", "high", "explained"))
    return slices.Plane(*values, (dataset.sizes["input"],))


def inputs_of(dataset: xr.Dataset) -> torch.Tensor:
    """Give the test inputs (N, D) that *dataset*, of :func:`network`, holds, as the model takes them."""
    pixels = torch.from_numpy(dataset.image.values).flatten(1)
    return pixels.float() / dataset.attrs["scale"]


def digits_network() -> xr.Dataset:
    """Train the digits network of the baseline's first run and collect what the explorer needs of it, in a second."""
    spec = specs.Levels()
    split = runs.split_of(spec)
    model = models.build(spec.model, (64,), 10, width=spec.width, seed=spec.seed)
    train.fit(model, split.train_inputs, split.train_classes, epochs=spec.epochs, seed=spec.seed)
    images = (split.test_inputs * 16).round().to(torch.uint8).view(-1, 8, 8)
    return network(
        model, slices.pca_plane(split.train_inputs), images, split.test_classes, name="digits", scale=16
    )  # fmt: skip


def image_network(name: str) -> xr.Dataset:
    """
    Collect the first network of the stopping chapter on MNIST or Fashion-MNIST, with the slice of its held-out inputs.

    The first 300 official test images are shown.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist"}

    Raises
    ------
    FileNotFoundError, ValueError
        If the archives are missing or damaged.
    """
    check_choice("Network", name, NETWORKS[1:])
    spec = specs.baseline("stopping", name)
    split = runs.split_of(spec)
    images = (split.held_out_inputs[:SHOWN, 0] * 255).round().to(torch.uint8)
    names = FASHION if name == "fashion-mnist" else ""
    plane = slices.pca_plane(split.held_out_inputs.flatten(1))
    return network(
        runs.classifier(spec), plane, images, split.held_out_classes[:SHOWN], name=name, scale=255, class_names=names
    )  # fmt: skip


def script(dataset: xr.Dataset) -> bytes:
    """
    Write *dataset*, of :func:`network`, as a script that adds it to a global: a page opened as a file can load that.

    Arrays are base64 of their little-endian bytes, in the order of C; the same dataset gives the same bytes.
    """
    content = dict(dataset.attrs) | {dim: dataset.sizes[dim] for dim in ("input", "hidden", "class", "sample")}
    content |= {"height": dataset.sizes["row"], "width": dataset.sizes["column"]}
    for key, values in dataset.data_vars.items():
        array = np.ascontiguousarray(values.values)
        content[key] = base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=int)
    name = json.dumps(dataset.attrs["name"])
    return f"(window.{_LOADED} = window.{_LOADED} || {{}})[{name}] = {text};\n".encode()
