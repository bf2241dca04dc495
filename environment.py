"""
Make .venv, whole or not at all. The Makefile calls this with the groups of a target:

    python environment.py book lab      what every target needs, and JupyterLab; likewise bench, slurm
    python environment.py check book    look for the packages in this very interpreter, make nothing
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV, PYTHON, LOG, CONSTRAINTS = (ROOT / name for name in (".venv", ".venv/bin/python", ".venv/log", "constraints.txt"))
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
BASE = ("studies", "book", "test")  # always in .venv; a target adds any other group when it first needs it
# Of pip's settings uv has the first as options, the others change no exact version; with any more, pip works alone.
OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host")
OTHERS = "cert constraint timeout default-timeout retries disable-pip-version-check cache-dir config-file".split()
FAILURES = {  # what pip's log holds, and what to do
    "No space left on device": "The disk is full: the environment needs about 2 GB. Free some and run make again.",
    "connection broken.*versions: none|Max retries|not a trusted": "No package registry could be reached, so the "
    "environment was not made: connect this machine, or name a mirror with PIP_INDEX_URL, and run make again.",
    "No matching distribution": "That package is not made for this Python: name another, as make PYTHON=python3.12.",
    "": "The environment was not made, for the reason above: mend that and run make again.",
}


def contents(groups: tuple[str, ...]) -> list[str]:
    """Return what .venv is made from: its Python, the constraints, and then the requirements of the groups."""
    return [str(PYTHON.resolve()), CONSTRAINTS.read_text("utf-8"), *(r for group in groups for r in GROUPS[group])]


def create() -> None:
    """Create .venv with pip in it, and the path of the clone for kernels that start elsewhere."""
    folder = VENV.resolve()  # .venv may be a link to a larger disk
    if not (util.find_spec("venv") and util.find_spec("ensurepip")):
        sys.exit(f"{sys.executable} lacks venv or ensurepip: install python3-venv, or run make PYTHON=python3.12.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "made-by-make").exists():
        sys.exit(f"{VENV} was not made by make and is left alone: remove it, or use it with PY={PYTHON}.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "made-by-make").touch()
    if subprocess.call([sys.executable, "-m", "venv", folder]):
        sys.exit(FAILURES[""])
    next(VENV.glob("lib/python*/site-packages")).joinpath("bqcore.pth").write_text("../../../..")


def install(requirements: list[str]) -> None:
    """Install by uv, in a quarter of pip's time, if it can be had; else, or if it fails, by pip, which says why."""
    pip, environ = [PYTHON, "-Im", "pip"], os.environ | {"PIP_USER": "0", "PIP_NO_INPUT": "1"}
    listed, settings = subprocess.check_output([*pip, "config", "list"], text=True).replace("\\n", " "), {}
    for section in ("global", "install", ":env:"):  # pip takes the last of these that has a setting
        settings |= re.findall(rf"^{section}\.([\w-]+)=['\"](.*)['\"]$", listed, flags=re.M)
    fetch = [*pip, "install", "-qqq", "--retries", "0", "uv==0.13.9"]
    if settings.keys() <= {*OPTIONS, *OTHERS} and not subprocess.call(fetch, env=environ):
        uv = [PYTHON, "-Im", "uv", "pip", "install", "--python", PYTHON, "--compile-bytecode", "-c", CONSTRAINTS]
        uv += ["--index-strategy", "unsafe-best-match", "--cache-dir", VENV / "cache"]  # files are linked from there
        uv += [f"--{name}={word}" for name in OPTIONS for word in settings.get(name, "").split()]
        cert = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
        if not subprocess.call([*uv, *requirements], env=environ | cert):
            return
    if subprocess.call([*pip, "install", "--log", LOG, "-c", CONSTRAINTS, *requirements], env=environ):
        sys.exit(next(why for sign, why in FAILURES.items() if re.search(sign, LOG.read_text("utf-8"), flags=re.S)))


def make(*more: str) -> None:
    """Make .venv if it is not whole, and add the groups that it lacks."""
    for groups in [BASE, *((*BASE, group) for group in more if group not in BASE)]:
        whole = VENV / f"{groups[-1]}.whole"
        if not (PYTHON.exists() and whole.exists() and whole.read_text("utf-8") == "\n".join(contents(groups))):
            if groups == BASE:
                print("Making .venv (about 40 s and 2.1 GB, this first time only)", file=sys.stderr, flush=True)
                create()
            install(contents(groups)[2:])
            shutil.rmtree(VENV / "cache", ignore_errors=True)
            whole.write_text("\n".join(contents(groups)), "utf-8")


def check(*groups: str) -> None:
    """Stop if this interpreter lacks a package; remark on versions that are not the declared ones."""
    declared = dict(requirement.split("==") for requirement in contents(("studies", *groups))[2:])
    found = {name: [p.version.split("+")[0] for p in metadata.distributions(name=name)] for name in declared}
    if lacking := [f"{name}=={declared[name]}" for name in declared if not found[name]]:
        sys.exit(f"{sys.executable} lacks {len(lacking)} of the packages in environment.yml: {', '.join(lacking)}.")
    if other := [f"{name} {found[name][0]} (declared {v})" for name, v in declared.items() if found[name][0] != v]:
        print(f"Results may differ in the last digits, for versions do: {', '.join(other)}.", file=sys.stderr)


if __name__ == "__main__":
    try:
        task, *groups = sys.argv[1:]
        check(*groups) if task == "check" else make(*groups)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: .venv is not whole, and the next make makes it so.")
