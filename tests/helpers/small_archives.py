"""Small archives in the official formats, which the tests of reading and of fetching share."""

import functools
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import yaml

FILES = {"train_images": "train-images-idx3", "train_classes": "train-labels-idx1",
         "test_images": "t10k-images-idx3", "test_classes": "t10k-labels-idx1"}  # fmt: skip
FOLDER = "cifar-10-batches-py"
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
TRAIN, TEST = 20, 4


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def batches(seed: int = 0) -> dict[str, dict]:
    """Return the content of a small CIFAR-10, in an order other than that of its file names."""
    generator = np.random.default_rng(seed)
    out = {}
    for k, name in enumerate(BATCHES):
        files = [f"{i:02d}_{k}.png".encode() for i in generator.permutation(4)]
        out[name] = {b"batch_label": name.encode(), b"labels": generator.integers(0, 10, 4).tolist(),
                     b"data": generator.integers(0, 256, (4, 3072), np.uint8), b"filenames": files}  # fmt: skip
    return out


def python_2(value) -> bytes:
    """Pickle in the way of Python 2, which made the official batches: bytes as its strings, arrays by an old name."""

    def push(v):
        if isinstance(v, dict):
            return b"}(" + b"".join(push(k) + push(x) for k, x in v.items()) + b"u"
        if isinstance(v, list):
            return b"](" + b"".join(map(push, v)) + b"e"
        if isinstance(v, bytes):
            return b"T" + struct.pack("<i", len(v)) + v
        if isinstance(v, int):
            return b"J" + struct.pack("<i", v)
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"".join(map(push, v.shape)) + b"\x86"
        make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return make + b"(K\x01" + shape + dtype + b"\x89" + push(v.tobytes()) + b"tb"

    return b"\x80\x02" + push(value) + b"."


def dumps(protocol: int):
    return functools.partial(pickle.dumps, protocol=protocol)


def packed(members: list[tuple[str, bytes]], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar(content: dict[str, dict], dump=python_2) -> bytes:
    members = [(f"{FOLDER}/{name}", dump(batch)) for name, batch in content.items()]
    return packed([(f"{FOLDER}/batches.meta", b"not read"), *members, (f"{FOLDER}/readme.html", b"<p>")])


def sorted_arrays(content: dict[str, dict]) -> dict[str, np.ndarray]:
    """Return the arrays of a small CIFAR-10 in the order of its file names, one image after the other."""
    out = {}
    for split, names in (("train", BATCHES[:5]), ("test", BATCHES[5:])):
        rows = [row for name in names for row in zip(*(content[name][k] for k in (b"filenames", b"data", b"labels")))]
        rows.sort(key=lambda row: row[0])
        out[f"{split}_images"] = np.stack([np.stack(np.split(data, 3), 1).reshape(32, 32, 3) for _, data, _ in rows])
        out[f"{split}_classes"] = np.array([label for *_, label in rows], np.uint8)
    return out


class Made:
    """A folder of small archives with a registry that knows them, and a server that has them."""

    def __init__(self, folder: Path):
        generator = np.random.default_rng(0)
        self.cifar = batches()
        digits = {name: generator.integers(0, 256 if "images" in name else 10,
                                           (TRAIN if "train" in name else TEST, *((28, 28) if "images" in name else ())),
                                           np.uint8) for name in FILES}  # fmt: skip
        self.arrays = {"mnist": digits, "fashion-mnist": digits, "cifar-10": sorted_arrays(self.cifar)}
        self.whole = {"cifar-10-python.tar.gz": cifar(self.cifar)}
        for name in ("mnist", "fashion-mnist"):
            for array, file in FILES.items():
                self.whole[f"{name}/{file}-ubyte.gz"] = gzip.compress(idx(digits[array]), mtime=0)
        self.registry, self.cache, self.there = folder / "archives.yml", folder / "cache", folder / "there"
        for file, content in self.whole.items():
            (self.there / file).parent.mkdir(parents=True, exist_ok=True)
            (self.there / file).write_bytes(content)

    def register(self, *mirrors: str) -> None:
        entries = {}
        for name, arrays in self.arrays.items():
            files = {file: {"md5": hashlib.md5(content).hexdigest(), "bytes": len(content)}
                     | ({} if name == "cifar-10" else {"holds": holds})
                     for (file, content), holds in zip(
                         [(f, c) for f, c in self.whole.items() if f.startswith(name)], FILES)}  # fmt: skip
            entries[name] = {
                "format": "cifar" if name == "cifar-10" else "idx", "shape": list(arrays["train_images"].shape[1:]),
                "train": TRAIN, "test": TEST, "files": files,
                "mirrors": [mirror + ("" if name == "cifar-10" else f"{name}/") for mirror in mirrors],
                "sha256": {key: hashlib.sha256(array).hexdigest() for key, array in arrays.items()},
            }  # fmt: skip
        self.registry.write_text(yaml.safe_dump(entries))
