"""What studies took: jobs added up, overlaps and pauses counted right."""

import os
import re

import pytest

from bqcore import _store
from studies import __main__, times

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def record(tmp_path):
    """Return a function that writes the record of a job which ended at a time, in seconds."""

    def write(name: str, *, end: float, seconds: float, cpu: float | str, peak: float | str):
        path = tmp_path / f"{name}.tsv"
        path.write_text(f"{HEAD}{seconds}\t0:00:00\t{peak}\t-\t-\t-\t0\t0\t0\t{cpu}\n")
        os.utime(path, (end, end))
        return path

    return write


def test_jobs_of_a_study_add_up_and_all_is_the_time_in_which_one_was_running(record, tmp_path):
    found = times.of_records([
        record("long.seed-0", end=1600, seconds=600, cpu=540, peak=800),
        record("long.seed-1", end=2200, seconds=900, cpu=840, peak=900),  # overlaps the first by 300 s
        record("short", end=2000, seconds=60, cpu=30, peak=100),  # within the second
        record("late", end=9060, seconds=60, cpu=30, peak=50),  # after a pause, as of a stopped make
    ])  # fmt: skip
    assert found.study.values.tolist() == ["long", "short", "late", "all"]
    assert found.minutes.values.tolist() == [25, 1, 1, 21]  # 1000 to 2200 s, and 60 s
    assert found.cpu_minutes.values.tolist() == [23, 0.5, 0.5, 24]
    assert found.peak_mb.values.tolist() == [900, 100, 50, 1700]  # both long ones at a time
    assert re.fullmatch(r"\S.*[^\s,], \d+ cores", found.machine)
    _store.save_dataset(found, tmp_path / "times.nc")
    assert _store.load_dataset(tmp_path / "times.nc").identical(found)
    lines = times.table(found).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["study", "---", "long", "short", "late", "all"]
    assert lines[-1].split() == ["|", "all", "|", "21.0", "|", "24.0", "|", "1700", "|"]
    assert len({len(line) for line in lines}) == 1


def test_a_job_too_short_to_be_measured_counts_by_its_time_alone(record):
    found = times.of_records([record("a", end=100, seconds=0.6, cpu="-", peak="NA")])
    assert found.minutes.values == pytest.approx([0.01, 0.01], abs=1e-6)  # from times since 1970, to some 1e-7 s
    assert found.cpu_minutes.values.tolist() == [0, 0]
    assert times.table(found).splitlines()[-1].split() == ["|", "all", "|", "0.0", "|", "0.0", "|", "–", "|"]


def test_the_command_prints_the_table_and_keeps_that_of_the_paper(record, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [record("a b", end=100, seconds=60, cpu=30, peak=10), record("c", end=500, seconds=30, cpu=30, peak=20)]
    assert __main__.main(["times", *map(str, paths)]) == 0
    assert not times.KEPT.exists()
    capsys.readouterr()
    assert __main__.main(["times", *map(str, paths), "--paper"]) == 0
    found = _store.load_dataset(times.KEPT)
    assert found.command == "make reproduce PROFILE=paper" and found.equals(times.of_records(paths))
    assert capsys.readouterr().out == f"\n{times.table(found)}\n{found.machine}\n"
    assert __main__.main(["times", str(tmp_path / "none.tsv")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_no_record_is_refused():
    with pytest.raises(ValueError, match="There is no record of a run: `make reproduce` leaves them"):
        times.of_records([])
