"""The packages agree in pyproject.toml, environment.yml, constraints.txt and the imports; and what make refuses."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import environment as maker

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = {"bqcore": PROJECT["project"]["dependencies"], **PROJECT["dependency-groups"]}
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
SOURCES = {
    "bqcore": (["bqcore"], sorted(ROOT.glob("bqcore/*.py"))),
    "notebooks": (["bqcore", "book"], sorted(ROOT.glob("notebooks/*.py"))),
    "tests": (list(GROUPS), sorted(ROOT.glob("tests/*.py"))),
}


def key(requirement: str) -> str:
    """Return the name of a requirement in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", re.split("[=<>]", requirement)[0]).lower()


def imported(path: Path) -> set[str]:
    """Return the names of the packages that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    ours = {path.stem for folder in ("bqcore", "tests", "notebooks", ".") for path in (ROOT / folder).glob("*.py")}
    return found - sys.stdlib_module_names - ours - {"bqcore"}


def test_every_version_is_exact():
    inexact = [r for group in GROUPS.values() for r in group if not re.fullmatch(r"[\w.-]+==[\w.]+", r)]
    assert not inexact, f"not of the form name==version: {inexact}"


@pytest.mark.parametrize("group", GROUPS)
def test_environment_yml_has_the_versions_of_pyproject(group):
    (pip,) = [item["pip"] for item in CONDA if isinstance(item, dict)]
    missing = [r for r in GROUPS[group] if r not in pip]
    assert not missing, f"environment.yml lacks what pyproject.toml has in {group}: {missing}"


def test_environment_yml_has_nothing_else():
    (pip,) = [item["pip"] for item in CONDA if isinstance(item, dict)]
    declared = ["--constraint constraints.txt", *(r for group in GROUPS.values() for r in group)]
    assert sorted(pip) == sorted(declared)


def test_environment_yml_allows_the_same_pythons():
    (python,) = [item for item in CONDA if isinstance(item, str) and item.startswith("python")]
    assert python.removeprefix("python").split(",")[0] == PROJECT["project"]["requires-python"]


def test_constraints_pin_only_what_is_not_declared():
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    declared = {key(r) for group in GROUPS.values() for r in group} | {"pip", "setuptools"}
    assert not declared & {key(line) for line in lines}


def test_this_environment_is_the_declared_one():
    wanted = [r.split("==") for group in ("bqcore", "book", "test") for r in GROUPS[group]]
    found = {name: importlib.metadata.version(name).split("+")[0] for name, _ in wanted}
    assert found == dict(wanted), "remake the environment: make does so by itself, conda by conda env update"


@pytest.mark.parametrize("folder", SOURCES)
def test_every_import_is_declared(folder):
    groups, files = SOURCES[folder]
    declared = {key(r) for group in groups for r in GROUPS[group]}
    # Of a package that only `make bench` installs, this environment does not know what it provides.
    providers = {"brevitas_examples": ["brevitas"]} | dict(importlib.metadata.packages_distributions())
    for file in files:
        for name in imported(file):
            assert declared & {key(p) for p in providers.get(name, [name])}, f"{file.name} imports {name}, not declared"


@pytest.fixture
def clone(tmp_path):
    """Return a folder with a space in its name that holds what make needs to look for an environment."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "Snakefile", "environment.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(clone, *words, **environ):
    """Run make in a folder with a PATH that holds the usual tools and no Python but those in *clone*/bin."""
    tools = clone / "bin"
    tools.mkdir(exist_ok=True)
    for tool in ("sh", "env", "printf", "rm", "find", "test"):
        if shutil.which(tool) and not (tools / tool).exists():
            (tools / tool).symlink_to(shutil.which(tool))
    command = [shutil.which("make"), "-C", str(clone), *words]
    return subprocess.run(command, env={"PATH": str(tools)} | environ, capture_output=True, text=True, timeout=120)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_make_alone_lists_the_targets(clone):
    done = make(clone)
    for target in ("book", "check", "test", "reproduce", "bench", "lab", "publish", "lint", "clean"):
        assert f"make {target}" in done.stdout
    assert done.returncode == 0 and not (clone / ".venv").exists()


@needs_make
@pytest.mark.parametrize("target", ["book", "test"])
def test_missing_python_is_one_sentence(clone, target):
    done = make(clone, target)
    assert done.returncode == 2
    assert done.stderr.startswith("Python 3.11 or newer is missing: the PATH has none. Install one or name one, as ")


@needs_make
def test_named_python_that_is_none_is_named(clone):
    assert "3.11 or newer is missing: /nowhere/python is none." in make(clone, "book", "PYTHON=/nowhere/python").stderr
    assert "3.11 or newer is missing: /nowhere/python is none." in make(clone, "book", "PY=/nowhere/python").stderr


@needs_make
def test_old_python_is_passed_over(clone):
    (clone / "bin").mkdir()
    old = clone / "bin" / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "the PATH has none" in make(clone, "book").stderr


def environment(clone, *words, **environ):
    """Run environment.py as make does."""
    command = [sys.executable, clone / "environment.py", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def test_missing_ensurepip_is_one_sentence(clone):
    hide = "import importlib.util as u\nfind, u.find_spec = u.find_spec, lambda n, *a: n != 'ensurepip' and find(n, *a)"
    (clone / "sitecustomize.py").write_text(hide)
    done = environment(clone, "book", PYTHONPATH=str(clone))
    assert done.returncode == 1
    assert "lacks venv or ensurepip" in done.stderr and "python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_environment_of_someone_else_is_left_alone(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "precious").touch()
    done = environment(clone, "book")
    assert done.returncode == 1 and "was not made by make and is left alone" in done.stderr
    assert (clone / ".venv" / "precious").exists()


@pytest.mark.network
def test_no_registry_is_one_sentence_and_no_environment(clone):
    # Port 9 of this very machine takes no connections; pip reads no configuration that may know of another registry.
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null"}
    done = environment(clone, "book", **offline)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("No package registry could be reached")
    assert not list(clone.glob(".venv/**/*.whole"))  # so the next make starts anew


def test_what_pip_is_told_uv_is_told(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    mirrors = "[global]\nindex-url = https://a.test/simple\nextra-index-url = https://b.test/s\n  https://c.test/s\n"
    file.write_text(f"{mirrors}cert = /ca.pem\ntimeout = 60\n[install]\nfind-links = /wheels\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_FIND_LINKS", "/other")  # goes before the file
    here = Path(sys.prefix)
    options, variables = maker.settings_for_uv(here)
    expected = [
        ("--default-index", "https://a.test/simple"), ("--index", "https://b.test/s"), ("--index", "https://c.test/s"),
        ("--find-links", "/other"),
    ]  # fmt: skip
    told = list(zip(options[::2], options[1::2]))
    assert [pair for pair in told if pair[0] != "--constraint"] == expected  # which a machine may have for everybody
    assert variables == {"SSL_CERT_FILE": "/ca.pem"}
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")  # uv has another name for it that we do not know: pip does it alone
    assert maker.settings_for_uv(here) is None and not maker.install_by_uv(here, [])


def test_pip_installs_what_uv_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "UV_CACHE", tmp_path)
    fetched = subprocess.CompletedProcess([], 0, stdout="global.cert='/ca.pem'\n")
    monkeypatch.setattr(maker.subprocess, "run", lambda *arguments, **keywords: fetched)
    asked = []
    for status, installed in ((1, False), (0, True)):
        monkeypatch.setattr(maker, "watched", lambda *given, status=status: asked.append(given) or (status, ""))
        assert maker.install_by_uv(Path(sys.prefix), ["tqdm==1.0"]) is installed
    command, environ, done = asked[0]
    assert command[-1] == "tqdm==1.0" and environ["SSL_CERT_FILE"] == "/ca.pem"
    said = "Resolved 3 packages\nDownloading torch (1.5GiB)\nDownloading jedi (512.0KiB)\n Downloaded jedi\n"
    assert done("") == (0, "0 of 0 MB fetched") and done(said) == (0.5 / 1536.5, "0 of 1536 MB fetched")


def test_ready_environment_that_lacks_a_package_is_told(clone):
    project = clone / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace('"tqdm==', '"no-such-package==1.0", "tqdm=='), "utf-8")
    done = environment(clone, "check", "book")
    assert done.returncode == 1 and "lacks 1 of the packages in environment.yml: no-such-package==1.0." in done.stderr
    assert not (clone / ".venv").exists()


def test_ready_environment_with_another_version_is_a_remark(clone):
    project = clone / "pyproject.toml"
    project.write_text(re.sub('"tqdm==[^"]*"', '"tqdm==1.0"', project.read_text("utf-8")), "utf-8")
    done = environment(clone, "check", "book")
    assert done.returncode == 0 and re.search(r"versions do: tqdm \S+ \(declared 1.0\)", done.stderr)


def test_workflow_can_be_read():
    # make hides what Snakemake says, so a mistake in the Snakefile shows best here.
    command = [sys.executable, "-m", "snakemake", "--list-rules", "--nolock", "--directory", str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        "all",
        "book",
        "notebook",
        "runs",
        "reproduce",
        "archives",
        "quantizers",
        "training",
        "seed",
        "study",
    }
