"""The seven rows and LEDGER.md: made from the ledger, every claim in one group, words that fit their verdicts."""

import re
from collections import Counter

import pytest

from studies import answers, explanations, ledger
from tests.helpers import ROOT
from tests.helpers.claims import KEYS, published_rows


@pytest.fixture
def told(clone):
    return answers.answers(published_rows())


def test_every_claim_is_in_one_group(told):
    names = [name for group in answers.GROUPS for name in group.ids]
    assert sorted(names) == sorted(row["id"] for row in published_rows()) and len(answers.GROUPS) == 7
    assert [answer.group for answer in told] == list(answers.GROUPS)


def test_readme_and_the_ledger_s_file_are_the_generated_ones(clone):
    rows = published_rows()
    readme = (ROOT / answers.README).read_text(encoding="utf-8")
    assert readme == answers.readme_with(answers.readme_text(rows))
    assert (ROOT / answers.PAGE).read_text(encoding="utf-8") == answers.page(rows)
    assert len(re.findall(r"^\| \*\*", readme, re.MULTILINE)) == 7


def test_the_words_fit_the_verdicts_that_they_were_written_for(told):
    """Whoever changes a result reads what is said of it again."""
    verdicts = {row["id"]: row["verdict"] for row in published_rows()}

    def of(text):
        return [verdicts[name] for name in text.split()]

    assert set(of("D1 D2 D3 D4 D5 S1 S2 S3 S4 C4 F1")) == {"reproduced", "compatible"}
    assert set(of("S2+S4 S5 S6 J1-chance")) == {"reproduced"} and of("J1") == ["opposite"]
    assert set(of("C6 F2 F3 R1 R2 R3 R4 R8 K1")) == {"not reproduced"} and of("R5") == ["no difference seen"]
    found = {entry["id"]: entry["survives"] for entry in explanations.tested(published_rows())}
    assert found == {"folding": False, "ruler": False, "accuracy rule": True, "weak rounding": False}


def test_cells_are_short_and_a_sentence_has_two_numbers_at_most(told):
    number = r"\d*\.?\d+(?!-bit| bits)\b"
    for group, _, *cells in told:
        for text in cells:
            assert text.endswith(".") and len(text) < 260, (group.title, text)
            for sentence in re.split(r"(?<=[.:]) (?=[A-Z\d])", text):
                numbers = re.findall(number, re.sub(r"CIFAR-10|[A-Z]\d", "", sentence))
                assert len(numbers) <= 2, (group.title, sentence)


def test_what_is_unexplained_is_named(told):
    rows = {row["id"]: row for row in published_rows()}
    named = set(re.findall(r"\b[A-Z]\d\b", " ".join(answer.why for answer in told)))
    left = [row for row in rows.values() if row["explanation"] == "unexplained"]
    agree = [row for row in left if row["verdict"] == "compatible"]
    assert named == {row["id"] for row in left if row not in agree and row["id"].isalnum()}
    ends = {row["id"]: next(text for text in answers.details(row) if "unexplained" in text) for row in left}
    assert {ends[row["id"]] for row in agree} == {"Explanation: unexplained, and none is needed inside the interval."}
    assert {ends[row["id"]] for row in left if row not in agree} == {"Explanation: unexplained."}


def test_a_table_of_claims_is_narrow_and_joint_rows_show_their_parts():
    rows = published_rows()
    lines = [line[2:-2].split(" | ") for line in answers.claims_table(rows, rows).splitlines()]
    assert {len(line) for line in lines} == {7} and len(lines) == 2 + len(rows)
    cells = {line[0].split("**")[1]: line[1:] for line in lines[2:]}
    assert cells["D2"][:5] == ["0.428", "0.365", "0.178 to 0.529", "reproduced", "–"]
    assert cells["S2+S4"][:4] == ["0.0022, 0.524", "0.00138, 0.468", "–", "reproduced"]
    assert cells["C2"][4] == "7, 6 bits, boundary-aware stopping" and cells["S5"][4] == "less than 0.00065"
    assert cells["R7"][1:5] == ["+0.0109", "−0.0348 to +0.0567", "compatible", "no reduction"]
    assert cells["D3"][5] == "28%" and cells["S5"][0] == "above 0" and cells["R6"][:2] == ["no gain", "–"]


def test_details_have_what_a_table_of_claims_leaves_out():
    row = next(row for row in published_rows() if row["id"] == "S1")
    assert answers.details(row) == [
        "Held-out flip rate of the bit-width chosen by accuracy (abstract).", "Verdict: compatible.", "Our runs: 100.",
        "Told apart: not from 8, 6, 5 bits, boundary-aware stopping; from 4, 3, 2 bits.",
        "Specifications in which it holds: 51.3%.", "By the first rule: reproduced.", "Explanation: accuracy rule.",
        "Run: `python -m studies run stopping digits`.",
    ]  # fmt: skip


def test_claims_of_no_group_are_told_last(clone):
    other = dict.fromkeys(KEYS) | {"id": "T5.1", "short": "later", "says": "later", "where": "Table 5", "reported": 3,
                                   "verdict": "not attempted", "kind": "value",
                                   "explanation": ""}  # fmt: skip
    text = answers.page([other])
    assert (
        "## Others" in text and "## Digits" not in text and "1 claims and readings of claims: 1 not attempted." in text
    )
    assert "| **T5.1** later | 3 | – | – | not attempted | – | – |" in text


def test_the_chapters_are_there(told):
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("[0-9]*.py"))
    names = Counter(name for group in answers.GROUPS for name in group.chapters)
    assert all(f"({name})=" in pages for name in names) and "[levels](levels)" in answers.table(
        published_rows(), linked=True
    )


def test_readme_needs_its_marks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answers.publish() == []
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match=r"README\.md must hold each of these lines once: <!-- answers"):
        answers.readme_with("table")
    assert ledger.chance_line([]) and answers.counted([]) == ""
