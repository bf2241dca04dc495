"""The chapter on auditing one's own model: its code runs as it stands, in order, and gives what the text says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = (ROOT / "book" / "audit.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", CHAPTER, flags=re.S | re.M)
# The commands on one start of Python, which takes longer than they do.
IN_TURN = """
import contextlib, io, json, pathlib, shlex, sys
from bqcore.__main__ import main

said = []
for command in sys.argv[1:]:
    words = shlex.split(command)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(words[3:]) == 0, command
    folder = pathlib.Path(words[words.index("--out") + 1] if "--out" in words else "audit")
    made = json.loads((folder / "audit.json").read_text("utf-8"))["conclusion"] if words[3] == "audit" else ""
    said.append([words[3], made, out.getvalue()])
print(json.dumps(said))
"""


@pytest.mark.slow
def test_the_code_runs_in_order_as_a_new_user_would_run_it(tmp_path):
    code, commands = [], []
    for language, text in BLOCKS:
        named = re.match(r"# (\w+\.py)\n", text)
        if named:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            code.append(text)
        else:
            commands += text.strip().splitlines()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "chapter.py").write_text("\n".join(code), encoding="utf-8")
    done = subprocess.run([sys.executable, "chapter.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^The candidate changes ", done.stdout, flags=re.M)) == 3
    assert "bits are the fewest that keep" in done.stdout and "Within " in done.stdout
    assert [shlex.split(command)[3] for command in commands] == ["audit"] * 3 + ["sweep", "blame", "plan"]
    told = subprocess.run(
        [sys.executable, "-c", IN_TURN, *commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (told.returncode, told.stderr) == (0, "")
    for name, conclusion, said in json.loads(told.stdout):
        assert conclusion and conclusion in said if name == "audit" else "bytes" in said or "plan" in said


def test_no_number_that_was_measured_is_typed():
    prose = re.sub(r"^```.*?^```", "", CHAPTER, flags=re.S | re.M)
    prose = re.sub(r"`[^`]*`", "", prose)
    assert re.findall(r"\d*\.\d+|\d+ ?%", prose) == []
