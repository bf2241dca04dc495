"""
Check the project's English: ``python -m tests.prose``, a part of ``make lint``.

Read are the pages, the text of the notebooks and the docstrings: by proselint's checks for redundant, archaic and misused
words, and by the rules below, each for a form that readers stumbled over. Code, roles, links and formulas are blanked out
beforehand, so that places stay.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from proselint.checks import __register__ as KNOWN
from proselint.registry.checks import Check, CheckResult, types
from proselint.tools import CheckRegistry, LintFile

ROOT = Path(__file__).resolve().parents[1]
THEIRS = ("archaism", "malapropisms", "mondegreens", "needless_variants", "nonwords", "redundancy")
# What readers stumble over, and what to write.
AVOID = {
    r"(is|are|was|were) to be had": "is available",
    r"as (it|they) stands?": "as it is",
    r"(Beside it|at the end) stands": "the subject first",
    r"(counts|holds|needs) not": "does not",
    r"telephone": "phone",
    r"surely": "what the interval excludes",
    r"saved at equal bits": "the quantity in standard terms",
    r"beyond τ": "farther than τ",
    r"(Besides|Beyond|Farther than) [^.,;]{3,60} (stands?|lies?|comes?)\b": "the subject first",
}
MOST_NUMBERS = 2  # in a sentence
_SENTENCE = r"[^.!?;|]+(?:[.](?=\S)[^.!?;|]*)*"
_NUMBER, _MARK = r"\{(?:value|claim)\}`[^`@]*`", "№"  # a number made from results, and what stands for it
_NO_PROSE = (
    r"\A---\n.*?\n---\n", r"^```.*?^```", r"\{[\w:-]+\}`[^`]*`", r"`[^`]*`", r"\$[^$]+\$", r"\]\([^)]*\)", r"https?://\S+",
    r"<!--.*?-->",
)  # fmt: skip


def crowded(text: str, check: Check) -> Iterator[CheckResult]:
    """Find sentences with more numbers than a reader keeps."""
    for sentence in re.finditer(_SENTENCE, text):
        marks = [mark.span() for mark in re.finditer(_MARK, sentence[0])]
        if len(marks) > MOST_NUMBERS:
            span = (sentence.start() + marks[0][0], sentence.start() + marks[-1][1])
            yield CheckResult(check.path, f"{len(marks)} numbers in a sentence: make it two, or a figure.", span, None)


RULES = (
    Check(crowded, path="ours.numbers"),
    *(
        Check(types.ExistenceSimple(rf"\b{form}\b"), path="ours.forms", message=f"'{{}}': write {better}.")
        for form, better in AVOID.items()
    ),
)


def prose(text: str) -> str:
    """Return *text* with all that is no prose blanked out, character by character; a number from results is a mark."""
    text = re.sub(_NUMBER, lambda found: _MARK.ljust(len(found[0])), text)
    for pattern in _NO_PROSE:
        text = re.sub(pattern, lambda found: re.sub(r"\S", " ", found[0]), text, flags=re.S | re.M)
    return text


def texts() -> Iterator[tuple[Path, int, str]]:
    """Return every text that people read: its file, the lines there before it, and itself."""
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "book").rglob("*.md"))]:
        yield path, 0, path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        lines = [line[2:] if line.startswith("# ") else "" for line in path.read_text("utf-8").splitlines()]
        yield path, 0, "\n".join(lines)
    for path in (path for room in ("bqcore", "studies") for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                if said := ast.get_docstring(node, clean=False):
                    yield path, node.body[0].lineno - 1, said


def problems(name: str, text: str) -> list[tuple[int, str]]:
    """Return line and message of all that should be written otherwise in a text."""
    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many((*(check for check in KNOWN if check.path.startswith(THEIRS)), *RULES))
    enabled = {check.path: True for check in registry.checks}
    found = LintFile(name, prose(text)).lint({"max_errors": 1000, "checks": enabled})
    return [(one.pos[0], one.check_result.message) for one in found]


def main() -> int:
    """Print what should be written otherwise, a line each; return 1 if there is any."""
    out = [
        f"{path.relative_to(ROOT)}:{before + line}: {message}"
        for path, before, text in texts() if text.strip()
        for line, message in problems(str(path), text)
    ]  # fmt: skip
    print("\n".join(out) if out else "All texts read well by the rules of tests/prose.py.")
    return int(bool(out))


if __name__ == "__main__":
    sys.exit(main())
