"""Result files: the same bytes for the same content, whole or not at all, refused when damaged."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bqcore import _store

ROOT = Path(__file__).resolve().parents[1]
ADVICE = "is not a whole result file .*: delete it and run the command again"


def sample(n: int = 5) -> xr.Dataset:
    """Return a small dataset with every type that runs write."""
    return xr.Dataset(
        {
            "rate": (("seed", "bits"), np.arange(2.0 * n).reshape(n, 2) / 7, {"long_name": "flip rate", "units": "1"}),
            "count": ("seed", np.arange(n)),
            "flag": ("seed", np.arange(n) % 2 == 0),
            "labels": ("seed", np.arange(n, dtype=np.int8)),
            "radius": ("seed", np.r_[np.inf, np.nan, np.ones(n - 2)]),
            "scalar": 3.5,
        },
        {"seed": np.arange(n), "bits": [8, 4], "transition": ("bits", ["8→7", "4→3"])},
        {"title": "a test", "spec": '{"seed": 0}', "runs": n},
    )


def python(code: str, *arguments, hash_seed: str = "0") -> subprocess.CompletedProcess:
    """Run *code* in another process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_rows_are_joined_as_xarray_joins_them():
    rows = [
        {"share": 0.5 * i, "count": i, "empty": i == 1, "shift": ("quantile", np.array([i, 2.0])), "quantile": [0.5, 0.95],
         "map": (("b", "a"), np.full((2, 3), i, np.int8))}
        for i in range(3)
    ]  # fmt: skip
    expected = xr.concat([xr.Dataset(row) for row in rows], xr.Variable("bits", [8, 4, 2]))
    found = _store.along("bits", [8, 4, 2], rows)
    assert found.identical(expected)
    assert {n: v.dtype for n, v in found.variables.items()} == {n: v.dtype for n, v in expected.variables.items()}


def test_round_trip(tmp_path):
    _store.save_dataset(sample(), tmp_path / "new" / "folder" / "a.nc")
    loaded = _store.load_dataset(tmp_path / "new" / "folder" / "a.nc")
    xr.testing.assert_identical(loaded, sample())
    assert {name: loaded[name].dtype for name in loaded} == {name: sample()[name].dtype for name in sample()}
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["a.nc"]
    (tmp_path / "new" / "folder" / "a.nc").unlink()  # in memory: the values no longer need the file
    assert loaded["count"].sum() == 10


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_round_trip_of_any_numbers(tmp_path, data):
    kind = data.draw(st.sampled_from([np.float64, np.float32, np.int64, np.int8, bool]))
    values = data.draw(arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)))
    dataset = xr.Dataset({"x": (("a", "b", "c")[: values.ndim], values)}, attrs={"text": data.draw(st.text("aé→0 "))})
    _store.save_dataset(dataset, tmp_path / "any.nc")
    xr.testing.assert_identical(_store.load_dataset(tmp_path / "any.nc"), dataset)


def test_other_programs_read_the_files(tmp_path):
    _store.save_dataset(sample(), tmp_path / "a.nc")
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(tmp_path / "a.nc", engine=engine) as dataset:
            xr.testing.assert_identical(dataset.load(), sample())


@pytest.mark.slow
def test_same_content_gives_the_same_bytes_in_any_process(tmp_path):
    _store.save_dataset(sample(), tmp_path / "here.nc")
    _store.save_dataset(sample(7), tmp_path / "other.nc")
    time.sleep(1.1)  # NetCDF files can hold times, in seconds
    _store.save_dataset(_store.load_dataset(tmp_path / "here.nc"), tmp_path / "copy.nc")
    code = (
        "import sys; from bqcore import _store; loaded = _store.load_dataset(sys.argv[1]); "
        "_store.save_dataset(_store.load_dataset(sys.argv[2]), sys.argv[3]); _store.save_dataset(loaded, sys.argv[3])"
    )
    done = python(code, tmp_path / "here.nc", tmp_path / "other.nc", tmp_path / "there.nc", hash_seed="4321")
    assert (done.returncode, done.stderr) == (0, "")
    here = _store.digest(tmp_path / "here.nc")
    assert _store.digest(tmp_path / "copy.nc") == here == _store.digest(tmp_path / "there.nc")
    assert _store.digest(tmp_path / "other.nc") != here
    _store.save_dataset(sample()[list(sample().variables)[::-1]], tmp_path / "reversed.nc")
    assert _store.digest(tmp_path / "reversed.nc") == here  # neither the order in which it was put together
    _store.save_dataset(_store.load_dataset(tmp_path / "other.nc").isel(seed=slice(4)), tmp_path / "part.nc")
    _store.save_dataset(sample(7).isel(seed=slice(4)), tmp_path / "part here.nc")
    assert _store.digest(tmp_path / "part.nc") == _store.digest(tmp_path / "part here.nc")  # nor where it was read


def test_an_interrupted_write_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "a.nc"
    _store.save_bytes(b"former", path)
    for interruption in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def stop(handle, interruption=interruption):
            raise interruption

        with monkeypatch.context() as patch:
            patch.setattr(_store.os, "fsync", stop)  # the new content is written, but not in place
            with pytest.raises(type(interruption)):
                _store.save_bytes(b"new content", path)
        assert path.read_bytes() == b"former"
        assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "link").hardlink_to(path)
    _store.save_bytes(b"new content", path)
    assert path.read_bytes() == b"new content"
    assert (tmp_path / "link").read_bytes() == b"former"  # moved into place, not written there
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device", "draft")

    monkeypatch.setattr(_store.tempfile, "mkstemp", full)
    with pytest.raises(
        OSError, match=r"a\.nc could not be written \(No space left on device\): nothing was lost; make"
    ):
        _store.save_bytes(b"x", tmp_path / "a.nc")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/a\.nc could not be written \(.+\): nothing was lost"):
        _store.save_bytes(b"x", tmp_path / "file" / "a.nc")


def test_a_real_limit_leaves_the_former_file_and_says_so(tmp_path):
    path = tmp_path / "a.nc"
    _store.save_dataset(sample(), path)
    former = path.read_bytes()
    code = (
        "import resource, sys\nfrom bqcore import _store as results\n"
        "larger = results.load_dataset(sys.argv[1]).isel(seed=slice(4))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: results.save_dataset(larger, sys.argv[1])\n"
        "except OSError as error: print(error)"
    )
    done = python(code, path)
    assert done.stderr == ""
    assert (
        done.stdout
        == f"[Errno 27] {path} could not be written (File too large): nothing was lost; make room and run again.\n"
    )
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.nc"
    _store.save_dataset(sample(), path)
    content = path.read_bytes()
    generator = np.random.default_rng(1)
    damaged = [content[:length] for length in [*range(40), *generator.integers(40, len(content), 60), len(content) - 1]]
    for place in generator.integers(0, len(content), 200):
        damaged.append(
            content[:place] + bytes([content[place] ^ (1 << int(generator.integers(8)))]) + content[place + 1 :]
        )
    damaged += [content + b"\0", b"\0" * len(content), b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 9]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=ADVICE):
            _store.load_dataset(path)
    path.write_bytes(content)
    xr.testing.assert_identical(_store.load_dataset(path), sample())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no result file .*gone\.nc: `make book` computes"):
        _store.load_dataset(tmp_path / "gone.nc")


def test_largest_difference():
    first = sample()
    assert _store.largest_difference(first, first.copy(deep=True)) == (0.0, "")  # also for equal NaN and infinity
    second = first.copy(deep=True)
    second["rate"][3, 1] += 0.25
    second["count"][2] -= 2
    assert _store.largest_difference(first, second) == (2.0, "count")
    assert _store.largest_difference(second.drop_vars("count"), first) == (pytest.approx(0.25), "rate")
    # Only what both hold: the changed seed is left out.
    assert _store.largest_difference(first, second.isel(seed=[0, 1])) == (0.0, "")
    assert _store.largest_difference(first.isel(seed=[4, 3]), second.isel(seed=[3]))[0] == pytest.approx(0.25)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_largest_difference_of_a_value_on_one_side_is_infinite(place, value):
    first = xr.Dataset({name: ("seed", np.arange(3.0)) for name in "xyz"})
    second = first.copy(deep=True)
    second["y"][place] = value
    for pair in ((first, second), (second, first)):
        assert _store.largest_difference(*pair) == (np.inf, "y")


def test_largest_difference_of_disjoint_results_is_refused():
    first = sample()
    for second in (first.assign_coords(seed=first.seed + 9), first.assign_coords(bits=[7, 3]), xr.Dataset({"z": 1.0})):
        if "seed" in second.dims:
            first = sample().drop_vars("scalar")
        with pytest.raises(ValueError, match="have no variable, seed or level in common: there is nothing to compare"):
            _store.largest_difference(first[["rate"]], second)
