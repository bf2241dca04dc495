"""Archives: the official ones where they are, and made ones that are damaged, hostile or only packed in another way."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from studies import __main__
from studies.data import archives, download
from tests.helpers.small_archives import BATCHES, FILES, FOLDER, TEST, TRAIN, Made, cifar, dumps, packed, python_2

ROOT = Path(__file__).resolve().parents[3]
OFFICIAL = yaml.safe_load((ROOT / "data" / "archives.yml").read_text(encoding="utf-8"))


@contextlib.contextmanager
def known(made: Made):
    """Let studies know of small archives, in the folder that BQ_DATA names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "REGISTRY", made.registry)
        patch.setattr(archives, "CACHE", made.cache)
        patch.setenv("BQ_DATA", str(made.there))
        patch.setenv("NO_PROXY", "127.0.0.1")
        forget()
        yield made
    forget()


def forget():
    archives._load.cache_clear()
    archives._registry.cache_clear()


@pytest.fixture
def made(tmp_path) -> Made:
    made = Made(tmp_path)
    made.register()
    with known(made):
        yield made


def refused(name: str) -> str:
    """Load what must be refused in one line, also by the table, and return the line."""
    with pytest.raises(ValueError) as caught:
        archives.load(name)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(name) and message.endswith(
        ": replace it in the folder that BQ_DATA names."
    )  # fmt: skip
    (row,) = archives.status((name,))
    assert not row.verified and row.says == message
    return message


# What is read


@pytest.mark.parametrize("name", archives.NAMES)
def test_made_archives_are_read(made, name):
    archive = archives.load(name)
    for key, array in archive._asdict().items():
        assert array.dtype == np.uint8 and np.array_equal(array, made.arrays[name][key])
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert archives.load(name) is archive  # read once


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Made:
    made = Made(tmp_path_factory.mktemp("small"))
    made.register()
    return made


@settings(max_examples=25)
@given(seed=st.integers(0, 999), dump=st.sampled_from([python_2, dumps(2), dumps(4)]))
def test_cifar_is_the_same_in_whatever_order_and_way_it_was_packed(small, seed, dump):
    generator = random.Random(seed)
    content = {name: dict(batch) for name, batch in small.cifar.items()}
    train = [(name, i) for name in BATCHES[:5] for i in range(4)]
    dealt = generator.sample(train, len(train))
    for k, name in enumerate(BATCHES[:5]):  # images change batch and place, each with its label and file name
        rows = dealt[4 * k : 4 * k + 4]
        for key in (b"data", b"labels", b"filenames"):
            values = [small.cifar[other][key][i] for other, i in rows]
            content[name][key] = np.array(values) if key == b"data" else values
    members = [(f"{FOLDER}/{name}", dump(batch)) for name, batch in content.items()]
    (small.there / "cifar-10-python.tar.gz").write_bytes(packed(generator.sample(members, 6)))
    with known(small):
        for key, array in archives.load("cifar-10")._asdict().items():
            assert np.array_equal(array, small.arrays["cifar-10"][key])


def test_in_our_own_folder_only_the_published_bytes_count(made, monkeypatch):
    monkeypatch.delenv("BQ_DATA")
    made.there.rename(made.cache)
    assert archives.load("mnist").test_classes.shape == (TEST,)
    path = made.cache / "mnist" / "t10k-labels-idx1-ubyte.gz"
    anew = gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=1)
    path.write_bytes(anew)
    with pytest.raises(ValueError) as caught:
        archives.load("mnist")
    assert str(caught.value) == (
        f"{path} is not the published archive (MD5 {hashlib.md5(anew).hexdigest()}): "
        "`python -m studies data fetch mnist` gets it anew."
    )
    monkeypatch.setenv("BQ_DATA", str(made.cache))
    assert archives.load("mnist").test_classes.shape == (TEST,)


# What is refused


def test_missing_archives_say_how_to_get_them(made, monkeypatch):
    (made.there / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        archives.load("mnist")
    assert str(caught.value) == (
        f"mnist needs {made.there}/mnist/train-labels-idx1-ubyte.gz, which is not there: put it there, "
        "or unset BQ_DATA and `python -m studies data fetch mnist`."
    )
    monkeypatch.delenv("BQ_DATA")
    with pytest.raises(
        FileNotFoundError, match="not there: `python -m studies data fetch cifar-10`, or let BQ_DATA name"
    ):
        archives.load("cifar-10")
    with pytest.raises(ValueError, match="Data set is 'imagenet': choose one of 'mnist', 'fashion-mnist', 'cifar-10'"):
        archives.load("imagenet")


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda c: b"\0\0\x09" + c[3:], "begins with 00000903"),
        (lambda c: b"\0\0\x08\x01" + c[4:], "begins with 00000801"),
        (lambda c: c[:4] + struct.pack(">I", TRAIN + 1) + c[8:], "begins with 0000080300000015"),
        (lambda c: c[:10], "begins with 00000803000000140000, not"),
        (lambda c: b"", "begins with , not 00000803"),
        (lambda c: c[:-1], f"holds {16 + TRAIN * 784 - 1} bytes where the header says {16 + TRAIN * 784}"),
        (lambda c: c + b"\0", f"holds more bytes where the header says {16 + TRAIN * 784}"),
        (lambda c: c[:99] + bytes([c[99] ^ 1]) + c[100:], "does not hold the official train images (SHA-256 "),
    ],
)
def test_a_wrong_idx_file_is_refused(made, change, says):
    path = made.there / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    assert says in refused("mnist")


@pytest.mark.parametrize("file", ["mnist/train-images-idx3-ubyte.gz", "cifar-10-python.tar.gz"])
def test_a_damaged_archive_is_refused(made, file):
    path, whole = made.there / file, made.whole[file]
    generator = random.Random(0)
    cut = [whole[:length] for length in (0, 1, 9, 10, len(whole) // 2, len(whole) - 9)]
    wrong = [*cut, b"\0" * len(whole), b"<!DOCTYPE html><html></html>" * 99]
    for _ in range(40):
        place = generator.randrange(10, len(whole))  # in the first ten bytes stand a time and a system, of no meaning
        wrong.append(whole[:place] + bytes([whole[place] ^ (1 << generator.randrange(8))]) + whole[place + 1 :])
    for content in wrong:
        path.write_bytes(content)
        archives._load.cache_clear()
        try:
            archive = archives.load(file.split("-10-")[0].split("/")[0] + ("-10" if "cifar" in file else ""))
        except ValueError as error:
            assert "\n" not in str(error) and str(error).endswith(": replace it in the folder that BQ_DATA names.")
        else:  # a member that is not read, or padding
            assert "cifar" in file and np.array_equal(archive.test_images, made.arrays["cifar-10"]["test_images"])


def test_labels_swapped_between_two_images_are_refused(made):
    labels = made.cifar["data_batch_2"][b"labels"]
    i = next(i for i in range(3) if labels[i] != labels[i + 1])
    labels[i], labels[i + 1] = labels[i + 1], labels[i]
    (made.there / "cifar-10-python.tar.gz").write_bytes(cifar(made.cifar))
    assert "does not hold the official train classes (SHA-256 " in refused("cifar-10")


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


@pytest.mark.parametrize(
    "extra",
    [
        member("../evil", b"x"), member("/tmp/evil", b"x"), member(f"{FOLDER}/../../evil", b"x"),
        member(f"{FOLDER}/other", b"x"), member("data_batch_1", b"x"),
        member(f"{FOLDER}/batches.meta", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member(f"{FOLDER}/readme.html", kind=tarfile.LNKTYPE, link=f"{FOLDER}/data_batch_1"),
        member(f"{FOLDER}/data_batch_1", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member(f"{FOLDER}/data_batch_1", kind=tarfile.LNKTYPE, link=f"{FOLDER}/test_batch"),
        member(f"{FOLDER}/data_batch_1", kind=tarfile.FIFOTYPE),
        member(f"{FOLDER}/data_batch_1", kind=tarfile.DIRTYPE),
    ],
    ids=lambda extra: f"{extra[0].name}-{extra[0].type.decode()}",
)  # fmt: skip
def test_a_member_that_the_official_archive_has_not_is_refused(made, tmp_path, extra):
    before = sorted(tmp_path.rglob("*"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(extra[0], io.BytesIO(extra[1]))
        for name, batch in made.cifar.items():
            content = python_2(batch)
            tar.addfile(member(f"{FOLDER}/{name}", content)[0], io.BytesIO(content))
    (made.there / "cifar-10-python.tar.gz").write_bytes(out.getvalue())
    assert f"has a member {extra[0].name!r} that the official one has not" in refused("cifar-10")
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_a_tar_of_too_few_too_many_or_too_large_members_is_refused(made):
    path = made.there / "cifar-10-python.tar.gz"
    members = [(f"{FOLDER}/{name}", python_2(batch)) for name, batch in made.cifar.items()]
    path.write_bytes(packed(members[1:]))
    assert f"lacks {FOLDER}/data_batch_1" in refused("cifar-10")
    path.write_bytes(packed([*members, members[0]]))
    assert f"has a member '{FOLDER}/data_batch_1' that the official one has not" in refused("cifar-10")
    path.write_bytes(packed([(f"{FOLDER}/data_batch_1", bytes(2**26 + 1))]))
    assert f"data_batch_1 has {2**26 + 1} bytes: at most {2**26} are read" in refused("cifar-10")
    made.cifar["data_batch_1"][b"filenames"][0] = made.cifar["data_batch_2"][b"filenames"][0]
    path.write_bytes(cifar(made.cifar))
    assert "train has 20 images of 19 names where 20 belong" in refused("cifar-10")


# What is there, and fetching


@pytest.fixture
def fetching(made, monkeypatch):
    """No BQ_DATA, an empty cache, and a server of whole archives; mirrors are named by :meth:`Made.register`."""
    monkeypatch.delenv("BQ_DATA")
    handler = functools.partial(Quiet, directory=str(made.there))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, Quiet.pause = True, 0.0
    server.handle_error = lambda *arguments: None  # a client that is stopped
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    made.mirror = f"http://127.0.0.1:{server.server_port}/"
    made.register(f"{made.mirror}nowhere/", made.mirror)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, at will slowly, and says nothing."""

    pause = 0.0

    def copyfile(self, source, target):
        while piece := source.read(2048):
            target.write(piece)
            time.sleep(self.pause)

    def log_message(self, *arguments):
        """Say nothing."""


def test_fetched_archives_are_verified_and_shown(fetching, capsys):
    assert __main__.main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["mnist", "0", "of", "4"], ["fashion-mnist", "0", "of", "4"], ["cifar-10", "0", "of", "1"],
    ]  # fmt: skip
    assert all(line.endswith(f"{fetching.cache}{folder}  not there") for line, folder in
               zip(lines, ("/mnist        ", "/fashion-mnist", "              ")))  # fmt: skip
    assert __main__.main(["data", "fetch", "mnist"]) == 0
    out = capsys.readouterr().out
    assert out == f"mnist         4 of 4 files    0.0 MB  {fetching.cache}/mnist  verified\n"
    assert __main__.main(["data", "fetch", "all"]) == 0
    assert capsys.readouterr().out.count("  verified\n") == 3
    for file, content in fetching.whole.items():
        assert (fetching.cache / file).read_bytes() == content
    files = [path for path in fetching.cache.rglob("*") if path.is_file()]
    assert len(files) == len(fetching.whole)  # no draft, no lock is left
    fetching.register(f"{fetching.mirror}nowhere/")  # nothing is asked for again
    forget()
    assert __main__.main(["data", "fetch", "all"]) == 0


def test_half_a_set_a_draft_and_a_damaged_file_are_told_and_replaced(fetching, capsys):
    assert archives.fetch("mnist", progress=False) == fetching.cache
    path = fetching.cache / "mnist" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    (row,) = archives.status(("mnist",))
    assert not row.verified and row.says.startswith(f"{path} is not the published archive (MD5 ")
    path.rename(download.draft_of(path))
    (row,) = archives.status(("mnist",))
    assert row == ("mnist", path.parent, 3, 4, row.bytes, False,
                   f"lacks {path.name}; {len(whole) - 1} bytes of a stopped download")  # fmt: skip
    assert archives.fetch("mnist", progress=False) == fetching.cache
    assert path.read_bytes() == whole and archives.status(("mnist",))[0].verified


def test_no_mirror_is_one_line_and_2(fetching, capsys):
    fetching.register(f"{fetching.mirror}nowhere/", f"{fetching.mirror}no/")
    assert __main__.main(["data", "fetch", "cifar-10"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    host = fetching.mirror.split("/")[2]
    assert line == (
        f"studies data: cifar-10-python.tar.gz could not be had: {host} answered 404 File not found; "
        f"{host} answered 404 File not found. Try again later, put the file into {fetching.cache}, "
        "or let BQ_DATA name a folder that has it."
    )


def test_a_registry_that_knows_other_pixels_refuses_a_whole_archive(fetching):
    entries = yaml.safe_load(fetching.registry.read_text())
    entries["mnist"]["sha256"]["test_classes"] = "0" * 64
    fetching.registry.write_text(yaml.safe_dump(entries))
    with pytest.raises(ValueError, match="mnist in .+ does not hold the official test classes"):
        archives.fetch("mnist", progress=False)


def test_the_folder_of_bq_data_is_never_written_to(made, monkeypatch, capsys):
    monkeypatch.setattr(archives, "fetch_file", lambda *a, **k: pytest.fail("fetched"))
    before = {path: path.stat().st_mtime_ns for path in made.there.rglob("*")}
    assert __main__.main(["data", "fetch", "all"]) == 0
    assert capsys.readouterr().out.count("  verified\n") == 3
    (made.there / "cifar-10-python.tar.gz").unlink()
    assert __main__.main(["data", "fetch", "cifar-10"]) == 2
    assert "unset BQ_DATA and `python -m studies data fetch cifar-10`." in capsys.readouterr().err
    assert __main__.main(["data"]) == 0
    del before[made.there / "cifar-10-python.tar.gz"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(made.there.rglob("*")) == sorted(before)


def test_ctrl_c_in_a_fetch_is_130_and_the_same_command_goes_on(fetching, capsys):
    Quiet.pause = 0.1  # the CIFAR-10 archive is some 75 kB, so 4 s
    code = (
        "import sys\nfrom pathlib import Path\nfrom studies import __main__ as c\nfrom studies.data import archives\n"
        "archives.REGISTRY, archives.CACHE = map(Path, sys.argv[1:3])\nsys.exit(c.main(sys.argv[3:]))"
    )
    command = [sys.executable, "-c", code, fetching.registry, fetching.cache, "data", "fetch", "cifar-10"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    draft, end = download.draft_of(fetching.cache / "cifar-10-python.tar.gz"), time.monotonic() + 60
    while not (draft.exists() and draft.stat().st_size):
        assert time.monotonic() < end and child.poll() is None, child.communicate()
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, error = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert error.splitlines()[-1] == "studies data: stopped; what came is kept, and the same command goes on."
    assert "Traceback" not in error and not (fetching.cache / "cifar-10-python.tar.gz").exists()
    (row,) = archives.status(("cifar-10",))
    assert row.says == f"not there; {draft.stat().st_size} bytes of a stopped download"
    Quiet.pause = 0.0
    assert __main__.main(["data", "fetch", "cifar-10"]) == 0
    assert capsys.readouterr().out.endswith("  verified\n")


@pytest.mark.parametrize("words", [["data", "--help"], ["data", "fetch", "--help"], ["data", "fetch", "imagenet"]])
def test_the_command_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(words)
    shown = capsys.readouterr()
    assert ended.value.code == (0 if words[-1] == "--help" else 2)
    assert "BQ_DATA" in shown.out or "{mnist,fashion-mnist,cifar-10,all}" in shown.out + shown.err


# The official ones


def test_the_registry_names_at_least_two_mirrors_and_a_digest_of_every_file_and_array():
    assert tuple(OFFICIAL) == archives.NAMES
    for entry in OFFICIAL.values():
        hosts = {mirror.split("/")[2] for mirror in entry["mirrors"]}
        assert len(hosts) == len(entry["mirrors"]) >= 2
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in entry["mirrors"])
        assert list(entry["sha256"]) == list(FILES) and all(len(digest) == 64 for digest in entry["sha256"].values())
        assert all(len(stated["md5"]) == 32 and stated["bytes"] > 0 for stated in entry["files"].values())
    digests = [stated["md5"] for entry in OFFICIAL.values() for stated in entry["files"].values()]
    assert len(set(digests)) == len(digests) == 9


def test_the_registry_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BQ_DATA", raising=False)
    assert len(archives.status()) == 3 and archives.folder() == ROOT / "data" / "archives"


def needs(name: str):
    """Skip, saying so, where the official archives are not."""
    missing = [file for file in OFFICIAL[name]["files"] if not (archives.folder() / file).is_file()]
    if missing:
        pytest.skip(
            f"the official {name} was NOT tested: {archives.folder()} lacks {', '.join(missing)}; "
            f"`python -m studies data fetch {name}`, or let BQ_DATA name a folder that has it"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", archives.NAMES)
def test_the_official_archive_is_verified(name):
    needs(name)
    archive = archives.load(name)
    assert archives.status((name,))[0].verified
    counts = [np.bincount(classes, minlength=10) for classes in (archive.train_classes, archive.test_classes)]
    if name == "mnist":  # as its homepage and many others have them
        assert counts[0].tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert archive.test_classes[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    else:
        assert set(counts[0]) == {6000 if name == "fashion-mnist" else 5000} and set(counts[1]) == {1000}
    if name == "cifar-10":  # known from tutorials: channel means of the training images, times 255
        np.testing.assert_allclose(
            archive.train_images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5
        )  # as printed there, to four digits
