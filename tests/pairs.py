"""
Compare the time of a command at two commits: python tests/pairs.py 0c876b0 "python -m studies run levels digits"

Both commits are cloned beside each other, without what is not committed, and the command runs in each in turn, in a
clone as fresh as the first time. "python" in it is the one that runs this, which imports from the clone; make takes it as
PY=python. CPU time is that of all processes that the command waits for.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def cloned(commit: str, folder: Path, root: Path) -> Path:
    """Clone the repository *root* at a commit; raise ValueError if it has no such commit."""
    words = ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    found = subprocess.run(words, cwd=root, capture_output=True, text=True)
    if found.returncode:
        raise ValueError(f"There is no commit {commit!r} in {root}: git log lists those that there are.")
    subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", root, folder], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", found.stdout.strip()], cwd=folder, check=True)
    return folder


def timed(command: str, folder: Path) -> tuple[float, float]:
    """Run a command in a clone, made fresh; return its seconds of wall and of CPU time, or raise ValueError if it fails."""
    subprocess.run(["git", "clean", "-fdxq"], cwd=folder, check=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PYTHONPATH": str(folder), "PATH": path}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ValueError(f"{command!r} failed in {folder.name} (status {done.returncode}):\n{done.stdout[-2000:]}")
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Compare; return 0, or 2 after a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("command", help="what a shell runs in both clones, in one word")
    parser.add_argument("--earlier", metavar="COMMAND", help="the command at the earlier commit, if it was another one")
    parser.add_argument("--later", metavar="COMMIT", default="HEAD", help="the later commit (default: HEAD)")
    parser.add_argument("--times", type=int, default=3, help="runs of each (default: 3); medians are compared")
    given = parser.parse_args(arguments)
    try:
        if given.times < 1:
            raise ValueError(f"Runs are {given.times}: give 1 or more.")
        with tempfile.TemporaryDirectory(prefix="bq-pairs-") as folder:
            ways = [("earlier", given.commit, given.earlier or given.command), ("later", given.later, given.command)]
            clones = [(cloned(commit, Path(folder, name), root), command) for name, commit, command in ways]
            found = {"earlier": [], "later": []}
            for _ in range(given.times):
                for clone, command in clones:
                    wall, cpu = timed(command, clone)
                    found[clone.name].append((wall, cpu))
                    print(f"{clone.name:8} {wall:8.2f} s, CPU {cpu:8.2f} s  {command}", flush=True)
    except ValueError as error:
        print(f"pairs: {error}", file=sys.stderr)
        return 2
    earlier, later = ([median(of) for of in zip(*found[name])] for name in ("earlier", "later"))
    print(f"later / earlier: {later[0] / earlier[0]:.2f} of the wall time, {later[1] / earlier[1]:.2f} of the CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
