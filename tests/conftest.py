"""What the tests share: repeatable generated input, one trained model, and the table of ratios after a benchmark."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from building import build_once
from hypothesis import settings
from threadpoolctl import threadpool_limits

from studies import networks, training
from studies.data import splits

# The same examples each time, nothing kept between runs, and no limit of time, which depends on the machine.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already, and so do processes that they start
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)
    os.nice(5)  # they wait for the book in the end, so it goes first

# Tests in the background begin deaf to Ctrl-C, and so would every process that they start to be stopped by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Trained(NamedTuple):
    """The digits model of seed 0 in float32, with its data."""

    model: torch.nn.Sequential
    split: splits.Split


@pytest.fixture(scope="session")
def trained() -> Trained:
    split = splits.digits(0)
    model = networks.mlp((64, 64, 10), 0)
    return Trained(training.fit(model, split.train_inputs, split.train_classes, epochs=60, seed=0), split)


# The book takes two minutes to build. Where several workers run the tests, the process that sends them out builds it
# meanwhile, and the tests that ask for it come last.
BUILDING: list[subprocess.Popen | None] = []


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "book" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    if not hasattr(node.config, "book_builder") and any(name.startswith("tests/test_browser.py") for name in ids):
        base = node.config._tmp_path_factory.getbasetemp()  # that of the workers lies in it
        node.config.book_builder = threading.Thread(target=build_once, args=(base, BUILDING), daemon=True)
        node.config.book_builder.start()


def pytest_sessionfinish():
    """End a build that is under way, if the tests are ended early."""
    BUILDING.append(None)
    for process in filter(None, BUILDING):
        process.kill()


@pytest.fixture(scope="session")
def book(request, tmp_path_factory) -> Path:
    """Give the folder of the built book's pages; the workers of one test run share one build."""
    base = tmp_path_factory.getbasetemp()
    folder = build_once(base.parent if hasattr(request.config, "workerinput") else base, BUILDING)
    assert (folder / "whole").exists(), (folder / "failure").read_text(encoding="utf-8")
    return folder / "_build" / "html"


def pytest_terminal_summary(terminalreporter, config):
    """After a benchmark, print how many times faster than each other way ours is, group by group."""
    session = getattr(config, "_benchmarksession", None)
    groups = {}
    for benchmark in getattr(session, "benchmarks", ()):
        if benchmark.has_error or not benchmark.stats.rounds:
            continue
        ways, info = groups.setdefault(benchmark.group, {}), benchmark.extra_info
        ways[info.get("way", benchmark.name)] = benchmark.stats, info.get("says", "")
    for group, ways in groups.items():
        if "ours" not in ways:
            continue
        ours, says = ways.pop("ours")
        terminalreporter.section(group)
        terminalreporter.write_line(f"{'':44}{'median':>10}{'fastest':>10}{'ours is so many times faster':>32}")
        terminalreporter.write_line(f"{'ours':44}{ours.median * 1e3:7.2f} ms{ours.min * 1e3:7.2f} ms{says:>44}")
        for way, (other, says) in ways.items():
            ratio = f"{other.median / ours.median:.1f} (fastest: {other.min / ours.min:.1f})"
            terminalreporter.write_line(
                f"{way:44}{other.median * 1e3:7.2f} ms{other.min * 1e3:7.2f} ms{ratio:>32}  {says}"
            )
