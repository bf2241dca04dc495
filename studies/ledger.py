"""The ledger: every claim of the paper against our runs, judged by the rule that data/claims.yml states."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import scipy

from bqcore._store import digest, package_versions, save_bytes

from . import explanations, first_rule, joint, provenance, verdicts
from .claims import CLAIMS, SCHEMA, Results, load_claims
from .formats import Ends, brief, interval, number, percent, signed
from .multiverse import cifar_claims
from .published import MULTIVERSES, PUBLISHED, READINGS, load_published

FIELDS = (
    "id", "dataset", "where", "says", "kind", "reported", "short", "estimate", "low", "high", "values", "runs",
    "verdict", "first_verdict", "excluded", "held", "detectable", "bound", "equivalent", "note", "together",
    "multiverse", "explanation", "command",
)  # fmt: skip
SIGNED = ("direction", "no gain", "reduction")  # kinds of claims about differences
_JUDGES = {
    "value": verdicts.judge_value, "reduction": verdicts.judge_reduction, "direction": verdicts.judge_direction,
    "no gain": verdicts.judge_direction, "correlation": verdicts.judge_correlation,
}  # fmt: skip


def ledger(
    path: str | Path = CLAIMS, results: str | Path = PUBLISHED, predictions: str | Path = explanations.PREDICTIONS
) -> list[dict]:
    """
    Judge every claim by the result files in *results*, which must be whole and of the baseline.

    A row has the keys of :data:`FIELDS`, None where there is nothing. ``excluded`` and ``held`` are the means of the
    neighbours that our interval excludes and holds. ``multiverse`` is the fraction of specifications in which the claim
    holds by the first rule, and ``explanation`` names the entries of *predictions* (data/predictions.yml by default)
    that explain it. No verdict depends on these two. ``together`` has our middle for each claim that is judged with it.
    """
    rule, claims = load_claims(path)
    rows = _with_multiverse(_judged(claims, rule, path, results), claims, rule, results)
    return _explained(rows, results, predictions, path)


def kept(results: str | Path = PUBLISHED, folder: str | Path = ".cache") -> list[dict]:
    """
    Return :func:`ledger` of *results*, which a file in *folder* keeps until anything changes that it follows from.

    It follows from our code, versions of packages, what the paper says, the predictions, and the files in *results*.
    """
    behind = [CLAIMS, SCHEMA, explanations.PREDICTIONS, *CLAIMS.parent.glob("paper/*"), *Path(results).glob("*")]
    behind += [path for package in ("bqcore", "studies") for path in provenance.ROOT.glob(f"{package}/**/*.py")]
    digests = {str(path): digest(path) for path in sorted(behind) if path.is_file()}
    state, path = provenance.key(package_versions() | digests), Path(folder, "ledger.json")
    with suppress(OSError, ValueError):  # none, or damaged
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["state"] == state:
            return found["rows"]
    rows = ledger(results=results)
    with suppress(OSError):  # a folder to read only
        save_bytes(json.dumps({"state": state, "rows": rows}).encode(), path)
    return rows


def _judged(claims: list[dict], rule: dict, path: str | Path, results: str | Path) -> list[dict]:
    """Judge claims: rows of :func:`ledger` without its last two columns; ``values`` are our runs, one a seed."""
    files, rows = Results(results), {}
    for claim in sorted(claims, key=lambda claim: "together" in claim):  # what is judged together after its parts
        row = dict.fromkeys(FIELDS) | {key: claim[key] for key in FIELDS[:6]}
        row["short"] = claim.get("short", claim["says"])
        if "not_attempted" in claim:
            rows[claim["id"]] = row | {"verdict": "not attempted"}
            continue
        names = [claim["from"]] if isinstance(claim["from"], str) else claim["from"]
        runs = files.load(names[0])
        row |= {"command": runs.attrs["command"], "runs": runs.sizes["seed"]}
        try:
            if claim["kind"] == "joint":
                row |= joint.judge_joint(claim, claims, rows, files, rule)
            else:
                row |= _JUDGES[claim["kind"]](claim, files, rule)
            row["first_verdict"] = first_rule.verdict(claim, claims, files, rule)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: claim {claim['id']} cannot be judged from {names[0]}: {error}") from error
        rows[claim["id"]] = row
    return [rows[claim["id"]] for claim in claims]


def _with_multiverse(rows: list[dict], claims: list[dict], rule: dict, results: str | Path) -> list[dict]:
    """Add the fraction of specifications in which each claim holds, in the multiverses that have it."""
    attempted = [claim for claim in claims if "not_attempted" not in claim]
    there = [name for name in (*MULTIVERSES.values(), *READINGS) if (Path(results) / name).exists()]
    judged = [cifar_claims.judge(load_published(name, results), attempted, rule) for name in there]
    holds = cifar_claims.shares(judged, attempted)
    return [row | {"multiverse": holds.get(row["id"])} for row in rows]


def _explained(rows: list[dict], results: str | Path, predictions: str | Path, claims: str | Path) -> list[dict]:
    """
    Add the surviving explanations of each claim, of a joint one those of its parts if all have one; what is neither
    explained nor reproduced is "unexplained".
    """
    found = {}
    if explanations.testable(rows, results, predictions):
        found = explanations.of_claims(explanations.tested(rows, results, predictions, claims))
    out = []
    for row in rows:
        parts = [found.get(name, "") for name in row["together"] or [row["id"]]]
        settled = row["verdict"] in ("reproduced", "not attempted")
        names = ", ".join(dict.fromkeys(parts)) if all(parts) else ""
        out.append(row | {"explanation": names or ("" if settled else "unexplained")})
    return out


def reported(path: str | Path = CLAIMS) -> dict[str, float | str]:
    """Return what the paper reports, by claim."""
    return {claim["id"]: claim["reported"] for claim in load_claims(path)[1]}


def reported_values(path: str | Path = CLAIMS) -> dict[tuple[str, int], float]:
    """Return the paper's single numbers on the digits levels by measure and bits, for figures."""
    return {
        (claim["select"]["measure"], claim["select"]["bits"]): claim["reported"]
        for claim in load_claims(path)[1]
        if "bits" in claim.get("select", {}) and claim["from"] == "digits_levels.nc"
    }


class ByChance(NamedTuple):
    """How many of so many single numbers would be outside their intervals if all came from runs like ours."""

    numbers: int
    expected: float
    at_most: int  # with a probability of 95 %
    outside: int


def by_chance(rows: list[dict], level: float = 0.95) -> ByChance:
    """
    Count the single numbers that are outside, and how many would be by chance, as a binomial count.

    Numbers of one run depend on each other, which moves the count's spread, not its expectation.
    """
    verdicts_found = [row["verdict"] for row in rows if row["kind"] in ("value", "reduction")]
    numbers = len(verdicts_found) - verdicts_found.count("not attempted")
    most = scipy.stats.binom.ppf(0.95, numbers, 1 - level)
    return ByChance(numbers, numbers * (1 - level), int(most), verdicts_found.count("not reproduced"))


def chance_line(rows: list[dict]) -> str:
    """Say in a sentence what :func:`by_chance` counts."""
    found = by_chance(rows)
    return (
        f"Of {found.numbers} single numbers, {brief(found.expected, '.1f')} would be outside by chance if all were of "
        f"runs like ours, and with a probability of 95 % at most {found.at_most}; {found.outside} are."
    )


_MOST_NAMES = 6


def paper_says(row: dict) -> str:
    """Return what the paper reports of a row, in few words where it has no number."""
    known = {"direction": "above 0", "no gain": "no gain", "joint": "no gain"}
    return (
        brief(row["reported"]) if isinstance(row["reported"], int | float) else known.get(row["kind"], row["reported"])
    )


def named(names) -> str:
    """
    Write neighbours as a list; bit-widths share the word, and triples of transitions are counted, as are more than six.

    >>> named(["8 bits", "7 bits", "by accuracy"]), named(["triple 8→7, 7→6, 6→5"] * 9), named("abcdefgh")
    ('8, 7 bits, by accuracy', '9 triples', 'a, b, c, d, e, f and 2 more')
    """
    bits = [name.removesuffix(" bits") for name in names if name.endswith(" bits")]
    triples = [name for name in names if name.startswith("triple ")]
    rest = [name for name in names if not name.endswith(" bits") and name not in triples]
    words = [*([f"{', '.join(bits)} bits"] if bits else []), *([f"{len(triples)} triples"] if triples else [])]
    more = f" and {len(rest) - _MOST_NAMES} more" if len(rest) > _MOST_NAMES else ""
    return ", ".join([*words, *rest[:_MOST_NAMES]]) + more


def told_apart(row: dict) -> str:
    """Say which neighbours a row's interval excludes and which it holds, and what difference the seeds could see."""
    sides = (("not from", row["held"]), ("from", row["excluded"]))
    parts = [f"{word} {named(list(side))}" for word, side in sides if side]
    if row["detectable"] is not None:
        within = "within" if row["equivalent"] else "not shown to be within"
        parts += [f"sees {number(row['detectable'], '.2g')} or more", f"{within} ±{number(row['bound'], '.2g')}"]
    return "; ".join(parts)


def table(rows: list[dict], *, padded: bool = True) -> str:
    """Return the ledger as a Markdown table; *padded*, its columns also line up in a terminal."""
    head = ("claim", "paper", "ours, 95 % interval", "verdict", "what it tells apart", "multiverse", "first verdict")
    known = {row["id"]: row for row in rows}
    body = [head, *(_cells(row, known) for row in rows)]
    widths = [max(len(line[i]) for line in body) if padded else 0 for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in body]
    rule = " | ".join("-" * max(3, width) for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def _cells(row: dict, known: dict[str, dict]) -> tuple[str, ...]:
    """Return a row's cells; claims judged together show the numbers of those of them that are *known*."""
    parts = {name: ours for name, ours in (row["together"] or {}).items() if ours is not None and name in known}
    paper = ", ".join(brief(known[name]["reported"]) for name in parts) or brief(row["reported"])
    ours = ", ".join(number(estimate, ".3g") for estimate in parts.values())
    if row["estimate"] is not None:
        write = signed if row["kind"] in SIGNED else number
        ours = interval(Ends(row["estimate"], row["low"], row["high"]), ".3g", write)
    agrees = row["verdict"] == "compatible" and row["explanation"] == "unexplained"
    why = "" if agrees else row["explanation"]
    return (
        f"{row['id']} ({row['dataset']}): {row['says']}" + (f" (ours {row['note']})" if row["note"] else ""),
        paper, ours, row["verdict"] + (f" ({why})" if why else ""), told_apart(row),
        percent(row["multiverse"], 1) if row["multiverse"] is not None else "", row["first_verdict"] or "",
    )  # fmt: skip


def runs_table(rows: list[dict]) -> str:
    """Return a Markdown table of the commands whose runs judge the claims."""
    commands = dict.fromkeys(row["command"] for row in rows if row["command"])
    of_each = {one: ", ".join(row["id"] for row in rows if row["command"] == one) for one in commands}
    return "\n".join(
        ["| run | claims |", "| --- | --- |", *(f"| `{one}` | {names} |" for one, names in of_each.items())]
    )


def counts_table(rows: list[dict]) -> str:
    """Return a Markdown table of how many claims have each verdict, by this rule and by the first one."""
    names = dict.fromkeys([*verdicts.VERDICTS, *reversed(first_rule.VERDICTS)])
    by_rule = [[row[field] for row in rows] for field in ("verdict", "first_verdict")]
    lines = ["| verdict | by the rule | by the first rule |", "| --- | --- | --- |"]
    counts = {name: [one.count(name) for one in by_rule] for name in names}
    return "\n".join([*lines, *(f"| {name} | {a or ''} | {b or ''} |" for name, (a, b) in counts.items() if a or b)])


def as_csv(rows: list[dict]) -> str:
    """Return the ledger in full as CSV, a line for each row; what is a list or has names is written as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = {
            key: json.dumps(value, ensure_ascii=False) for key, value in row.items() if isinstance(value, list | dict)
        }
        writer.writerow(row | plain)
    return text.getvalue()
