"""What studies took, by the records of `make reproduce`, as a file and a table; how functions grow, as a table."""

import json
import os
import platform
import re
from pathlib import Path

import pandas as pd
import xarray as xr

from bqcore._store import save_dataset

from . import measures

COMMAND = "make reproduce PROFILE=paper"
KEPT = Path("data/runs/paper/times.nc")  # of the paper's own runs, which that command makes
GROWTH = Path("data/runs/growth.nc")  # of the library's functions, by studies.growth
ALL = "all"


def of_records(records: list[Path]) -> xr.Dataset:
    """
    Add up what the jobs of each study took, by Snakemake's benchmark records, written when a job ends.

    A record is "study.tsv" or, of one of its jobs, "study.seed-0.tsv". Along ``study``, the last being "all":
    ``minutes``, of a study's jobs one after the other, and of all those in which at least one job was running;
    ``cpu_minutes``; ``peak_mb``, of a study's largest job, and of all that of the jobs that ran at a time.
    """
    if not records:
        raise ValueError("There is no record of a run: `make reproduce` leaves them.")
    jobs = pd.concat([pd.read_csv(path, sep="\t", na_values=["-", "NA"]) for path in records], ignore_index=True)
    jobs["study"] = [path.name.split(".")[0] for path in records]
    jobs["end"] = [path.stat().st_mtime for path in records]
    by_study = jobs.groupby("study", sort=False).agg({"s": "sum", "cpu_time": "sum", "max_rss": "max"})
    by_study.loc[ALL] = [_busy(jobs), jobs.cpu_time.sum(), _at_a_time(jobs)]
    columns = {"minutes": by_study.s / 60, "cpu_minutes": by_study.cpu_time / 60, "peak_mb": by_study.max_rss}
    variables = {name: ("study", column.to_numpy()) for name, column in columns.items()}
    out = xr.Dataset(variables, {"study": list(by_study.index)})
    measures.describe(out)
    out.attrs = {"machine": machine()}
    return out


def keep(times: xr.Dataset) -> None:
    """Keep *times*, of :func:`of_records`, as those of the paper's own runs, to be published."""
    attrs = {
        "title": "Boundary-aware quantization: what the paper's own runs took",
        "command": COMMAND,
        "spec": json.dumps({"study": "times", "profile": "paper"}),
    }
    save_dataset(times.assign_attrs(attrs), KEPT)


def _busy(jobs: pd.DataFrame) -> float:
    """Return the seconds in which at least one of *jobs* ran; the pause of a make that was stopped is not counted."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(zip(jobs.end - jobs.s, jobs.end)):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _at_a_time(jobs: pd.DataFrame) -> float:
    """Return the most memory that *jobs* can have held at a time, each at its own peak; NaN where none was measured."""
    start = jobs.end - jobs.s
    return pd.Series([jobs.max_rss[(start <= at) & (at < jobs.end)].sum(min_count=1) for at in start]).max()


def machine() -> str:
    """Return the processor's name and the number of cores."""
    try:
        name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):  # no Linux, or an unnamed processor
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def table(times: xr.Dataset) -> str:
    """Write what :func:`of_records` gave as a table in Markdown."""
    rows = [("study", "minutes", "CPU minutes", "peak MB")]
    for name, minutes, cpu, peak in zip(times.study.values, times.minutes, times.cpu_minutes, times.peak_mb):
        rows.append((name, f"{minutes:.1f}", f"{cpu:.1f}", f"{peak:.0f}" if peak == peak else "–"))
    rows.insert(1, ("---", "---:", "---:", "---:"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths)) + " |" for row in rows)


def growth_table(found: xr.Dataset) -> str:
    """Write what :func:`studies.growth.measure` found as a table in Markdown."""
    rows = ["| function | grows with | from | to | seconds | exponent |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name in found.function.values.tolist():
        row = found.sel(function=name)
        first, *_, last = row.given.values.tolist()
        least, *_, most = (f"{value:.2g}" for value in row.seconds.values)
        rows.append(f"| {name} | {row.counts.item()} | {first:,} | {last:,} | {least} to {most} | {row.exponent:.2f} |")
    return "\n".join(rows)
