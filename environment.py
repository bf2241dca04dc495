"""
Make .venv, whole or not at all. The Makefile calls this; it needs the standard library only.

    python environment.py book            what `make book` and `make test` need, both groups of pyproject.toml
    python environment.py book lab        JupyterLab as well; likewise bench, and slurm for a cluster
    python environment.py check GROUP...  look at the packages of this very interpreter for the groups, make nothing
    python environment.py lock            write constraints.txt anew, from what pip would install without it
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
LOG = ROOT / ".cache" / "pip.log"
BASE = ("book", "test")
MORE = {  # groups that a target adds when it first needs them
    "lab": "JupyterLab (about 20 s and 100 MB)", "slurm": "Snakemake's SLURM executor (a few seconds)",
    "bench": "what `make bench` compares with (about 10 s and 10 MB)",
}  # fmt: skip
# What pip says when no registry answers.
OFFLINE = re.compile(
    "connection broken by|Max retries exceeded|Failed to establish|NewConnection|NameResolution|Proxy|Timeout|timed out"
    "|Could not fetch URL|SSLError|not a trusted or secure host"
)


def requirements(groups: tuple[str, ...] = BASE) -> list[str]:
    """Return the exact requirements of bqcore and of the named groups, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["dependencies"] + [r for g in groups for r in project["dependency-groups"][g]]


def canonical(name: str) -> str:
    """Return a package's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stamp(groups: tuple[str, ...]) -> str:
    """Name the file that says an installation is whole: other requirements or constraints, another name."""
    text = "\n".join([*requirements(groups), CONSTRAINTS.read_text(encoding="utf-8")])
    return f"bqcore-{'-'.join(groups)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.whole"


def python_of(venv: Path) -> Path:
    """Return the interpreter of an environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def packages_folder(venv: Path) -> Path | None:
    """Return where an environment keeps its packages, or None if its interpreter does not run (any more)."""
    # The interpreter is asked, so that one that a system upgrade has taken away counts as no environment at all.
    ask = [python_of(venv), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.rstrip("\n"))
    return None


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def show(line: str, *, last: bool = False) -> None:
    """Write a line of progress: over the former one on a terminal, below it elsewhere."""
    terminal = sys.stderr.isatty()
    end = "" if terminal and not last else "\n"
    print(("\r\033[K" if terminal else "") + line, end=end, file=sys.stderr, flush=True)


def install(venv: Path, wanted: list[str], *options: str) -> None:
    """Run pip in an environment with progress and the time left; stop with one sentence if it fails."""
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX")}
    environ |= {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUTF8": "1"}
    command = [python_of(venv), "-m", "pip", "install", "--progress-bar", "off", "--retries", "3", *options, *wanted]
    folder, start, shown = packages_folder(venv), time.monotonic(), 0.0
    before = len(list(folder.glob("*.dist-info")))
    total = len(wanted) + len(re.findall("^[^#\n]", CONSTRAINTS.read_text(encoding="utf-8"), flags=re.M))
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w+", encoding="utf-8", errors="replace") as log:
        # pip shares the lock of alone(): should this process be killed, the next make waits until pip has ended.
        pip = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ, cwd=ROOT, close_fds=False)
        try:
            while pip.poll() is None:
                time.sleep(0.5)
                said = LOG.read_text(encoding="utf-8", errors="replace")
                fetched = len(re.findall("^(?:Collecting|Processing) ", said, flags=re.M))
                unpacked = len(list(folder.glob("*.dist-info"))) - before
                share = min((fetched + unpacked) / (2 * total), 1)
                # A terminal sees every change, a log file one line in twenty seconds.
                if share > 0 and time.monotonic() - shown > (0 if sys.stderr.isatty() else 20):
                    shown, spent = time.monotonic(), time.monotonic() - start
                    left = f", about {clock(spent / share - spent)} left" if share > 0.1 else ""
                    show(f"  {share:4.0%}: {fetched} packages fetched, {unpacked} unpacked in {clock(spent)}{left}")
        except KeyboardInterrupt:
            pip.wait()
            sys.exit("\nInterrupted: the environment is not whole, the next make starts it again.")
    text = LOG.read_text(encoding="utf-8", errors="replace")
    if pip.returncode == 0:
        show(f"  Packages installed in {clock(time.monotonic() - start)}.", last=True)
        return
    show("", last=True)
    missing = re.search(r"No matching distribution found for (\S+)", text)
    end = "\n".join(text.splitlines()[-15:])
    if "No space left on device" in text:
        sys.exit(f"The disk is full: the environment needs about 2 GB in {ROOT}; free some and run make again.")
    if OFFLINE.search(text if "(from versions: none)" in text else end):
        sys.exit(
            "No package registry could be reached, so the environment was not made: connect this machine, or name a "
            "mirror with PIP_INDEX_URL, and run make again (what pip said is in .cache/pip.log)."
        )
    if missing:
        version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(
            f"The package registry has no {missing[1]} for {version} on this machine, so the environment was not made: "
            "try another Python, as make PYTHON=python3.12, or look into .cache/pip.log."
        )
    sys.exit(f"{end}\npip failed as shown above, so the environment was not made; run make again when that is mended.")


def create(venv: Path) -> None:
    """Create an empty environment with pip in it; stop with one sentence where this Python cannot."""
    if not (importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")):
        sys.exit(
            f"{sys.executable} lacks venv or ensurepip, which make an environment: install them (on Debian and Ubuntu "
            "the package python3-venv), or name another Python, as make PYTHON=python3.12."
        )
    venv = venv.resolve()  # .venv may be a link to a larger disk
    mark = venv / "made-by-make"
    if venv.exists() and not mark.exists() and any(venv.iterdir()):
        sys.exit(f"{venv} was not made by make and is left alone: remove it, or use it with PY={python_of(venv)}.")
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True, exist_ok=True)
    mark.touch()
    done = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}{sys.executable} could not make {venv}, as shown above.")


@contextlib.contextmanager
def alone():
    """Let one make at a time work on the environment; a second one waits."""
    LOG.parent.mkdir(exist_ok=True)
    with (ROOT / ".cache" / "environment.lock").open("w") as lock:
        with contextlib.suppress(ImportError, OSError):  # some network disks have no locks
            import fcntl

            os.set_inheritable(lock.fileno(), True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(more: list[str]) -> None:
    """Make .venv if it is not whole, and add the groups in *more*."""
    folder = packages_folder(VENV)
    if folder is None or not (folder / stamp(BASE)).exists():
        print("Making .venv (about 90 s and 1.8 GB, this first time only)", file=sys.stderr, flush=True)
        create(VENV)
        folder = packages_folder(VENV)
        install(VENV, requirements(BASE), "--constraint", str(CONSTRAINTS), "--no-compile")
        # pip would compile one file after the other, and those nobody imports as well. Not left to the first import
        # either, for then a package's syntax warning would be an error in that test which happens to come first.
        print("  Compiling them", file=sys.stderr, flush=True)
        compile_all = ["-m", "compileall", "-qq", "-j", "0", "-x", r"[/\\\\]tests[/\\\\]", folder]
        subprocess.run([python_of(VENV), *compile_all], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Scripts and kernels find bqcore wherever they are started; relative, so that the clone may move.
        (folder / "bqcore.pth").write_text(os.path.relpath(ROOT, folder) + "\n", encoding="utf-8")
        (folder / stamp(BASE)).touch()
    for group in more:
        if not (folder / stamp((*BASE, group))).exists():
            print(f"Adding {MORE[group]} to .venv, this first time only", file=sys.stderr, flush=True)
            install(VENV, requirements((*BASE, group)), "--constraint", str(CONSTRAINTS))
            (folder / stamp((*BASE, group))).touch()


def check(groups: tuple[str, ...]) -> None:
    """Stop with one sentence if this interpreter lacks a package; mention versions that are not the declared ones."""
    lacking, other = [], []
    for requirement in requirements(groups):
        name, version = requirement.split("==")
        try:
            found = importlib.metadata.version(name).split("+")[0]
            other += [f"{name} {found} (declared {version})"] if found != version else []
        except importlib.metadata.PackageNotFoundError:
            lacking.append(requirement)
    if lacking:
        sys.exit(
            f"{sys.executable} lacks {len(lacking)} of the packages in environment.yml: {', '.join(lacking)}. "
            "Install them there, or leave PY= out and make uses its own environment."
        )
    if other:
        print(f"Results may differ in the last digits, for versions do: {', '.join(other)}.", file=sys.stderr)


def lock() -> None:
    """Write constraints.txt: what pip would install of the newest that fits, beyond the versions in pyproject.toml."""
    everything = requirements((*BASE, *MORE))
    exact = {canonical(r.split("==")[0]) for r in everything} | {"pip", "setuptools", "wheel"}
    venv, report = ROOT / ".cache" / "lock", ROOT / ".cache" / "lock.json"
    create(venv)
    install(venv, everything, "--dry-run", "--report", str(report))
    found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    pins = {canonical(package["name"]): package["version"].split("+")[0] for package in found}
    pins = sorted(f"{name}=={version}" for name, version in pins.items() if name not in exact)
    version = sys.version.split()[0]
    head = f"""\
# What the packages of pyproject.toml bring along, pinned so that no new release breaks a book built with warnings as
# errors. Limits only: a system takes from here what it needs. Made by `make lock` with Python {version}:
# to be repeated with the oldest that is to work, for a newer Python takes older packages, but not the reverse.
"""
    CONSTRAINTS.write_text(head + "\n".join(pins) + "\n", encoding="utf-8")
    shutil.rmtree(venv)
    print(f"constraints.txt: {len(pins)} packages")


if __name__ == "__main__":
    tasks = sys.argv[1:]
    if tasks[:1] == ["check"]:
        check(tuple(tasks[1:]))
    else:
        with alone():
            lock() if tasks == ["lock"] else make([group for group in MORE if group in tasks])
