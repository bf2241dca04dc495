"""The command that compares two commits' time."""

import os
import re
import subprocess

import pytest

from tests.pairs import main

WORK = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


@pytest.fixture
def repository(tmp_path):
    """Return a repository of two commits: a program that works for 0.4 s, then one that does for 0.1 s."""
    person = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    person |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for seconds in (0.4, 0.1):
        (tmp_path / "work.py").write_text(WORK.format(seconds))
        for words in (["add", "."], ["commit", "-qm", "work"]):
            subprocess.run(["git", *words], cwd=tmp_path, env=os.environ | person, check=True)
    return tmp_path


def test_the_ratio_of_two_commits_is_that_of_their_work(repository, capsys):
    (repository / "work.py").write_text("not committed, so not run")
    # The folder is as fresh the second time as the first.
    assert main(["HEAD~1", "mkdir made && python work.py", "--times", "2"], repository) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^\w+ ", said, re.M) == ["earlier ", "later ", "earlier ", "later ", "later "]
    cpu = float(re.search(r"([\d.]+) of the CPU time", said)[1])
    assert 0.2 < cpu < 0.6


def test_each_commit_may_have_its_own_command(repository, capsys):
    assert main(["HEAD~1", "true", "--earlier", "grep -q 0.4 work.py", "--times", "1"], repository) == 0
    assert "grep" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    "words, says",
    [
        (["nonesuch", "true"], "pairs: There is no commit 'nonesuch' in "),
        (["HEAD", "echo why; exit 3"], "pairs: 'echo why; exit 3' failed in earlier (status 3):\nwhy\n"),
        (["HEAD", "true", "--times", "0"], "pairs: Runs are 0: give 1 or more."),
    ],
)
def test_what_cannot_be_compared_is_said(repository, capsys, words, says):
    assert main(words, repository) == 2
    assert capsys.readouterr().err.startswith(says)
