"""Pickled batches of CIFAR-10: what asks for more than arrays, lists, strings and numbers is refused, and not called."""

import functools
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.data import archives
from tests.helpers.small_archives import batches, dumps, python_2


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(folder: Path) -> list[bytes]:
    mark = f"touch {folder}/mark"
    calls = [
        Calls(os.system, mark), Calls(eval, f"open('{folder}/mark', 'w')"), Calls(exec, "x = 1"),
        Calls(__import__, "os"), Calls(np.load, f"{folder}/data.npy"), Calls(open, "/etc/passwd"),
        Calls(subprocess.run, mark, None), Calls(np.memmap, f"{folder}/mark", "u1", "w+", 0, (9,)),
        Calls(np.frombuffer, b"12"), Calls(bytearray, 9), Calls(functools.partial, os.system, mark), Calls(print, "x"),
        np.random.default_rng(0), np.ma.array([1]), Path("/"), {1, 2}, 2j, np.float64(3),
    ]  # fmt: skip
    out = [pickle.dumps(call, protocol) for call in calls for protocol in (0, 2, 4, 5)]
    text = lambda module, name: b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name  # noqa: E731
    for module, name in (
        (b"numpy", b"ndarray.tofile"),
        (b"numpy", b"load"),
        (b"builtins", b"eval"),
        (b"numpy", b"dtype.type"),
    ):
        out.append(text(module, name) + b"\x93.")
        out.append(b"c" + module + b"\n" + name + b"\n.")
    return out


def test_a_pickle_that_asks_for_anything_else_is_refused_and_nothing_is_called(tmp_path):
    np.save(tmp_path / "data.npy", np.array([Calls(os.system, f"touch {tmp_path}/mark")], object), allow_pickle=True)
    for content in hostile(tmp_path):
        with pytest.raises(
            ValueError, match=r"^b (cannot be read: it asks for .+, which no batch needs|holds no data)"
        ):
            archives.read_batch(content, "b")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npy"]


@pytest.mark.parametrize(
    "content",
    [
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",  # another codec
        b"c_codecs\nencode\n(K\x01Vlatin1\ntR.",
        b"cnumpy\ndtype\n(Vi4\nI00\nI01\ntR(I3\nV>\nNNNI-1\nI-1\nI0\ntb.",  # to turn the bytes of all integers round
        b"cnumpy\ndtype\n(VO\nI00\nI01\ntR.",
        b"c_codecs\nencode\n}Va\nK\x01sb.",  # to change what all of them call
        b"c_codecs\nencode\nN}V__class__\nK\x01s\x86b.",
        b"cnumpy\ndtype\n}V__call__\nK\x01sb.",
        b"c_codecs\nencode\nN}Va\nK\x01s\x86b.",
        b"cnumpy\nndarray\nN}Vtofile\nK\x01s\x86b.",
        b"cnumpy.core.multiarray\n_reconstruct\nN}V__name__\nK\x01s\x86b.",
        b"cnumpy\nndarray\n(L999999999999999L\ntR.",  # more memory than there is
        b"P1\n.", b"\x80\x02\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", b"", b".", b"(((((", b"\x80\xff.", b"0.",
    ],
)  # fmt: skip
def test_a_malformed_pickle_is_refused_in_one_line_and_changes_nothing(content):
    with pytest.raises(ValueError, match="^b cannot be read: ") as caught:
        archives.read_batch(content, "b")
    assert "\n" not in str(caught.value)
    assert np.dtype("i4").isnative and np.dtype(np.uint8).str == "|u1"
    batch = batches()["data_batch_1"]
    for dump in (python_2, dumps(2)):
        assert archives.read_batch(dump(batch), "b")[b"filenames"] == batch[b"filenames"]


def test_a_pickle_of_something_else_is_refused():
    vast = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L999999999999999L\ntVu1\ntR."  # empty, for us
    for content in (b"N.", b"}.", b"](K\x01e.", vast):
        with pytest.raises(ValueError, match="^b holds no data, labels and filenames$"):
            archives.read_batch(content, "b")


@settings(max_examples=300)
@given(st.data())
def test_a_pickle_with_changed_bytes_is_refused_or_still_holds_a_batch(data):
    content = bytearray(python_2(BATCH))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content)))) :]
    try:
        batch = archives.read_batch(bytes(content), "b")
    except ValueError as error:
        assert str(error).startswith("b") and "\n" not in str(error)
    else:
        assert len(batch[b"data"]) == len(batch[b"labels"]) == len(batch[b"filenames"])
        assert all(type(label) is int and 0 <= label <= 9 for label in batch[b"labels"])


BATCH = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3], b"filenames": [b"a.png"], b"batch_label": b"x"}


@pytest.mark.parametrize(
    "change, says",
    [
        ({b"data": np.zeros((1, 3072), np.int16)}, "it asks for an array of 'i2', not of bytes"),
        ({b"data": np.zeros((1, 3071), np.uint8)}, "its data are no uint8 array of 3072 columns"),
        ({b"data": np.zeros(3072, np.uint8)}, "its data are no uint8 array"),
        ({b"data": np.array([[None] * 3072], object)}, "it asks for an array of 'O8', not of bytes"),
        ({b"data": [[0] * 3072]}, "its data are no uint8 array"),
        ({b"labels": [10]}, "its labels are no list of classes 0 to 9"),
        ({b"labels": [-1]}, "its labels are no list"),
        ({b"labels": [True]}, "its labels are no list"),
        ({b"labels": (3,)}, "its labels are no list"),
        ({b"filenames": ["a.png"]}, "its filenames are no list of byte strings"),
        ({b"labels": [1, 2]}, "b has 1 images, 2 labels and 1 filenames"),
        ({b"filenames": []}, "b has 1 images, 1 labels and 0 filenames"),
    ],
)
def test_a_batch_of_anything_but_images_labels_and_names_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        archives.read_batch(pickle.dumps(BATCH | change, protocol=2), "b")
