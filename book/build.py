"""
Build the book from its pages and the executed notebooks: python book/build.py

Pages are read on all cores, and what was read is kept in _build for the next build, which reads those anew that have
changed (book/_ext/outdated.py). All pages are written each time: the title of one and the numbers of its figures are on
others, too. What a build has read is kept if it succeeded and not otherwise, so that a fault is found again.
"""

import atexit
import gc
import hashlib
import os
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path

from jupyter_book.sphinx import build_sphinx

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "_build"
# What may show on any page; pages themselves are compared one by one.
BEHIND = ("_*.yml", "CITATION.cff", "book/**/*", "bqcore/**/*.py", "studies/**/*.py", "data/*.yml")
BEHIND += ("data/paper/*", "data/results/*")


def state() -> str:
    """Return a digest of all that pages are made with: sources, settings, results and installed versions."""
    notebooks = sorted(path.name for path in ROOT.glob("notebooks/*.py"))
    known = [sys.version, os.environ.get("ONLINE", ""), notebooks, sorted(installed())]
    found = hashlib.sha256(repr(known).encode())
    for path in sorted({path for pattern in BEHIND for path in ROOT.glob(pattern)}):
        if path.is_file() and path.suffix not in (".md", ".pyc"):
            found.update(repr([path.relative_to(ROOT).as_posix(), path.stat().st_size]).encode() + path.read_bytes())
    return found.hexdigest()


def installed() -> set[str]:
    """Return the names of all installed packages with their versions."""
    return {f"{one.name} {one.version}" for one in distributions()}


def main() -> int:
    """Build; return 0 if there was no fault."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads are not to be forked
    gc.disable()  # most of what Sphinx makes stays: looking for garbage takes a third of the time and saves 0.2 of 1 GB
    kept, draft, now = MADE / ".doctrees", MADE / ".doctrees.draft", state()
    for old in (MADE / "html", draft):
        shutil.rmtree(old, ignore_errors=True)
    if (kept / "state").exists() and (kept / "state").read_text() == now:
        kept.rename(draft)
    settings = {"external_toc_path": (ROOT / "_toc.yml").as_posix(), "latex_individualpages": False, "nitpicky": True}
    status = build_sphinx(
        ROOT, MADE / "html", doctreedir=draft, noconfig=True, path_config=ROOT / "_config.yml", confoverrides=settings,
        force_all=True, warningiserror=True, keep_going=True, jobs=os.cpu_count(),
    )  # fmt: skip
    if status == 0:
        shutil.rmtree(kept, ignore_errors=True)
        (draft / "state").write_text(now)
        draft.rename(kept)
    return int(status != 0)


if __name__ == "__main__":
    made = main()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit.register(os._exit, made)  # without taking a gigabyte apart, which would be a tenth of the time
    sys.exit(made)
