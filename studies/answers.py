"""The ledger in seven rows, and in full: what the paper says, what we find, and why it differs."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bqcore._store import save_bytes

from . import explanations, ledger, verdicts
from .formats import listed, number, percent, signed, span

README, PAGE = Path("README.md"), Path("LEDGER.md")
MARKS = "<!-- answers: written by `make publish`, compared by a test -->", "<!-- end of answers -->"
_AGREE = ("reproduced", "compatible")


class Group(NamedTuple):
    """Claims that are told together: their title, ids, the book's chapters, and what is said of them."""

    title: str
    ids: list[str]
    chapters: list[str]
    tell: Callable[[dict, dict], tuple[str, str, str]]


class Answer(NamedTuple):
    """A group with its rows of the ledger, and what the paper says, what we find, and why it differs."""

    group: Group
    rows: list[dict]
    paper: str
    ours: str
    why: str


def _digits(row: dict, _: dict) -> tuple[str, str, str]:
    single = [row[name]["verdict"] for name in ("D1", "D2", "D3", "D4", "D5")]
    return (
        f"At 8 bits no test label changes, yet the boundary moves: its Jaccard distance is {_paper(row['D2'])}. "
        f"At 4 bits it is {_paper(row['D4'])}. Changes between bit-widths sit at junctions.",
        f"{sum(verdict in _AGREE for verdict in single)} of {len(single)} numbers fit our networks. Of "
        f"these, {single.count('reproduced')} fit no other bit-width. Few of the cells that change are at junctions: "
        f"a fraction of {number(row['J1']['estimate'] + 0.5, '.3f')}.",
        f"“Sit at junctions” has two readings. More often than by chance: {row['J1-chance']['verdict']}. "
        f"Most of them: {row['J1']['verdict']}.",
    )


def _stopping(row: dict, tested: dict) -> tuple[str, str, str]:
    return (
        "Bits are removed until the boundary moves too far, not until accuracy falls. "
        f"This cuts flips from {_paper(row['S1'])} to {_paper(row['S2'])}. "
        f"The Jaccard distance falls from {_paper(row['S3'])} to {_paper(row['S4'])}.",
        f"Flips fall from {_ours(row['S1'], '.4f')} to {_ours(row['S2'], '.4f')}. The distance falls from "
        f"{_ours(row['S3'], '.3f')} to {_ours(row['S4'], '.3f')}. "
        f"Taken together, the two numbers after stopping are {row['S2+S4']['verdict']}.",
        "The paper may choose the fewest bits of all that keep accuracy; ours stops at the first drop"
        + _outcome(tested, "accuracy rule"),
    )


def _other_digits(row: dict, _: dict) -> tuple[str, str, str]:
    small = all(row[name]["equivalent"] for name in ("S5", "S6"))
    return (
        "The same rule reduces flips on MNIST and on Fashion-MNIST.",
        f"It does: by {_ours(row['S5'], '.4f')} on MNIST and by {_ours(row['S6'], '.4f')} on Fashion-MNIST.",
        "Both reductions are shown to be less than half of the paper's on digits." * small,
    )


def _subset(row: dict, tested: dict) -> tuple[str, str, str]:
    seen = _test(tested, "ruler", "D2")
    return (
        f"A limit on accuracy chooses {_paper(row['C1'])} bits, at a Jaccard distance of {_paper(row['C3'])}. "
        f"A limit on the boundary chooses {_paper(row['C4'])} bits, at {_paper(row['C6'])}.",
        f"A limit on accuracy chooses {_ours(row['C1'], '.1f')} bits on average, at {_ours(row['C3'], '.3f')}. "
        f"A limit on the boundary chooses {_ours(row['C4'], '.0f')} bits, at {_ours(row['C6'], '.3f')}.",
        "The paper may draw its boundaries on a coarser grid, and thicker"
        + (
            _outcome(tested, "ruler")
            + f" At 8 bits on digits it gives {number(seen['estimate'], '.3f')}, not {number(seen['reported'], '.3f')}."
            if seen
            else "."
        ),
    )


def _full(row: dict, tested: dict) -> tuple[str, str, str]:
    seen = _test(tested, "folding", "F2")
    return (
        f"6 bits cost {_paper(row['F1'])} of accuracy. They change {_paper(row['F2'])} of all decisions, and "
        f"{_paper(row['F3'])} of those near the boundary.",
        f"6 bits cost {_ours(row['F1'], '.4f')} of accuracy. They change {_ours(row['F2'], '.3f')} of all decisions, "
        f"and {_ours(row['F3'], '.3f')} of those near the boundary.",
        "The paper may fold batch norms before it rounds"
        + (
            f". This gives {number(seen['estimate'], '.3f')} of all decisions with another network"
            + _outcome(tested, "folding", ", but")
            if seen
            else "."
        ),
    )


def _gap_term(row: dict, tested: dict) -> tuple[str, str, str]:
    parts = [row[name]["verdict"] for name in row["R6"]["together"]]
    return (
        "Rounding can be optimized with a term that holds the boundary, the gap term. At 4 bits it lowers the Jaccard "
        f"distance from {_paper(row['R1'])} to {_paper(row['R2'])} and costs accuracy. At 3 bits it gains nothing.",
        f"At 4 bits the distance is {_ours(row['R1'], '.3f')} without it and {_ours(row['R2'], '.3f')} with it. "
        f"At 3 bits it improves {parts.count('opposite')} of {len(parts)} measures.",
        "The paper's rounding may be optimized less than ours" + _outcome(tested, "weak rounding"),
    )


def _correlations(row: dict, _: dict) -> tuple[str, str, str]:
    count = len(row["K1"]["values"])
    return (
        "Jaccard distances on calibration data and on held-out data correlate: "
        f"{_paper(row['K1'])} to {_paper(row['K2'])}.",
        f"Over our roundings and data sets the correlations go from {_ours(row['K1'], '.3f')} to "
        f"{_ours(row['K2'], '.3f')}.",
        "Ours are over 4 and 3 bits only. In so short a range the lowest of "
        f"{count} correlations can be low by chance.",
    )


GROUPS = (
    Group("Digits: the boundary at 8 and 4 bits", "D1 D2 D3 D4 D5 J1 J1-chance J2 J3 J4 J2+J3+J4".split(),
          ["levels", "transitions"], _digits),
    Group("Digits: when to stop", "S1 S2 S3 S4 S2+S4".split(), ["stopping"], _stopping),
    Group("MNIST and Fashion-MNIST: when to stop", ["S5", "S6"], ["stopping"], _other_digits),
    Group("CIFAR-10 subset: when to stop", "C1 C2 C3 C1+C2+C3 C4 C5 C6 C4+C5+C6".split(), ["subsets"], _subset),
    Group("Full CIFAR-10 at 6 bits", ["F1", "F2", "F3"], ["full-cifar"], _full),
    Group("Full CIFAR-10: rounding with a gap term",
          "R1 R2 R1+R2 R3 R4 R3+R4 R5 R6 R6-jaccard R6-flips R6-band R6-accuracy R7 R8".split(),
          ["full-cifar", "objectives"], _gap_term),
    Group("Calibration against held-out", ["K1", "K2"], ["stopping", "full-cifar"], _correlations),
)  # fmt: skip


def answers(rows: list[dict]) -> list[Answer]:
    """Return what is said of each group whose claims are all among *rows* of the ledger, from published results."""
    known = {row["id"]: row for row in rows}
    testable = explanations.testable(rows)
    tested = {entry["id"]: entry for entry in explanations.tested(rows)} if testable else {}
    out = []
    for group in GROUPS:
        if set(group.ids) <= set(known):
            paper, ours, why = group.tell(known, tested)
            here = [known[name] for name in group.ids]
            open_ = [row for row in here if row["explanation"] == "unexplained" and row["verdict"] not in _AGREE]
            left = [row["id"] for row in open_ if row["id"].isalnum()]
            more = f" Unexplained: {listed(left)}." if left else ""
            out.append(Answer(group, here, paper, ours, why.strip() + more))
    return out


def counted(rows: list[dict]) -> str:
    """
    Count verdicts in words.

    >>> counted([{"verdict": "compatible"}, {"verdict": "reproduced"}, {"verdict": "compatible"}])
    '1 reproduced, 2 compatible'
    """
    found = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in verdicts.VERDICTS if found[verdict])


def sentence(rows: list[dict]) -> str:
    """Return how many claims have each verdict, as a sentence."""
    return f"Of {len(rows)} claims and readings of claims: {counted(rows)}."


def table(rows: list[dict], *, linked: bool = False) -> str:
    """Return the answers as a Markdown table; *linked*, each group leads to its chapters in the book."""
    lines = ["| claims | the paper says | we find | why it differs |", "| --- | --- | --- | --- |"]
    for group, here, paper, ours, why in answers(rows):
        links = " · ".join(f"[{name.replace('-cifar', ' CIFAR-10')}]({name})" for name in group.chapters)
        head = f"**{group.title}.** {links if linked else counted(here) + '.'}"
        lines.append(f"| {head} | {paper} | {ours} | {why} |")
    return "\n".join(lines)


def _paper(row: dict) -> str:
    return ledger.paper_says(row)


def _ours(row: dict, form: str) -> str:
    return number(row["estimate"], form)


def _test(tested: dict, name: str, against: str) -> dict | None:
    tests = tested[name]["tests"] if name in tested else ()
    return next((test for test in tests if test["against"] == against), None)


def _outcome(tested: dict, name: str, head: str = ". This explanation") -> str:
    """Say after *head* how an explanation came out on the numbers that did not suggest it."""
    if name not in tested:
        return "."
    survives = "survives" if tested[name]["survives"] else "fails"
    return f"{head} {survives} its test on other numbers."


def claims_table(rows: list[dict], everything: list[dict]) -> str:
    """Return some rows of the ledger as a Markdown table of seven narrow columns; :func:`details` has the rest."""
    known = {row["id"]: row for row in everything}
    lines = ["| claim | the paper | ours | 95 % interval | verdict | cannot exclude | holds in |"]
    lines.append("| --- | ---: | ---: | --- | --- | --- | ---: |")
    for row in rows:
        parts = {name: ours for name, ours in (row["together"] or {}).items() if ours is not None and name in known}
        write = signed if row["kind"] in ledger.SIGNED else number
        middle, ends = ", ".join(number(ours, ".3g") for ours in parts.values()), ""
        if row["estimate"] is not None:
            middle, ends = write(row["estimate"], ".3g"), span(row["low"], row["high"], ".3g", write)
        paper = ", ".join(_paper(known[name]) for name in parts) or _paper(row)
        ours = [text.replace("-", "−") or "–" for text in (middle, ends)]
        holds = percent(row["multiverse"]) if row["multiverse"] is not None else "–"
        cells = [f"**{row['id']}** {row['short']}", paper, *ours, row["verdict"], _open(row), holds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _open(row: dict) -> str:
    """Say what our runs could not tell from the paper's claim."""
    if row["detectable"] is not None and row["kind"] != "reduction":
        return f"less than {number(row['detectable'], '.2g')}"
    return ledger.named(list(row["held"])) if row["held"] else "–"


def details(row: dict) -> list[str]:
    """Return what a row says beyond :func:`claims_table`, a sentence for each thing."""
    agrees, left = row["verdict"] in _AGREE, row["explanation"] == "unexplained"
    shown = {
        "Verdict": row["verdict"], "Ours": row["note"], "Our runs": row["runs"], "Told apart": ledger.told_apart(row),
        "Specifications in which it holds": row["multiverse"] is not None and percent(row["multiverse"], 1),
        "By the first rule": row["first_verdict"] or "not judged",
        "Explanation": row["explanation"] + ", and none is needed inside the interval" * (agrees and left),
        "Run": row["command"] and f"`{row['command']}`",
    }  # fmt: skip
    first = f"{row['says'][0].upper()}{row['says'][1:]} ({row['where']})."
    return [first, *(f"{head}: {text}." for head, text in shown.items() if text)]


def page(rows: list[dict]) -> str:
    """Return LEDGER.md: every claim in its group, in a narrow table, and folded below it what each row says beyond."""
    parts = [
        "# The ledger of claims",
        f"{sentence(rows)} {ledger.chance_line(rows)}",
        "*Cannot exclude*: neighbours whose mean our interval also holds, or differences too small for our runs to "
        "see. *Holds in*: the fraction of specifications, all open choices crossed, in which the claim holds by the "
        "first rule. The book's page *The ledger of claims* says how a claim is judged.",
    ]
    told = answers(rows)
    rest = [row for row in rows if not any(row in answer.rows for answer in told)]
    for title, here in [*((answer.group.title, answer.rows) for answer in told), *([("Others", rest)] if rest else [])]:
        lines = [f"- **{row['id']}** {' '.join(details(row))}" for row in here]
        folded = ["<details><summary>Each claim in full</summary>", "\n".join(lines), "</details>"]
        parts += [f"## {title}", claims_table(here, rows), *folded]
    return "\n\n".join(parts) + "\n"


def readme_with(text: str) -> str:
    """Return README's text with *text* between its two marks."""
    readme = README.read_text(encoding="utf-8")
    start, end = MARKS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"{README} must hold each of these lines once: {start} and {end}")
    before, rest = readme.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def readme_text(rows: list[dict]) -> str:
    """Return what README has between its marks: how many claims have which verdict, and the seven rows."""
    return f"{sentence(rows)}\n\n{table(rows)}"


def publish() -> list[str]:
    """Write the seven rows into README, if there is one, and the ledger beside it; say so."""
    if not README.exists():
        return []
    rows = ledger.ledger()
    save_bytes(readme_with(readme_text(rows)).encode(), README)
    save_bytes(page(rows).encode(), PAGE)
    return [f"wrote {README}", f"wrote {PAGE}"]
