"""What the tests share: repeatable generated input, one trained model, and the table of ratios after a benchmark."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

from tests.helpers.building import build_once

if TYPE_CHECKING:  # the process that sends out the tests needs no torch: it would start the workers two seconds later
    import torch

    from bqcore.metrics import planes
    from studies.data import splits

# The same examples each time, nothing kept between runs, and no limit of time, which depends on the machine.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=100)
settings.register_profile("quick", parent=settings.get_profile("repeatable"), max_examples=20)  # for `make check`
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
    from studies import networks, training
    from studies.data import splits

    split = splits.digits(0)
    model = networks.mlp((64, 64, 10), 0)
    return Trained(training.fit(model, split.train_inputs, split.train_classes, epochs=60, seed=0), split)


@pytest.fixture(scope="session")
def plane(trained) -> planes.Plane:
    """Return the slice through the training inputs of the digits model."""
    from bqcore.metrics import planes

    return planes.pca_plane(trained.split.train_inputs)


# The book takes two minutes to build. Where several workers run the tests, the process that sends them out builds it
# meanwhile, and the tests that ask for it come last.
BUILDING: list[subprocess.Popen | None] = []
MARKED_BY_FIXTURE = {
    **dict.fromkeys(["book", "chromium"], pytest.mark.book),
    **dict.fromkeys(["trained", "lively", "deep", "measured", "many", "tiny"], pytest.mark.slow),  # they train
}


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """
    Keep the garbage collector off what is imported with the tests, which is no garbage: to look for some there takes
    more than half of the time until the first test, and some of each test's.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)  # of objects that are new since
        gc.enable()


def pytest_collection_modifyitems(items):
    """Mark what needs the book or a trained model, which its fixtures say, and put what needs the book last."""
    for item in items:
        for fixture in MARKED_BY_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKED_BY_FIXTURE[fixture])
    pages = "tests/book/test_pages.py"  # the longest of them first, so that in the end no worker waits for another
    items.sort(key=lambda item: (item.get_closest_marker("book") is not None, not item.nodeid.startswith(pages)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Run on the cores that this process may use, where that is known, and on eight at most: each worker takes 1 GB."""
    return min(8, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


@pytest.hookimpl(tryfirst=True)  # before the worker says what it has collected
def pytest_collection_finish(session):
    """Let the process that sends out the tests know that some of those chosen need the book."""
    if hasattr(session.config, "workerinput") and any("book" in item.fixturenames for item in session.items):
        (session.config._tmp_path_factory.getbasetemp().parent / "book.wanted").touch()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node):
    base = node.config._tmp_path_factory.getbasetemp()  # those of the workers lie in it
    if not hasattr(node.config, "book_builder") and (base / "book.wanted").exists():
        node.config.book_builder = threading.Thread(target=build_once, args=(base, BUILDING), daemon=True)
        node.config.book_builder.start()


def pytest_sessionfinish():
    """End a build that is under way, if the tests are ended early."""
    BUILDING.append(None)
    for process in filter(None, BUILDING):
        process.kill()


@pytest.fixture(scope="session")
def book(request, tmp_path_factory) -> Path:
    """Return the folder of the built book's pages; the workers of one test run share one build."""
    base = tmp_path_factory.getbasetemp()
    folder = build_once(base.parent if hasattr(request.config, "workerinput") else base, BUILDING)
    assert (folder / "whole").exists(), (folder / "failure").read_text(encoding="utf-8")
    return folder / "_build" / "html"


@pytest.fixture
def timed(benchmark, request):
    """Time a call under the name of its way, after calling it *warmup* times."""

    def run(call, rounds, warmup=3):
        benchmark.extra_info["way"] = request.node.callspec.params["way"]
        return benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=warmup)

    return run


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
