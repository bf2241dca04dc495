"""
Make .venv, whole or not at all. The Makefile calls this; it needs the standard library only.

    python environment.py book            what `make book` and `make test` need, both groups of pyproject.toml
    python environment.py book lab        JupyterLab as well; likewise bench, and slurm for a cluster
    python environment.py check GROUP...  look at the packages of this very interpreter for the groups, make nothing
    python environment.py lock            write constraints.txt anew, from what pip would install without it
"""

import ast
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
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
LOG = ROOT / ".cache" / "pip.log"
UV = "uv==0.13.9"  # installs in a quarter of pip's time
UV_CACHE = ROOT / ".cache" / "uv"  # beside .venv, so that files are linked and not copied
# What pip's settings are to uv: an option, a variable, or nothing where they do not say what is installed. With any
# other one pip does it alone.
OPTIONS_OF_UV = {
    "index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links",
    "constraint": "--constraint", "trusted-host": "--allow-insecure-host",
}  # fmt: skip
VARIABLES_OF_UV = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
NOTHING_TO_UV = {
    "timeout", "default-timeout", "retries", "disable-pip-version-check", "cache-dir", "no-cache-dir", "no-input",
    "progress-bar", "quiet", "verbose", "no-color", "log", "root-user-action", "config-file", "user",
    "require-virtualenv", "break-system-packages",
}  # fmt: skip
BASE = ("book", "test")
MORE = {  # groups that a target adds when it first needs them
    "lab": "JupyterLab (a few seconds and 100 MB)", "slurm": "Snakemake's SLURM executor (a few seconds)",
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


def watched(command: list, environ: dict[str, str], done: Callable[[str], tuple[float, str]]) -> tuple[int, str]:
    """
    Run an installer and show how far it is, with the time left; give its exit status and what it said.

    *done* turns what it has said so far into the share of the work that is done, and words for it.
    """
    start, shown = time.monotonic(), 0.0
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w+", encoding="utf-8", errors="replace") as log:
        # It shares the lock of alone(): should this process be killed, the next make waits until it has ended.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environ, cwd=ROOT, close_fds=False
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                share, says = done(LOG.read_text(encoding="utf-8", errors="replace"))
                # A terminal sees every change, a log file one line in twenty seconds.
                if share > 0 and time.monotonic() - shown > (0 if sys.stderr.isatty() else 20):
                    shown, spent = time.monotonic(), time.monotonic() - start
                    left = f", about {clock(spent / share - spent)} left" if share > 0.1 else ""
                    show(f"  {share:4.0%}: {says} in {clock(spent)}{left}")
        except KeyboardInterrupt:
            process.wait()
            sys.exit("\nInterrupted: the environment is not whole, the next make starts it again.")
    if process.returncode == 0:
        show(f"  Packages installed in {clock(time.monotonic() - start)}.", last=True)
    return process.returncode, LOG.read_text(encoding="utf-8", errors="replace")


def environ_of_pip() -> dict[str, str]:
    """Give the variables with which pip installs into the environment and nowhere else, and asks nothing."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX")}
    return kept | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUTF8": "1"}


def settings_for_uv(venv: Path) -> tuple[list[str], dict[str, str]] | None:
    """Say pip's settings in options and variables of uv, for which it has files of its own; None if that cannot be."""
    ask = [python_of(venv), "-m", "pip", "config", "list"]
    said = subprocess.run(ask, env=environ_of_pip(), capture_output=True, text=True).stdout
    rows = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.*)$", said, flags=re.M)
    # As pip has it, settings of a command go before those of all, and variables before files.
    rows.sort(key=lambda row: ("global", "install", ":env:").index(row[0]))
    found = {name: ast.literal_eval(value) for _, name, value in rows}
    if not set(found) <= {*OPTIONS_OF_UV, *VARIABLES_OF_UV, *NOTHING_TO_UV}:
        return None
    options = [(option, x) for name, option in OPTIONS_OF_UV.items() for x in found.get(name, "").split()]
    options = [word for pair in options for word in pair]
    return options, {variable: found[name] for name, variable in VARIABLES_OF_UV.items() if name in found}


def install_by_uv(venv: Path, wanted: list[str]) -> bool:
    """Let uv install, with pip's settings, and tell whether it could; whatever kept it from it, pip can say better."""
    settings, environ = settings_for_uv(venv), environ_of_pip()
    fetch = [python_of(venv), "-m", "pip", "install", "--quiet", "--retries", "0", UV]
    if settings is None or subprocess.run(fetch, env=environ, capture_output=True).returncode:
        return False
    # Of several indexes the best version counts, as with pip.
    command = [python_of(venv), "-m", "uv", "pip", "install", "--python", python_of(venv), "--cache-dir", UV_CACHE]
    command += ["--index-strategy", "unsafe-best-match", "--constraint", CONSTRAINTS, *settings[0], *wanted]

    def done(said: str) -> tuple[float, str]:
        unit = {"K": 1 / 1024, "M": 1, "G": 1024}
        found = re.findall(r"Downloading (\S+) \(([\d.]+)([KMG])iB\)", said)
        sizes = {name: float(size) * unit[letter] for name, size, letter in found}
        total, there = sum(sizes.values()), sum(sizes.get(n, 0) for n in re.findall(r"Downloaded (\S+)", said))
        return there / max(total, 1), f"{there:.0f} of {total:.0f} MB fetched"

    status, _ = watched(command, environ | {"UV_NO_PROGRESS": "1"} | settings[1], done)
    shutil.rmtree(UV_CACHE, ignore_errors=True)
    return status == 0


def install(venv: Path, wanted: list[str]) -> None:
    """Install within the constraints, by uv or else by pip; stop with one sentence if neither can."""
    if not install_by_uv(venv, wanted):
        install_by_pip(venv, wanted, "--constraint", str(CONSTRAINTS), "--no-compile")


def install_by_pip(venv: Path, wanted: list[str], *options: str) -> None:
    """Run pip in an environment; stop with one sentence if it fails."""
    command = [python_of(venv), "-m", "pip", "install", "--progress-bar", "off", "--retries", "3", *options, *wanted]
    folder = packages_folder(venv)
    before = len(list(folder.glob("*.dist-info")))
    total = len(wanted) + len(re.findall("^[^#\n]", CONSTRAINTS.read_text(encoding="utf-8"), flags=re.M))

    def done(said: str) -> tuple[float, str]:
        fetched = len(re.findall("^(?:Collecting|Processing) ", said, flags=re.M))
        unpacked = len(list(folder.glob("*.dist-info"))) - before
        return min((fetched + unpacked) / (2 * total), 1), f"{fetched} packages fetched, {unpacked} unpacked"

    status, text = watched(command, environ_of_pip(), done)
    if status == 0:
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
        print("Making .venv (about 40 s and 1.8 GB, this first time only)", file=sys.stderr, flush=True)
        create(VENV)
        folder = packages_folder(VENV)
        install(VENV, requirements(BASE))
        # An installer would compile those that nobody imports as well, pip one by one. Not left to the first import,
        # for then a package's syntax warning would be an error in that test which happens to come first.
        print("  Compiling them", file=sys.stderr, flush=True)
        compile_all = ["-m", "compileall", "-qq", "-j", "0", "-x", r"[/\\\\]tests[/\\\\]", folder]
        subprocess.run([python_of(VENV), *compile_all], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Scripts and kernels find bqcore wherever they are started; relative, so that the clone may move.
        (folder / "bqcore.pth").write_text(os.path.relpath(ROOT, folder) + "\n", encoding="utf-8")
        (folder / stamp(BASE)).touch()
    for group in more:
        if not (folder / stamp((*BASE, group))).exists():
            print(f"Adding {MORE[group]} to .venv, this first time only", file=sys.stderr, flush=True)
            install(VENV, requirements((*BASE, group)))
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
    install_by_pip(venv, everything, "--dry-run", "--report", str(report))
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
