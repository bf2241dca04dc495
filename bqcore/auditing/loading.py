"""
Classifiers, data and logits from files, for the command line. Nothing is unpickled: no file can run code.

Only a name ``module:factory`` runs code, that of the module which the user named.
"""

import importlib
import re
from pathlib import Path

import numpy as np

from .._checks import is_module, line_of, needed
from .folders import class_folders, image_batches

INPUT_KEYS = ("inputs", "input", "x", "images", "image", "data", "features", "samples", "arr_0")
CLASS_KEYS = ("classes", "class", "y", "labels", "label", "targets", "target")
_SPLITS = "train training test testing val valid validation calibration calib heldout eval".split()  # in such names
_PICKLES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".skops")
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


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
        raise ValueError(f"{path} is no ONNX model that ONNX Runtime can run: {line_of(error)}.") from None


def _made(given: str):
    module, _, name = given.partition(":")
    try:
        factory = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ImportError as error:
        raise ValueError(f"{given}: the module cannot be imported from here ({line_of(error)}).") from None
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
        with safetensors.safe_open(path, "pt") as file:
            target = _unwrapped(model, set(file.keys()))
        missing, surplus = safetensors.load_model(target, path, strict=False)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{weights} does not fit the model: {line_of(error, -1)}.") from None
    except Exception as error:  # of its own kind
        raise ValueError(f"{weights} is no whole .safetensors file: {line_of(error)}.") from None
    # Of tied tensors it asks for one and calls the others surplus: a file may hold them all.
    missing, surplus = sorted(missing), sorted(set(surplus) - set(target.state_dict()))
    if missing or surplus:
        first = f"first {(missing + surplus)[0]}"
        raise ValueError(
            f"{weights} does not fit the model: {len(missing)} tensors are missing and {len(surplus)} unknown, {first}."
        )
    return model


def _unwrapped(model, names: set[str]):
    """Return what of a model, or around it, has tensors of these *names*: DataParallel and compilers wrap models."""
    own = set(model.state_dict())
    if prefix := _prefix(own, names):
        return model.get_submodule(prefix)
    for part in reversed(_prefix(names, own).split(".")):
        if part:
            outer = type(model).__mro__[-2]()  # torch's Module
            outer.add_module(part, model)
            model = outer
    return model


def _prefix(long: set[str], short: set[str]) -> str:
    """Return what all *long* names begin with, before a dot, if the rest of them are *short* names, else nothing."""
    first = min(long, default="").split(".")
    for count in range(1, len(first)):
        prefix = ".".join(first[:count])
        rest = {name[len(prefix) + 1 :] for name in long if name.startswith(f"{prefix}.")}
        if len(rest) == len(long) and not long & short and (rest <= short or short <= rest):
            return prefix
    return ""


def read_splits(given: list, classes: list, **images) -> list:
    """Read several splits, as :func:`read_split`; folders of images number the classes of all of them alike."""
    folders = [Path(name) for name in given if name and Path(name).is_dir()]
    names = sorted(set().union(*(class_folders(folder)[0] for folder in folders)))
    return [read_split(one, of_one, names=names, **images) for one, of_one in zip(given, classes)]


def read_split(given: str | None, classes: str | None = None, *, size=None, mean=None, std=None, names=None):
    """
    Read a split as :func:`bqcore.audit` takes it; None, as of a split that may be left out, gives None.

    An ``.npz`` file has the arrays ``inputs`` and ``classes`` (or others of :data:`INPUT_KEYS` and :data:`CLASS_KEYS`,
    in letters of any case and with the name of a split, as X_test; other arrays are inputs by their names), an ``.npy``
    file has inputs, and a folder of images one folder for each class, in the order of their names, or of *names*.
    *classes* is an ``.npy`` file. Images are resized to *size* (height, width) and scaled to
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
        return image_batches(path, names, size=size, mean=mean, std=std)
    if path.suffix.lower() not in (".npz", ".npy"):
        raise ValueError(f"{given} is no data: give an .npz or .npy file, or a folder of images.")
    options = {"--size": size, "--mean": mean, "--std": std}
    if surplus := ", ".join(option for option, value in options.items() if value is not None):
        raise ValueError(f"{given} holds arrays, which are taken as they are: prepare them and leave {surplus} out.")
    inputs, y = read_arrays(path) if path.suffix.lower() == ".npz" else read_array(path), None
    if isinstance(inputs, dict):
        inputs, y = _of_names(inputs, given)
    if classes:
        if y is not None:
            raise ValueError(f"{given} holds classes already: leave {classes} out.")
        y = read_array(Path(classes))
    return inputs if y is None else (inputs, y)


def _of_names(arrays: dict[str, np.ndarray], given: str):
    """Return the inputs among named arrays, one or by their names, and the classes, or None."""
    if list(arrays) == ["arr_0", "arr_1"] and arrays["arr_1"].ndim == 1 < arrays["arr_0"].ndim:  # saved without names
        return arrays["arr_0"], arrays["arr_1"]
    known = {key: [name for name in arrays if _plain_name(name) in keys] for key, keys in _KEYS.items()}
    for kind, more in (("classes", ", and its inputs"), ("inputs", "")):
        found = sorted(known[kind])
        if len(found) > 1 and (kind == "classes" or len({_plain_name(name) for name in found}) == 1):
            raise ValueError(f"{given} holds the {kind} {', '.join(found)}: keep one of them{more}.")
    y = arrays.pop(known["classes"][0]) if known["classes"] else None
    if not arrays:
        raise ValueError(
            f"{given} holds the classes {known['classes'][0]} and no inputs: known are {', '.join(INPUT_KEYS[:-1])}."
        )
    (name, first), *others = arrays.items()
    return first if not others and name in known["inputs"] else arrays, y


_KEYS = {"inputs": INPUT_KEYS, "classes": CLASS_KEYS}


def _plain_name(name: str) -> str:
    """Return the name of an array in small letters and without that of a split."""
    if name.lower() in INPUT_KEYS:
        return name.lower()
    return "_".join(part for part in re.split(r"[\W_]+", name.lower()) if part not in _SPLITS)


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
        raise ValueError(f"{path} is no array of numbers: {line_of(error)}. Pickled objects are not read.") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file; pickled objects are refused."""
    _check_there(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: _numbers(file[key], key) for key in file.files}
    except Exception as error:  # of the archive, the compression or the arrays
        raise ValueError(
            f"{path} holds no arrays of numbers: {line_of(error)}. Pickled objects are not read."
        ) from None
    if not arrays:
        raise ValueError(f"{path} holds no arrays: give inputs and classes.")
    return arrays


def _numbers(array, name: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubU" or array.ndim == 0:
        raise ValueError(f"{name} is of type {getattr(array, 'dtype', type(array).__name__)}.")
    return array


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
