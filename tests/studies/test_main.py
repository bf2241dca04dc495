"""The command line of the studies: errors in one line, help that does not wait."""

import os
import re
import subprocess
import sys

import pytest

from studies import __main__
from tests.helpers import ROOT


def test_the_command_line_ends_errors_in_one_line(with_claims, capsys):
    assert __main__.main(["ledger"]) == 2
    assert capsys.readouterr().err == (
        "studies ledger: There is no result file data/results/digits_levels.nc: `make book` computes the fresh ones.\n"
    )
    assert __main__.main(["publish"]) == 2
    assert capsys.readouterr().err == (
        "studies publish: No baseline has been run with this code: `python -m studies run levels digits` first.\n"
    )
    (with_claims / "data" / "claims.yml").unlink()
    assert __main__.main(["ledger"]) == 2
    assert re.fullmatch(r"studies ledger: .*data/claims\.yml'?\n", capsys.readouterr().err)
    for wrong in ([], ["judge"], ["run"], ["run", "mnist"], ["run", "levels", "digits", "--workers", "two"]):
        with pytest.raises(SystemExit, match="2"):
            __main__.main(wrong)


def test_help_lists_the_commands(here):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-m", "studies", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m studies ")
    assert all(f"\n    {name} " in done.stdout for name in ("run", "ledger", "publish"))


def test_help_and_refused_words_do_not_wait_for_torch(here):
    code = """
import contextlib, sys
from studies.__main__ import main
for words in (["--help"], ["audit", "--help"], ["run", "mnist"], ["judge"]):
    with contextlib.suppress(SystemExit):
        main(words)
print(sorted({"torch", "sklearn", "xarray", "scipy", "numpy"} & set(sys.modules)), len(sys.modules) < 300)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("\n[] True\n")
