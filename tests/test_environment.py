"""The packages agree in pyproject.toml, environment.yml, constraints.txt and the imports; and what make refuses."""

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import environment as maker

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PROJECT["dependency-groups"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LIBRARY = PROJECT["project"]["dependencies"] + [r for name, extra in EXTRAS.items() if name != "all" for r in extra]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
SOURCES = {
    "bqcore": (["studies"], sorted(ROOT.glob("bqcore/**/*.py"))),
    "studies": (["studies"], sorted(ROOT.glob("studies/**/*.py"))),
    "notebooks": (["studies", "book"], sorted(ROOT.glob("notebooks/*.py"))),
    "tests": (list(GROUPS), sorted(ROOT.glob("tests/**/*.py"))),
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
    ours = {path.stem for folder in ("tests", "notebooks", ".") for path in (ROOT / folder).glob("*.py")}
    return found - sys.stdlib_module_names - ours - {"bqcore", "studies", "tests"}


def test_every_version_is_exact():
    inexact = [r for group in GROUPS.values() for r in group if not re.fullmatch(r"[\w.-]+==[\w.]+", r)]
    assert not inexact, f"not of the form name==version: {inexact}"


@pytest.mark.parametrize("requirement", LIBRARY)
def test_the_studies_versions_lie_in_the_library_s_ranges(requirement):
    name, oldest, beyond = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<(\d+))?", requirement).groups()
    (exact,) = {r.split("==")[1] for group in ("studies", "book") for r in GROUPS[group] if key(r) == key(name)}
    exact = [int(x) for x in exact.split(".")]
    assert exact >= [int(x) for x in oldest.split(".")]
    assert exact[0] < int(beyond) <= exact[0] + 1 if beyond else name == "xarray"


def test_the_extra_all_has_every_other():
    assert EXTRAS["all"] == [f"bqcore[{','.join(name for name in EXTRAS if name != 'all')}]"]


def test_the_console_script_is_the_command_of_the_package():
    (script,) = PROJECT["project"]["scripts"].items()
    module, function = script[1].split(":")
    assert script[0] == "bqcore" and module == "bqcore.__main__"
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("group", GROUPS)
def test_environment_yml_has_the_versions_of_pyproject(group):
    (pip,) = [item["pip"] for item in CONDA if isinstance(item, dict)]
    missing = [r for r in GROUPS[group] if r not in pip]
    assert not missing, f"environment.yml lacks what pyproject.toml has in {group}: {missing}"


def test_environment_yml_has_nothing_else():
    (pip,) = [item["pip"] for item in CONDA if isinstance(item, dict)]
    declared = ["--constraint constraints.txt", *(r for group in GROUPS.values() for r in group)]
    assert sorted(pip) == sorted(declared)


def test_environment_yml_names_a_python_that_the_project_allows():
    """Binder's builder looks for `python=3.N`, and takes a Python of its own where it finds a range."""
    (python,) = [item for item in CONDA if isinstance(item, str) and item.startswith("python")]
    minor = int(re.fullmatch(r"python=3\.(\d+)", python)[1])
    assert minor >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))


def test_constraints_pin_only_what_is_not_declared():
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    declared = {key(r) for group in GROUPS.values() for r in group} | {"pip", "setuptools"}
    assert not declared & {key(line) for line in lines}


def test_this_environment_is_the_declared_one():
    wanted = [r.split("==") for group in ("studies", "book", "test") for r in GROUPS[group]]
    found = {name: importlib.metadata.version(name).split("+")[0] for name, _ in wanted}
    assert found == dict(wanted), "remake the environment: make does so by itself, conda by conda env update"


@pytest.fixture(scope="module")
def providers():
    """Return the packages that each name to import comes from."""
    # Of what only `make bench` installs, this environment does not know what it provides.
    return {"brevitas_examples": ["brevitas"]} | dict(importlib.metadata.packages_distributions())


@pytest.mark.parametrize("folder", SOURCES)
def test_every_import_is_declared(providers, folder):
    groups, files = SOURCES[folder]
    declared = {key(r) for group in groups for r in GROUPS[group]}
    for file in files:
        for name in imported(file):
            assert declared & {key(p) for p in providers.get(name, [name])}, f"{file.name} imports {name}, not declared"


@pytest.fixture
def clone(tmp_path):
    """Return a folder with a space in its name that holds what make needs to look for an environment."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "Snakefile", "environment.py", "lock.py", "pyproject.toml", "constraints.txt"):
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
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "1"}
    done = environment(clone, "book", **offline)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("No package registry could be reached")
    assert not list(clone.glob(".venv/**/*.whole"))  # so the next make starts anew


@pytest.fixture
def installer(tmp_path, monkeypatch):
    """Return environment.py with .venv elsewhere, no settings of pip, and a list of what it calls, of which all work."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(maker, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(maker, "VENV", tmp_path)
    monkeypatch.setattr(maker, "LOG", tmp_path / "log")
    maker.called, maker.failing = [], ()

    def call(command, env=None):
        # pip fetching uv, uv, or pip installing
        kind = "uv" if command[2] == "uv" else "fetch" if "-qqq" in command else "pip"
        maker.called.append((kind, command, env))
        return kind in maker.failing

    monkeypatch.setattr(maker.subprocess, "call", call)
    return maker


def settings(folder, monkeypatch, text):
    """Let pip read this configuration, besides that which a machine may have for everybody."""
    (folder / "pip.conf").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(folder / "pip.conf"))


def test_what_pip_is_told_uv_is_told(installer, tmp_path, monkeypatch):
    mirrors = "[global]\nindex-url = https://a.test/simple\nextra-index-url = https://b.test/s\n  https://c.test/s\n"
    installs = "[install]\nfind-links = /wheels\ntrusted-host = a.test\n[download]\nindex-url = https://d.test/s\n"
    settings(tmp_path, monkeypatch, f"{mirrors}find-links = /all\ncert = /ca.pem\ntimeout = 60\n{installs}")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://b.test/s https://o'c.test/s")  # goes before the file
    installer.install(["tqdm==1.0"])
    (_, fetch, _), (kind, command, environ) = installer.called
    assert kind == "uv" and fetch[-1].startswith("uv==") and command[-1] == "tqdm==1.0"
    assert [word for word in command if str(word).startswith("--") and "=" in str(word)] == [
        "--index-url=https://a.test/simple", "--extra-index-url=https://b.test/s", "--extra-index-url=https://o'c.test/s",
        "--find-links=/wheels", "--trusted-host=a.test",
    ]  # fmt: skip
    assert environ["SSL_CERT_FILE"] == "/ca.pem" and command[command.index("-c") + 1] == installer.CONSTRAINTS


@pytest.mark.parametrize("more", ["no-binary = :all:", "proxy = http://p.test", "no-index = true"])
def test_a_setting_that_uv_may_lack_leaves_it_to_pip(installer, tmp_path, monkeypatch, more):
    settings(tmp_path, monkeypatch, f"[global]\n{more}\n")
    installer.install(["tqdm==1.0"])
    ((kind, command, environ),) = installer.called
    assert (
        kind == "pip" and command[-1] == "tqdm==1.0" and installer.CONSTRAINTS in command and environ["PIP_USER"] == "0"
    )


@pytest.mark.parametrize("failing, kinds", [((), "fetch uv"), (("fetch",), "fetch pip"), (("uv",), "fetch uv pip")])
def test_pip_installs_what_uv_cannot(installer, failing, kinds):
    installer.failing = failing
    installer.install(["tqdm==1.0"])
    assert " ".join(kind for kind, _, _ in installer.called) == kinds


@pytest.mark.slow
def test_every_failure_has_its_sentence(installer):
    installer.failing = ("uv", "pip")
    none = "ERROR: Could not find a version that satisfies the requirement a (from versions: none)\n"
    lacks = "ERROR: No matching distribution found for a\n"
    for said, why in {
        "OSError: [Errno 28] No space left on device": "The disk is full",
        f"after connection broken by 'NewConnectionError'\n{none}{lacks}": "No package registry could be reached",
        f"after connection broken by 'ReadTimeoutError'\nERROR: no (from versions: 1.0, 2.0)\n{lacks}": "That package is",
        f"{none}{lacks}": "That package is not made for this Python",
        "ERROR: Failed building wheel": "The environment was not made, for the reason above",
    }.items():
        installer.LOG.write_text(said, encoding="utf-8")
        with pytest.raises(SystemExit, match=why):
            installer.install(["a"])


def test_environment_is_made_once_and_anew_when_it_is_to_have_other_packages(tmp_path, monkeypatch):
    python, system = tmp_path / ".venv" / "bin" / "python", tmp_path / "python3.11"
    monkeypatch.setattr(maker, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(maker, "PYTHON", python)
    monkeypatch.setattr(maker, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(maker, "GROUPS", {"studies": ["a==1"], "book": ["b==1"], "test": ["c==1"], "lab": ["d==1"]})
    maker.CONSTRAINTS.write_text("e==1\n")
    did = []

    def create():
        shutil.rmtree(tmp_path / ".venv", ignore_errors=True)
        python.parent.mkdir(parents=True)
        system.touch()
        python.symlink_to(system)
        did.append("create")

    monkeypatch.setattr(maker, "create", create)
    monkeypatch.setattr(maker, "install", lambda requirements: did.append(" ".join(requirements)))

    def done(*groups):
        did.clear()
        maker.make(*groups)
        return did

    assert done("test") == ["create", "a==1 b==1 c==1"]
    assert done("test") == done() == []
    assert done("lab") == ["a==1 b==1 c==1 d==1"]
    assert done("lab") == done("book") == []
    maker.GROUPS["lab"] = ["d==2"]  # the others stay
    assert done("lab") == ["a==1 b==1 c==1 d==2"]
    maker.GROUPS["studies"] = []
    assert done("lab") == ["create", "b==1 c==1", "b==1 c==1 d==2"]
    maker.CONSTRAINTS.write_text("e==2\n")
    assert done() == ["create", "b==1 c==1"]
    system.unlink()  # as a system upgrade may take it away
    assert done() == ["create", "b==1 c==1"]
    python.unlink()
    python.symlink_to(shutil.which("true"))  # or put another in its place
    assert done() == ["create", "b==1 c==1"]
    maker.GROUPS["book"] = ["b==2"]
    monkeypatch.setattr(maker, "install", lambda requirements: sys.exit("no"))
    with pytest.raises(SystemExit):
        maker.make()
    assert not list(tmp_path.glob(".venv/*.whole"))  # not whole: the next make starts anew


def test_interrupted_is_one_sentence(clone):
    hide = "import importlib.util\ndef stopped(*a): raise KeyboardInterrupt\nimportlib.util.find_spec = stopped"
    (clone / "sitecustomize.py").write_text(hide)
    done = environment(clone, "book", PYTHONPATH=str(clone))
    assert done.returncode == 1 and done.stderr.endswith(
        "Interrupted: .venv is not whole, and the next make makes it so.\n"
    )


@pytest.mark.network
def test_a_new_environment_finds_the_clone_and_has_a_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "VENV", tmp_path / "a clone" / ".venv")
    disk = tmp_path / "larger disk"
    (tmp_path / "a clone").mkdir()
    maker.VENV.symlink_to(disk)
    (tmp_path / "a clone" / "bqcore.py").write_text("where = __file__")
    maker.create()
    command = [maker.VENV / "bin" / "python", "-c", "import bqcore; print(bqcore.where)"]
    done = subprocess.run(command, cwd=disk, capture_output=True, text=True, timeout=60, env={})
    assert done.stdout.strip() == str(tmp_path / "a clone" / "bqcore.py")
    (disk / "left").touch()
    maker.create()  # its own may be made anew
    assert (disk / "made-by-make").exists() and not (disk / "left").exists()


def test_lock_pins_what_is_not_declared(clone):
    report = {"install": [
        {"requested": True, "metadata": {"name": "torch", "version": "2.0+cpu"}},
        {"requested": False, "metadata": {"name": "Jinja2", "version": "3.1"}},
        {"requested": False, "metadata": {"name": "attrs_x", "version": "1.0.post1"}},
    ]}  # fmt: skip
    (clone / "sitecustomize.py").write_text(
        f"import json, subprocess\nsubprocess.check_output = lambda command: json.dumps({report!r})"
    )
    command = [sys.executable, clone / "lock.py"]
    subprocess.run(command, env={"PYTHONPATH": str(clone)}, check=True, timeout=60)
    *head, one, two = (clone / "constraints.txt").read_text("utf-8").splitlines()
    assert (one, two) == ("attrs-x==1.0.post1", "jinja2==3.1")
    assert len(head) == 3 and f"with Python {sys.version.split()[0]}:" in head[1]


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


@pytest.mark.slow
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
        "training",
        "seed",
        "study",
    }


@needs_make
def test_settings_of_the_user_s_own_do_not_reach_what_make_runs(clone):
    """A profile for Snakemake would be taken, and warnings as errors would stop it."""
    (clone / "python").write_text('#!/bin/sh\necho "$2 <$SNAKEMAKE_PROFILE$PYTHONWARNINGS>" >&2\n')
    (clone / "python").chmod(0o755)
    done = make(clone, "book", "PY=./python", SNAKEMAKE_PROFILE="none", PYTHONWARNINGS="error")
    said = done.stderr.splitlines()
    assert "snakemake <>" in said and all(line.endswith("<>") for line in said)


def test_pages_are_the_same_in_a_folder_with_brackets():
    """What jupyter-book leaves out by itself it does not find there, so that every other page has to be named."""
    excluded = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["exclude_patterns"]
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {toc["root"], *re.findall(r"'file': '([^']+)'", str(toc))}
    found = {
        path.relative_to(ROOT).with_suffix("").as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("book/**/*.md")]
    }
    assert {page for page in found - listed if not any(fnmatch(f"{page}.md", pattern) for pattern in excluded)} == set()
