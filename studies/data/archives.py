"""Official archives of MNIST, Fashion-MNIST and CIFAR-10: fetched, verified, and read without unpacking anything."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from bqcore._checks import check_choice

from .download import draft_of, fetch_file

_CLONE = Path(__file__).resolve().parents[2]
REGISTRY = _CLONE / "data" / "archives.yml"
CACHE = _CLONE / "data" / "archives"
NAMES = ("mnist", "fashion-mnist", "cifar-10")
_CIFAR = "cifar-10-batches-py"
_BATCHES = {"train": [f"{_CIFAR}/data_batch_{i}" for i in range(1, 6)], "test": [f"{_CIFAR}/test_batch"]}
_UNREAD = (_CIFAR, f"{_CIFAR}/batches.meta", f"{_CIFAR}/readme.html")
_MEMBER = 2**26  # bytes, the largest batch that is read: official ones have 31 million


class Archive(NamedTuple):
    """Images uint8 (N, rows, columns) or (N, rows, columns, 3) and classes uint8 (N,), read-only."""

    train_images: np.ndarray
    train_classes: np.ndarray
    test_images: np.ndarray
    test_classes: np.ndarray


class Status(NamedTuple):
    """What is there of a data set: its folder, how many of its files, their bytes, and whether it is verified."""

    name: str
    folder: Path
    files: int
    of_files: int
    bytes: int
    verified: bool
    says: str


def folder() -> Path:
    """Return the folder of the archives: the one that ``BQ_DATA`` names, or else data/archives in the clone."""
    return CACHE if _ours() else Path(os.environ["BQ_DATA"]).expanduser()


def _ours() -> bool:
    return not os.environ.get("BQ_DATA")


def load(name: str) -> Archive:
    """
    Read a data set from the archives in :func:`folder`; nothing is downloaded, and nothing is written.

    Whatever the bytes of an archive, what it holds must be the official pixels and classes, by their SHA-256. In
    data/archives, the archive must be the one published, too, which is seen before anything is parsed. CIFAR-10 is put
    in the order of its file names within each split.
    """
    paths = {file: folder() / file for file in _entry(name)["files"]}
    for file, path in paths.items():
        if not path.is_file():
            advice = f"`python -m studies data fetch {name}`, or let BQ_DATA name a folder that has {file}"
            if not _ours():
                advice = f"put it there, or unset BQ_DATA and `python -m studies data fetch {name}`"
            raise FileNotFoundError(f"{name} needs {path}, which is not there: {advice}.")
    stamps = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths.values())
    return _load(name, folder(), _ours(), stamps)


@lru_cache(maxsize=len(NAMES))
def _load(name: str, where: Path, ours: bool, stamps: tuple) -> Archive:  # the stamps are a part of the key
    entry = _entry(name)
    advice = "replace it in the folder that BQ_DATA names"
    if ours:
        advice = f"`python -m studies data fetch {name}` gets it anew"
        for file, stated in entry["files"].items():
            with (where / file).open("rb") as content:
                found = hashlib.file_digest(content, "md5").hexdigest()
            if found != stated["md5"]:
                raise ValueError(f"{where / file} is not the published archive (MD5 {found}): {advice}.")
    read = {"idx": _read_idx, "cifar": _read_cifar}[entry["format"]]
    try:
        arrays = read(where, entry)
    except (ValueError, EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} in {where} is damaged ({error}): {advice}.") from None
    for array in Archive._fields:
        found, what = hashlib.sha256(arrays[array]).hexdigest(), array.replace("_", " ")
        if found != entry["sha256"][array]:
            raise ValueError(f"{name} in {where} does not hold the official {what} (SHA-256 {found}): {advice}.")
        arrays[array].flags.writeable = False
    return Archive(**arrays)


@lru_cache
def _registry(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _entry(name: str) -> dict:
    return _registry(REGISTRY)[check_choice("Data set", name, NAMES)]


def status(names: tuple[str, ...] = NAMES) -> list[Status]:
    """Check what is in :func:`folder` of each data set, and decode what is whole to see that it is the official one."""
    rows = []
    for name in names:
        paths = [folder() / file for file in _entry(name)["files"]]
        there = [path for path in paths if path.is_file()]
        drafts = [draft for path in paths if (draft := draft_of(path)).is_file()]
        verified, says = False, "not there"
        if len(there) == len(paths):
            try:
                load(name)
            except (ValueError, OSError) as error:
                says = str(error)
            else:
                verified, says = True, "verified"
        elif there:
            says = f"lacks {', '.join(path.name for path in paths if path not in there)}"
        if drafts:
            says += f"; {sum(draft.stat().st_size for draft in drafts)} bytes of a stopped download"
        size = sum(path.stat().st_size for path in there)
        rows.append(Status(name, paths[0].parent, len(there), len(paths), size, verified, says))
    return rows


def fetch(name: str, *, progress: bool = True) -> Path:
    """
    Download the archives of a data set to data/archives, if they are not there, verify them, and return their folder.

    An archive takes its place when it is whole, by its MD5. A folder named by ``BQ_DATA`` is only verified.
    """
    entry = _entry(name)
    if _ours():
        for file, stated in entry["files"].items():
            fetch_file(CACHE / file, entry["mirrors"], md5=stated["md5"], size=stated["bytes"], progress=progress)
    load(name)
    return folder()


# Reading


def _read_idx(where: Path, entry: dict) -> dict[str, np.ndarray]:
    arrays = {}
    for file, stated in entry["files"].items():
        split, kind = stated["holds"].split("_")
        shape = (entry[split], *(entry["shape"] if kind == "images" else ()))
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        length = len(head) + int(np.prod(shape))
        with gzip.open(where / file) as packed:
            content = packed.read(length + 1)
        if content[: len(head)] != head:
            raise ValueError(f"{file} begins with {content[: len(head)].hex()}, not {head.hex()}")
        if len(content) != length:
            more = "more" if len(content) > length else f"{len(content)}"
            raise ValueError(f"{file} holds {more} bytes where the header says {length}")
        arrays[stated["holds"]] = np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape).copy()
    return arrays


def _read_cifar(where: Path, entry: dict) -> dict[str, np.ndarray]:
    (file,) = entry["files"]
    known = set(sum(_BATCHES.values(), []))
    batches = {}
    with tarfile.open(where / file, "r|gz") as tar:
        for member in tar:
            if member.size > _MEMBER:
                raise ValueError(f"{member.name} has {member.size} bytes: at most {_MEMBER} are read")
            if member.name in _UNREAD and (member.isfile() or member.isdir()):
                continue
            if member.name not in known or not member.isfile() or member.name in batches:
                raise ValueError(f"{file} has a member {member.name!r} that the official one has not")
            batches[member.name] = read_batch(tar.extractfile(member).read(), member.name)
    missing = sorted(known - set(batches))
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    arrays = {}
    for split, names in _BATCHES.items():
        parts = [batches[name] for name in names]
        files = sum((part[b"filenames"] for part in parts), [])
        if len(files) != entry[split] or len(set(files)) < len(files):
            raise ValueError(f"{split} has {len(files)} images of {len(set(files))} names where {entry[split]} belong")
        place = np.argsort(np.argsort(files))  # of each image, among the sorted names
        rows, columns, channels = entry["shape"]
        images = np.empty((len(files), rows, columns, channels), np.uint8)
        classes = np.empty(len(files), np.uint8)
        for part, at in zip(parts, np.split(place, np.cumsum([len(part[b"labels"]) for part in parts])[:-1])):
            images[at] = part[b"data"].reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1)
            classes[at] = part[b"labels"]
        arrays |= {f"{split}_images": images, f"{split}_classes": classes}
    return arrays


def read_batch(content: bytes, name: str) -> dict:
    """
    Read one pickled batch of CIFAR-10 with a loader that builds arrays, lists, strings and numbers, and nothing else.

    It has b"data", uint8 (n, 3072), b"labels", integers 0 to 9, and b"filenames", bytes; anything else is refused.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{name} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(batch, dict) or not {b"data", b"labels", b"filenames"} <= set(batch):
        raise ValueError(f"{name} holds no data, labels and filenames")
    data, labels, files = batch[b"data"], batch[b"labels"], batch[b"filenames"]
    if type(data) is not np.ndarray or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f"{name}: its data are no uint8 array of 3072 columns")
    if type(labels) is not list or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError(f"{name}: its labels are no list of classes 0 to 9")
    if type(files) is not list or not all(type(file) is bytes for file in files):
        raise ValueError(f"{name}: its filenames are no list of byte strings")
    if not len(data) == len(labels) == len(files):
        raise ValueError(f"{name} has {len(data)} images, {len(labels)} labels and {len(files)} filenames")
    return batch


# What a batch may call: no functions of NumPy, which can do more, and none with a __dict__ that a pickle could change.


class _Bytes:
    """Bytes, in the way of Python 3 in protocol 2; the official batches have Python 2's strings."""

    __slots__ = ()

    def __call__(self, text, codec):
        if type(text) is not str or codec != "latin1":
            raise pickle.UnpicklingError("it asks for another codec than latin1")
        return text.encode("latin1")


class _Uint8:
    """The type of the pixels, whichever way it is spelt."""

    __slots__ = ()

    def __call__(self, code, *_):
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it asks for an array of {code!r}, not of bytes")
        return np.dtype(np.uint8)


class _Array:
    """An empty array, which takes its shape and its bytes from the state that follows."""

    __slots__ = ()

    def __call__(self, *_):
        return np.empty(0, np.uint8)


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array(),  # as in the official archive
    ("numpy._core.multiarray", "_reconstruct"): _Array(),
    ("numpy", "ndarray"): None,  # an argument of the former
    ("numpy", "dtype"): _Uint8(),
    ("_codecs", "encode"): _Bytes(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        """Return what a batch may name, and refuse the rest."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None
