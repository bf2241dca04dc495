"""Work shared out among processes, with a bar: their parent alone hears Ctrl-C, and they end when it does."""

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing import resource_tracker as standard_tracker
from pathlib import Path

from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.backend import resource_tracker
from tqdm import tqdm

from bqcore._checks import check_integer

_M_TOP_PAD = -2  # glibc's number of that setting


def each(
    call: Callable, jobs: list[tuple], *, total: int, desc: str, unit: str, workers: int | None = None,
    progress: bool = True,
) -> Iterator:  # fmt: skip
    """
    Call *call*, which can be imported, with each of *jobs*, its arguments, in other processes; yield what it returns.

    What is done first comes first. The bar counts to *total*, the jobs with those done before. By default there is a
    process for each core that this process may use. If one is ended from outside, a RuntimeError says so.
    """
    workers = check_integer("workers", cpu_count() if workers is None else workers, 1)
    ends = {"initializer": _prepared, "initargs": (os.getpid(),)}
    size = min(workers, max(1, len(jobs)))
    with tqdm(total=total, initial=total - len(jobs), desc=desc, unit=unit, disable=not progress or not jobs) as bar:
        # joblib's processes start afresh, import everything for seconds, and need no guard in a script.
        pool = _Forks(size, **ends) if _may_fork() else Parallel(size, return_as="generator_unordered", **ends)
        try:
            with _deaf():
                done = pool(delayed(call)(*job) for job in jobs)
            for one in done:
                bar.update()
                yield one
        except BrokenProcessPool:
            raise RuntimeError(
                "A worker was ended from outside (out of memory?): finished runs are kept, the same command goes on."
            ) from None


def _may_fork() -> bool:
    """
    Return whether this process is a command, which has had no gradient computed yet, and has no threads but Python's:
    those of libraries would be missing in a copy, which then hangs, and torch refuses gradients there.
    """
    threads = Path("/proc/self/task")
    return os.environ.get("STUDIES_FORK") == str(os.getpid()) and (
        threads.is_dir() and len(list(threads.iterdir())) == threading.active_count()
    )


class _Forks(ProcessPoolExecutor):
    """Processes that are copies of this one and so have all that it has imported; called as joblib's Parallel is."""

    def __init__(self, workers: int, **options):
        super().__init__(workers, get_context("fork"), **options)

    def __call__(self, calls: Iterable[tuple]) -> Iterator:
        waiting = [self.submit(call, *arguments, **keywords) for call, arguments, keywords in calls]
        return self._results(waiting)

    def _results(self, waiting: list) -> Iterator:
        try:
            yield from (one.result() for one in as_completed(waiting))
        finally:
            for one in waiting:  # cancel_futures does nothing if this object is gone before its thread wakes
                one.cancel()
            self.shutdown(wait=False)


def _prepared(parent: int) -> None:
    """Let this worker end soon after *parent*, which cannot tell it so if it is killed: loky's lives on for minutes."""

    def wait():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    with suppress(AttributeError, OSError, TypeError):  # other systems than glibc's
        # Keep 64 MB of what is freed: to get it anew each time is a twentieth of the work.
        ctypes.CDLL(None).mallopt(_M_TOP_PAD, 1 << 26)
    gc.set_threshold(100_000)  # looking for garbage is a fifth of the time that imports take


@contextmanager
def _deaf():
    """Start processes in this block that never hear Ctrl-C: their parent does, after it, and ends them quietly."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    _start_trackers()  # their start, else within the start of a worker, lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_trackers():
    """
    Start the processes that clean up after workers, silent about what they find.

    There is always something: workers are killed when the work ends early, and a thread of loky's that nobody waits for
    can be cut off between removing a semaphore and saying so. It is removed all the same.
    """
    before = sys.warnoptions[:]
    sys.warnoptions.append("ignore:resource_tracker")  # a Python that is started here takes them along
    try:
        for tracker in (resource_tracker, standard_tracker):
            tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before
