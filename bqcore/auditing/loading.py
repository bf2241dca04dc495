"""
Classifiers, data and logits from files, for the command line. Nothing is unpickled: no file can run code.

Only a name ``module:factory`` runs code, that of the module which the user named.
"""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._checks import is_module, needed

INPUT_KEYS, CLASS_KEYS = ("inputs", "x", "images", "data"), ("classes", "y", "labels", "targets")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Pillow goes by content, not by name: a .png that holds PostScript would be handed to Ghostscript, which runs it.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_PICKLES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".skops")
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_AT_ONCE = 256  # images


def read_classifier(given: str, weights: str | None = None):
    """
    Read a classifier, ``module:factory`` or the path of an ``.onnx`` file; what is loaded by unpickling is refused.

    The factory is a function without arguments that returns a torch module or any other classifier. *weights* is a
    ``.safetensors`` file for a torch module; a tensor that several of its names share may stand there once.
    """
    path = Path(given)
    if path.suffix.lower() in _PICKLES:
        raise ValueError(
            f"{given} is read by unpickling, which can run any code that the file holds: give module:factory with the "
            "weights as .safetensors, or an .onnx file."
        )
    if path.suffix.lower() == ".onnx":
        if weights:
            raise ValueError(f"{given} holds its own weights: leave {weights} out.")
        return _session(path)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", given):
        raise ValueError(f"{given!r} is no classifier: give module:factory or the path of an .onnx file.")
    model = _made(given)
    if is_module(model):
        return (_load(model, weights) if weights else model).eval()
    if weights:
        kind = type(model).__name__
        raise ValueError(f"{given} gives {kind}, no torch module: weights {weights} have nowhere to go.")
    return model


def _session(path: Path):
    runtime = needed("onnxruntime", "An .onnx file")
    _check_there(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    try:
        known = [name for name in _PROVIDERS if name in runtime.get_available_providers()]
        return runtime.InferenceSession(str(path), options, providers=known)
    except Exception as error:  # of its own kinds
        raise ValueError(f"{path} is no ONNX model that ONNX Runtime can run: {_line(error)}") from None


def _made(given: str):
    module, _, name = given.partition(":")
    try:
        factory = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ImportError as error:
        raise ValueError(f"{given}: the module cannot be imported from here ({_line(error)}).") from None
    except AttributeError:
        raise ValueError(f"{given}: the module {module} has no {name}.") from None
    return factory if is_module(factory) or not callable(factory) else factory()


def _load(model, weights: str):
    """Return the torch module *model* with its *weights* read into it."""
    path = Path(weights)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(
            f"Weights {weights} are no .safetensors file: others are read by unpickling, which can run any code."
        )
    _check_there(path)
    safetensors = needed("safetensors.torch", "A .safetensors file")
    try:
        missing, surplus = safetensors.load_model(model, path, strict=False)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{weights} does not fit the model: {_line(error, -1)}") from None
    except Exception as error:  # of its own kind
        raise ValueError(f"{weights} is no whole .safetensors file: {_line(error)}") from None
    # Of tied tensors it asks for one and calls the others surplus: a file may hold them all.
    missing, surplus = sorted(missing), sorted(set(surplus) - set(model.state_dict()))
    if missing or surplus:
        first = f"first {(missing + surplus)[0]}"
        raise ValueError(
            f"{weights} does not fit the model: {len(missing)} tensors are missing and {len(surplus)} unknown, {first}."
        )
    return model


def read_split(given: str | None, classes: str | None = None, *, size=None, mean=None, std=None):
    """
    Read a split as :func:`bqcore.audit` takes it; None, as of a split that may be left out, gives None.

    An ``.npz`` file has the arrays ``inputs`` and ``classes`` (or x and y, images and labels, data and targets; other
    arrays are inputs by their names), an ``.npy`` file has inputs, and a folder of images one folder for each class, in
    the order of their names. *classes* is an ``.npy`` file. Images are resized to *size* (height, width) and scaled to
    [0, 1]; then *mean* is taken off and they are divided by *std*, one number a channel. An option that applies to
    nothing is refused.
    """
    if given is None:
        if classes:
            raise ValueError(f"{classes} holds classes of no inputs: give these too (--calibration), or leave it out.")
        return None
    path = Path(given)
    if path.is_dir():
        if classes:
            raise ValueError(f"{given} is a folder, whose own folders name the classes: leave {classes} out.")
        return image_batches(path, size=size, mean=mean, std=std)
    if path.suffix.lower() not in (".npz", ".npy"):
        raise ValueError(f"{given} is no data: give an .npz or .npy file, or a folder of images.")
    options = {"--size": size, "--mean": mean, "--std": std}
    if surplus := ", ".join(option for option, value in options.items() if value is not None):
        raise ValueError(f"{given} holds arrays, which are taken as they are: prepare them and leave {surplus} out.")
    inputs, y = read_arrays(path) if path.suffix.lower() == ".npz" else read_array(path), None
    if isinstance(inputs, dict):
        y = next((inputs.pop(key) for key in CLASS_KEYS if key in inputs), None)
        if len(inputs) == 1 and set(inputs) <= set(INPUT_KEYS):
            (inputs,) = inputs.values()
    if classes:
        if y is not None:
            raise ValueError(f"{given} holds classes already: leave {classes} out.")
        y = read_array(Path(classes))
    return inputs if y is None else (inputs, y)


def read_logits(reference: str | None, candidate: str | None, classes: str | None = None):
    """Read the logits of both classifiers, ``.npy`` files left on the disk, as a split of two named inputs."""
    if not reference or not candidate:
        raise ValueError("The logits of one classifier are missing: give --reference-logits and --candidate-logits.")
    pair = {"reference": read_array(Path(reference)), "candidate": read_array(Path(candidate))}
    return pair if classes is None else (pair, read_array(Path(classes)))


def read_array(path: Path) -> np.ndarray:
    """Read an ``.npy`` file, left on the disk until its values are asked for; pickled objects are refused."""
    _check_there(path)
    try:
        return _numbers(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no array of numbers: {_line(error)} Pickled objects are not read.") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file; pickled objects are refused."""
    _check_there(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: _numbers(file[key], key) for key in file.files}
    except Exception as error:  # of the archive, the compression or the arrays
        raise ValueError(f"{path} holds no arrays of numbers: {_line(error)} Pickled objects are not read.") from None
    if not arrays:
        raise ValueError(f"{path} holds no arrays: give inputs and classes.")
    return arrays


def _numbers(array, name: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError(f"{name} is of type {getattr(array, 'dtype', type(array).__name__)}.")
    return array


def image_batches(folder: Path, *, size=None, mean=None, std=None) -> Callable:
    """
    Return a function that goes through a folder of images: float32 (N, channels, height, width), scaled to [0, 1].

    One channel if every image is gray, else three. Its attribute ``ids`` has the names of the files.
    """
    pillow = needed("PIL.Image", "A folder of images")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    places = [(folder / name, label) for label, name in enumerate(names)] or [(folder, None)]
    found = [(file, label) for place, label in places for file in sorted(place.rglob("*"))]
    files = [(file, label) for file, label in found if file.suffix.lower() in IMAGES and file.is_file()]
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGES)}): put them into one folder for each class.")

    def of(file: Path, use: Callable):
        """Return what *use* makes of an image, or name the file."""
        try:
            with pillow.open(file, formats=_FORMATS) as image:
                if image.mode[0] in "IF":  # converted, all above 255 would be 255
                    raise ValueError(f"its values have over 8 bits (mode {image.mode}): save 8-bit images or an .npz")
                return use(image)
        except Exception as error:  # whatever a damaged file makes of a decoder
            raise ValueError(f"{file} is no image that can be read: {_line(error)}") from None

    def prepared(image) -> np.ndarray:
        image = image.convert(mode)
        if size is not None:
            image = image.resize(size[::-1], pillow.Resampling.BILINEAR)
        pixels = np.moveaxis(np.atleast_3d(np.asarray(image, dtype=np.float32) / 255), -1, 0)
        for values, apply in ((mean, np.subtract), (std, np.divide)):
            if values is not None:
                pixels = apply(pixels, np.asarray(values, dtype=np.float32)[:, None, None])
        return pixels

    gray = all(of(file, lambda image: image.mode in ("L", "1")) for file, _ in files)  # by its header
    mode, channels = ("L", 1) if gray else ("RGB", 3)
    for name, values in (("Mean", mean), ("Deviation", std)):
        if values is not None and len(values) not in (1, channels):
            numbers = f"{len(values)} numbers and the images {channels} channels"
            raise ValueError(f"{name} has {numbers}: give one a channel.")

    def batches():
        shape = None
        for start in range(0, len(files), _AT_ONCE):
            part = files[start : start + _AT_ONCE]
            images = [of(file, prepared) for file, _ in part]
            shape = shape or images[0].shape
            for image, (file, _) in zip(images, part):
                if image.shape != shape:
                    raise ValueError(
                        f"{file} is {image.shape[1]} × {image.shape[2]} and {files[0][0].name} {shape[1]} × "
                        f"{shape[2]}: give a size that all are brought to (--size)."
                    )
            labels = [label for _, label in part]
            yield np.stack(images) if labels[0] is None else (np.stack(images), np.array(labels))

    vars(batches)["ids"] = [file.relative_to(folder).as_posix() for file, _ in files]
    return batches


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")


def _line(error: Exception, which: int = 0) -> str:
    """Return one line of what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[which].rstrip(".") + "."
