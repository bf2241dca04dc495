"""Official archives of MNIST, Fashion-MNIST and CIFAR-10: fetched, verified, and read without unpacking anything."""

import contextlib
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
from urllib.parse import urlsplit

import numpy as np
import yaml
from pooch import HTTPDownloader
from tqdm import tqdm

from .checks import check_choice

_CLONE = Path(__file__).resolve().parents[1]
REGISTRY = _CLONE / "data" / "archives.yml"
CACHE = _CLONE / "data" / "archives"
NAMES = ("mnist", "fashion-mnist", "cifar-10")
TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of an answer
ATTEMPTS = 5  # at one mirror, as long as each one brings something
_ARRAYS = ("train_images", "train_classes", "test_images", "test_classes")
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
    """Give the folder of the archives: the one that ``BQ_DATA`` names, or else data/archives in the clone."""
    return CACHE if _ours() else Path(os.environ["BQ_DATA"])


def _ours() -> bool:
    return not os.environ.get("BQ_DATA")


def load(name: str) -> Archive:
    """
    Read a data set from the archives in :func:`folder`; nothing is downloaded, and nothing is written.

    Whatever the bytes of an archive, what it holds must be the official pixels and classes, by their SHA-256. In
    data/archives, the archive must be the one published, too, which is seen before anything is parsed. CIFAR-10 is put
    in the order of its file names within each split.

    Parameters
    ----------
    name : one of "mnist", "fashion-mnist", "cifar-10"

    Returns
    -------
    Archive

    Raises
    ------
    FileNotFoundError
        If a file is missing; it says how to get it.
    ValueError
        If a file is truncated, extended or changed, or holds anything else than the data set.
    """
    entry, where = _entry(name), folder()
    stamps = []
    for file in entry["files"]:
        path = where / file
        if not path.is_file():
            advice = f"`python -m bqcore data fetch {name}`, or let BQ_DATA name a folder that has {file}"
            if not _ours():
                advice = f"put it there, or unset BQ_DATA and `python -m bqcore data fetch {name}`"
            raise FileNotFoundError(f"{name} needs {path}, which is not there: {advice}.")
        stamps.append((path.stat().st_size, path.stat().st_mtime_ns))
    return _load(name, where, _ours(), tuple(stamps))


@lru_cache(maxsize=len(NAMES))
def _load(name: str, where: Path, ours: bool, stamps: tuple) -> Archive:  # the stamps are a part of the key
    entry = _entry(name)
    advice = (
        f"`python -m bqcore data fetch {name}` gets it anew" if ours else "replace it in the folder that BQ_DATA names"
    )
    if ours:
        for file, stated in entry["files"].items():
            found = _md5(where / file)
            if found != stated["md5"]:
                raise ValueError(f"{where / file} is not the published archive (MD5 {found}): {advice}.")
    read = {"idx": _read_idx, "cifar": _read_cifar}[entry["format"]]
    try:
        arrays = read(where, entry)
    except (ValueError, EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} in {where} is damaged ({error}): {advice}.") from None
    for array in _ARRAYS:
        found = hashlib.sha256(arrays[array]).hexdigest()
        if found != entry["sha256"][array]:
            raise ValueError(
                f"{name} in {where} does not hold the official {array.replace('_', ' ')} (SHA-256 {found}): {advice}."
            )
        arrays[array].flags.writeable = False
    return Archive(**arrays)


@lru_cache
def _registry(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _entry(name: str) -> dict:
    return _registry(REGISTRY)[check_choice("Data set", name, NAMES)]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def status(names: tuple[str, ...] = NAMES) -> list[Status]:
    """Say what is in :func:`folder` of each data set, and decode what is whole to see that it is the official one."""
    rows = []
    for name in names:
        paths = [folder() / file for file in _entry(name)["files"]]
        there = [path for path in paths if path.is_file()]
        drafts = [_draft(path) for path in paths if _draft(path).is_file()]
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
        rows.append(Status(name, (folder() / paths[0]).parent, len(there), len(paths), size, verified, says))
    return rows


# Fetching


def fetch(name: str, *, progress: bool = True) -> Path:
    """
    Download the archives of a data set to data/archives, if they are not there, and verify what they hold.

    Each mirror is tried in turn. What came before a break is kept beside the archive's place under another name, and
    the next attempt goes on behind it; an archive is moved into its place when it is whole, by its MD5. Of several
    processes one downloads and the others wait for it. A folder named by ``BQ_DATA`` is never written to: what is
    there is verified only.

    Parameters
    ----------
    name : one of "mnist", "fashion-mnist", "cifar-10"
    progress : bool
        Show a bar with the time left, on standard error.

    Returns
    -------
    Path
        The folder of the archives.

    Raises
    ------
    OSError
        If no mirror gives the archive (each one's answer is told), or it cannot be written.
    ValueError
        If an archive does not hold the official pixels and classes.
    """
    entry = _entry(name)
    if _ours():
        CACHE.mkdir(parents=True, exist_ok=True)
        with _alone(name, progress) as private:
            for file, stated in entry["files"].items():
                if not (CACHE / file).is_file() or _md5(CACHE / file) != stated["md5"]:
                    path = CACHE / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _fetch(path, _draft(path, private), stated, entry["mirrors"], progress)
    load(name)
    return folder()


@contextlib.contextmanager
def _alone(name: str, progress: bool):
    """
    Let one process at a time download a data set; the system frees the lock of one that is killed.

    Gives what is added to a draft's name: nothing, or a word of this process alone where there are no locks.
    """
    with (CACHE / f".{name}.lock").open("w") as lock:
        private = ""
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with tqdm(desc=f"{name}: another process downloads it, waiting", bar_format="{desc}", disable=not progress):
                fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, OSError):  # Windows, some network disks
            private = f".{os.getpid()}"
        yield private


def _draft(path: Path, private: str = "") -> Path:
    return path.with_name(f".{path.name}{private}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(path: Path, draft: Path, stated: dict, mirrors: list[str], progress: bool) -> None:
    """Bring one archive to *path*, whole and verified, from the first mirror that gives it."""
    if _size(draft) == stated["bytes"] and _md5(draft) == stated["md5"]:  # ended between the last byte and the move
        os.replace(draft, path)
        return
    if _size(draft) >= stated["bytes"]:
        draft.unlink()
    answers = []
    label = f"{path.parent.name}/{path.name}"
    with tqdm(total=stated["bytes"], desc=label, unit="B", unit_scale=True, disable=not progress) as bar:
        for mirror in mirrors:
            for _ in range(ATTEMPTS):
                before = _size(draft)
                answer = _attempt(mirror + path.name, draft, stated, bar)
                after = _size(draft)
                if answer is None:
                    os.replace(draft, path)
                    return
                if after == 0:
                    draft.unlink()
                if not (after > before or after == 0 < before):  # nothing new came, and nothing wrong was dropped
                    break
            answers.append(f"{urlsplit(mirror).netloc} {answer}")
    kept = f" {_size(draft)} bytes are kept, and the same command goes on behind them." if _size(draft) else ""
    raise OSError(
        f"{path.name} could not be had: {'; '.join(answers)}.{kept} Try again later, put the file into {path.parent}, "
        "or let BQ_DATA name a folder that has the archives."
    )


def _attempt(url: str, draft: Path, stated: dict, bar: tqdm) -> str | None:
    """Download behind what *draft* holds; give None if it is whole then, or else what the mirror answered."""
    have, whole, seen = _size(draft), stated["bytes"], []
    bar.n = bar.initial = have
    with draft.open("ab", buffering=0) as file:
        target = _Target(file, whole, bar)

        def look(response, **_):  # before anything of the answer's body is read
            seen.append(response)
            if response.is_redirect or not response.ok:
                return
            kind, length, part = (
                response.headers.get(f"content-{key}", "").lower() for key in ("type", "length", "range")
            )
            if kind.startswith("text/html"):
                raise _Refused("sent a web page instead of the archive")
            if response.status_code == 206:
                if not part.startswith(f"bytes {have}-"):
                    raise _Refused(f"sent another part ({part or 'unnamed'}) than the one from byte {have} on")
            else:
                if length and length != str(whole):
                    raise _Refused(f"sent {length} bytes where the archive has {whole}")
                target.restart()

        # A .gz is to come as it is, not unpacked on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        download = HTTPDownloader(chunk_size=2**16, timeout=TIMEOUT, headers=headers, hooks={"response": look})
        try:
            download(url, target, None)
        except _Unwritable as error:
            raise OSError(
                f"{draft} could not be written ({error}): make room, and the same command goes on where it stopped."
            ) from None
        except _Refused as error:
            return str(error)
        except OSError as error:  # every one of requests' is
            if have and seen and seen[-1].status_code == 416:  # no such part: what is there is not of this archive
                target.restart()
            return _reason(error, seen, f"{target.size} of {whole} bytes")
        finally:
            for response in seen:
                response.close()
        if target.size < whole:
            return f"broke off after {target.size} of {whole} bytes"
        found = _md5(draft)
        if found != stated["md5"]:
            target.restart()
            return f"sent other bytes than the published ones (MD5 {found})"
        os.fsync(file.fileno())
    return None


def _reason(error: BaseException, seen: list, came: str) -> str:
    """Put what went wrong between us and a mirror into a few words."""
    if seen and not seen[-1].ok:
        return f"answered {seen[-1].status_code} {seen[-1].reason}".rstrip()
    chain = [error]
    while True:  # what urllib3 met is wrapped in what requests makes of it
        first = chain[-1].args[0] if chain[-1].args else None
        inner = getattr(first, "reason", None) or chain[-1].__cause__ or chain[-1].__context__
        if not isinstance(inner, BaseException) or inner in chain:
            break
        chain.append(inner)
    told = [link.strerror for link in chain if isinstance(link, OSError) and link.strerror]
    if any("timed out" in str(link) for link in chain):
        told = ["silent for too long"]
    why = told[-1] if told else type(chain[-1]).__name__
    return f"broke off after {came} ({why})" if seen else f"could not be reached ({why})"


class _Refused(OSError):
    """An answer that is not the archive, or not the part of it that was asked for."""


class _Unwritable(Exception):
    """The disk, and not the mirror, stands in the way."""


class _Target:
    """A draft that takes no more bytes than the archive has, moves the bar, and can begin anew."""

    def __init__(self, file, limit: int, bar: tqdm):
        self.file, self.limit, self.bar, self.size = file, limit, bar, file.tell()

    def write(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self.limit:
            self.restart()
            raise _Refused(f"sent more than the {self.limit} bytes that the archive has")
        rest = memoryview(chunk)
        while rest:  # an unbuffered file may take a part
            try:
                written = self.file.write(rest)
            except OSError as error:
                raise _Unwritable(error.strerror) from None
            rest = rest[written:]
            self.size += written
            self.bar.update(written)

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""

    def restart(self) -> None:
        self.file.truncate(0)
        self.size = 0
        self.bar.reset()


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
            if member.name in _UNREAD and (member.isfile() or member.isdir()):
                continue
            if member.name not in known or not member.isfile() or member.name in batches:
                raise ValueError(f"{file} has a member {member.name!r} that the official one has not")
            if member.size > _MEMBER:
                raise ValueError(f"{member.name} has {member.size} bytes: at most {_MEMBER} are read")
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
        order = np.array(sorted(range(len(files)), key=files.__getitem__))
        flat = np.concatenate([part[b"data"] for part in parts])
        rows, columns, channels = entry["shape"]
        images = flat.reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1)[order]
        arrays[f"{split}_images"] = np.ascontiguousarray(images)
        arrays[f"{split}_classes"] = np.array(sum((part[b"labels"] for part in parts), []), np.uint8)[order]
    return arrays


def read_batch(content: bytes, name: str) -> dict:
    """
    Read one pickled batch of CIFAR-10 with a loader that builds arrays, lists, strings and numbers, and nothing else.

    Returns
    -------
    dict with
        b"data" uint8 (n, 3072), b"labels" list of int in 0 .. 9, b"filenames" list of bytes

    Raises
    ------
    ValueError
        If the pickle asks for anything else, is damaged, or does not hold these.
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


class _Latin1:
    """What a protocol-2 pickle of Python 3 calls to make bytes; without a __dict__ that it could change."""

    __slots__ = ()

    def __call__(self, text, codec):
        if type(text) is not str or codec != "latin1":
            raise pickle.UnpicklingError("it asks for another codec than latin1")
        return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module differs between releases of NumPy
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # as in the official archive
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _Latin1(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None
