"""What the book's explorer page draws from: a one-hidden-layer network, its slice and test images, as one script."""

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from . import data, models, slices, train
from .checks import check_choice, check_integer, check_labels, to_numpy
from .runs import Spec

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
    spec = Spec()
    split = data.digits(spec.seed)
    model = models.mlp((64, spec.width, 10), spec.seed)
    train.fit(model, split.train_inputs, split.train_classes, epochs=spec.epochs, seed=spec.seed)
    images = (split.test_inputs * 16).round().to(torch.uint8).view(-1, 8, 8)
    return network(
        model, slices.pca_plane(split.train_inputs), images, split.test_classes, name="digits", scale=16
    )  # fmt: skip


def image_network(name: str, archives: str | Path, *, epochs: int = 10, seed: int = 0) -> xr.Dataset:
    """
    Train 784-128-10 on MNIST or Fashion-MNIST as in the baseline and collect what the explorer needs of it.

    Adam at 1e-3, batches of 128, on the first 50,000 training images; the first 300 official test images are shown.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist"}
    archives : path
        Folder of the four official archives, such as train-images-idx3-ubyte.gz.
    epochs, seed : int

    Raises
    ------
    FileNotFoundError
        If an archive is missing.
    ValueError
        If one is damaged.
    """
    check_choice("Network", name, NETWORKS[1:])
    epochs, seed = check_integer("Epochs", epochs, 1), check_integer("Seed", seed, 0)
    pixels, classes, shown, targets = (
        _archive(Path(archives, f"{part}-{kind}-ubyte.gz"), dims)
        for part in ("train", "t10k") for kind, dims in (("images-idx3", 3), ("labels-idx1", 1))
    )  # fmt: skip
    inputs = torch.from_numpy(pixels[:50000]).flatten(1).float() / 255
    labels = torch.from_numpy(classes[:50000]).long()
    model = models.mlp((inputs.shape[1], 128, 10), seed)
    train.fit(model, inputs, labels, epochs=epochs, seed=seed, batch_size=128)
    names = FASHION if name == "fashion-mnist" else ""
    plane = slices.pca_plane(inputs)
    return network(model, plane, shown[:SHOWN], targets[:SHOWN], name=name, scale=255, class_names=names)


def _archive(path: Path, dims: int) -> np.ndarray:
    """Read an official archive: gzip around two zeros, a type (8 is uint8), the number of axes, their sizes, values."""
    if not path.exists():
        raise FileNotFoundError(f"There is no archive {path}: give the folder of the data set's four official ones.")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again.") from None
    shape = np.frombuffer(content[4 : 4 + 4 * dims], ">i4")
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != 4 + 4 * dims + np.prod(shape):
        raise ValueError(f"{path} does not hold {dims} axes of uint8 values: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


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
