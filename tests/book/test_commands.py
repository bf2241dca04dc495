"""
Every command that README, CONTRIBUTING and the book's pages show works as it is written there.

The cheap ones run, in a copy of the clone; of the long ones all is tried but the work: that make knows what to do, that the
workflow can be planned, that arguments and settings are taken. A command of another kind fails until CHECKS has it.
Those of book/audit.md on files run after its code, in tests/notebooks/test_audit_chapter.py.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from studies import __main__
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("book/**/*.md"))]
PAGES += sorted(ROOT.glob("notebooks/[0-9]*.py"))
PROGRAM = re.compile(
    r"make|python3?|bqcore|jupy\w+|papermill|conda|mamba|pip3?|uv|apt-get|snakemake|pytest|git|npm|docker"
)
# What CONTRIBUTING leaves to whoever adds something.
STAND_INS = {"NAME": "mnist"}


def commands(text: str) -> list[str]:
    """Return the commands on a page: what begins with a program in its sentences' code, its blocks and their columns."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    lines = [part for language, block in blocks if language != "python" for part in re.split(r"\n|\s{2,}", block)]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]
    found = []
    for line in lines:
        program = next((word for word in line.split() if not re.match(r"[A-Z_]+=", word)), "")
        if PROGRAM.fullmatch(program) and line != "bqcore":  # which is the library, not the command
            found.append(shlex.join(shlex.split(line, comments=True)))
    return found


def text_of(page: Path) -> str:
    """Return a page's text; of a chapter, which is kept as Python, without the marks of a comment."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^# ?", "", text, flags=re.M) if page.suffix == ".py" else text


FOUND = {path.relative_to(ROOT).as_posix(): commands(text_of(path)) for path in PAGES}
COMMANDS = sorted({command for found in FOUND.values() for command in found})


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """Return a copy of the clone in a folder with a blank in its name, without what was made in it."""
    folder = tmp_path_factory.mktemp("a clone") / "it"
    made = shutil.ignore_patterns(".*", "__pycache__", "_build", "runs", "executed", "archives", "explorer")
    shutil.copytree(ROOT, folder, ignore=made)
    shutil.copy2(ROOT / ".gitignore", folder)
    return folder


def run(clone: Path, *words: str, **environ: str) -> str:
    """Run a command as a reader would whose environment is active; return what it says."""
    usual = {
        name: value
        for name, value in os.environ.items()
        if name not in ("P", "PROFILE", "PY", "MAKEFLAGS", "MAKELEVEL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=clone, env=usual | {"PATH": path, "PYTHONPATH": str(clone)} | environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def make(clone, words):
    """Try a target; those that take long only as far as what they would do."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    target = next((word for word in words[1:] if "=" not in word), "help")
    if target in ("help", "clean"):
        run(clone, *words, "PY=python")
        return
    assert run(clone, *words, "-n", "PY=python").strip()
    if given.get("P"):
        run(clone, "python", "notebooks/execute.py", "--check", given["P"])
    if given.get("PROFILE", "smoke") not in ("smoke", "paper"):
        assert (clone / "profiles" / given["PROFILE"] / "config.yaml").is_file()
    elif target in ("book", "reproduce"):
        plan = ["reproduce"] if target == "reproduce" else []
        environ = {name: given.get(name, "") for name in ("P", "PROFILE")} | {"XDG_CACHE_HOME": str(clone / ".cache")}
        run(clone, "python", "-m", "snakemake", "--dry-run", "--nolock", "--cores", "2", *plan, **environ)


def shown(clone, words):
    """Run a command that only says something."""
    assert run(clone, *words).strip()


def named(clone, words):
    """Try a command that is named without its arguments."""
    shown(clone, [*words, "--help"])


def helped(words: list[str]) -> str:
    """Return the help of a command of the studies, without a start of Python, which takes longest of all."""
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit, match="^0$"):
        __main__.main([*words, "--help"])
    return said.getvalue()


def settings(clone, words):
    """Try a command up to its work: its arguments, and the names and types of its settings."""
    says = helped(words[3:])
    given = [word for word in words[4:] if "=" in word]
    if words[3] == "train":
        says = helped(["run", *words[4:6]])
    for name, value in (word.split("=", 1) for word in given):
        default = re.search(rf"^  {name}=(\S*)", says, re.M)
        assert default, f"{shlex.join(words)}: there is no setting {name}"
        assert value.isdigit() == default[1].isdigit() and value.startswith("[") == default[1].startswith("[")


def notebook(clone, words):
    """Try a notebook's parameters, by the module that reads them."""
    code = "import sys, execute; name, *given = sys.argv[1:]; execute.parse(given, execute.read(name)[1], name)"
    run(clone, "python", "-c", code, *words[2:], PYTHONPATH=str(clone / "notebooks"))


def jupytext(clone, words):
    """Make a notebook of a source."""
    run(clone, *words)
    assert (clone / words[words.index("-o") + 1]).read_text(encoding="utf-8").startswith("{")


def papermill(clone, words):
    """Write parameters into such a notebook, without running it."""
    jupytext(clone, shlex.split("jupytext --to ipynb -o 01.ipynb notebooks/01_levels.py"))
    run(clone, *words, "--prepare-only")
    assert "injected-parameters" in (clone / words[-1]).read_text(encoding="utf-8")


def library(clone, words):
    """Leave the installation of the library to tests/test_wheel.py, which does it, but for the extras' names."""
    project = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words[2].startswith(".") and set(re.findall(r"\w+", words[2])) <= set(project["optional-dependencies"])


def of_others(clone, words):
    """Leave a command of another program alone, but for the files that it names."""
    assert all((clone / word).is_file() for word in words if "." in word)


def after_the_code(clone, words):
    """Leave the commands on the files of audit.md to the test that makes these files."""
    assert shlex.join(words) in FOUND["book/audit.md"]


CHECKS = {
    r"make( .*)?": make,
    r"python -m studies( \w+)?( \w[\w-]* \S+)? --help": shown,
    r"python -m studies (data|ledger|ledger --json|ledger --csv)": shown,
    r"python -m studies (run|train|explorer|publish|data fetch)( .*)?": settings,
    r"(python -m )?bqcore( \w+)? --help": shown,
    r"(python -m )?bqcore \w+": named,
    r"(python -m )?bqcore (audit|sweep|blame|plan) --.*": after_the_code,
    r"python notebooks/execute.py \w+( .*)?": notebook,
    r"python tests/pairs.py .*": lambda clone, words: named(clone, words[:2]),
    r"jupytext .*": jupytext,
    r"papermill .*": papermill,
    r"pip install \S+": library,
    r"(conda env create|apt-get install) .*": of_others,
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_works_as_it_is_written(clone, command):
    check = next((check for form, check in CHECKS.items() if re.fullmatch(form, command)), None)
    where = [page for page, found in FOUND.items() if command in found]
    assert check, f"{where} show a command that this test cannot check: {command}"
    words = [STAND_INS.get(word, word) for word in shlex.split(command)]
    if words[0] == "bqcore":  # the console script, where bqcore is installed
        words[:1] = ["python", "-m", "bqcore"]
    check(clone, words)


def test_commands_are_found_in_blocks_and_in_sentences():
    text = 'Say `make` or `make\nbook P="a=1 b=[2]"`, not `makes`, `bqcore` or `bqcore.audit`.\n\n```sh\npython -m studies data  # all\nbook/   pages  make test\n```\n'
    assert commands(text) == ["python -m studies data", "make test", "make", "make book 'P=a=1 b=[2]'"]
    assert {"make", "make book", "python -m studies ledger"} <= set(COMMANDS) and len(COMMANDS) > 30
