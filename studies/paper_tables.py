"""
The tables of the paper's body, for whoever holds them: every number in data/paper/table-N.csv becomes a claim.

Each table has its columns, in any order; data/paper/templates has one of each to begin with. A row without a value is
not filled in yet. A column ``id`` may name a claim of the abstract, which then says what the number is of.
"""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import measures, specs, stopping
from .formats import DATASETS, level
from .published import name_of
from .specs import FLOAT

_QUANTILES = {"": (0.5, "median"), "_95": (0.95, "95th percentile")}  # by what a measure's name ends in
_LOCAL = {f"{name}{end}": name for name in ("displacement", "radius", "normal_variation") for end in _QUANTILES}
_SLICES = ("boundary_jaccard", "grid_change", "junctions")  # on the first grid of the baseline
_COMMON = (
    "accuracy", "flip_rate", "band_flip_rate", "pair_order_flip_rate", "band_pair_order_flip_rate", *_SLICES,
    "displacement", "displacement_95",
)  # fmt: skip
_LEVELS = (*_COMMON, "accuracy_lost")
_AWARE = "boundary-aware"  # by Jaccard, at a limit that is not said
RULES = ("accuracy", _AWARE, "jaccard")
METHODS = ("float", "nearest", "layers", "logits", "gap")  # "gap": of the weight η that calibration data pick


class Form(NamedTuple):
    """What a table holds: its study and data sets, its measures, and its columns beside ``id``."""

    study: str
    datasets: tuple[str, ...]
    measures: tuple[str, ...]
    columns: tuple[str, ...]


_NUMBER = ("measure", "value", "seeds")  # columns that every table needs
_CHOICE = ("rule", "limit", "bits", "split", *_NUMBER)
_JUNCTIONS = ("junction_union", "junction_union_changed", "changed_cells", "share_near")
FORMS = {
    1: Form("levels", ("digits",), (*_LEVELS, *list(_LOCAL)[2:]), ("bits", *_NUMBER)),
    2: Form("levels", ("digits",), _JUNCTIONS, ("transition", *_NUMBER)),
    3: Form("stopping", ("digits", "mnist", "fashion-mnist"), (*_LEVELS, "chosen_bits"), ("dataset", *_CHOICE)),
    4: Form("stopping", ("cifar-10",), (*_LEVELS, "chosen_bits"), _CHOICE),
    5: Form("stopping", ("full-cifar-10",), _LEVELS, ("bits", "split", *_NUMBER)),
    6: Form(
        "rounding", ("full-cifar-10", "digits", "mnist", "fashion-mnist", "cifar-10"), _COMMON,
        ("dataset", "bits", "method", "split", *_NUMBER),
    ),
}  # fmt: skip


def claims(folder: str | Path, abstract: list[dict]) -> list[dict]:
    """
    Return a claim, in the form of data/claims.yml, for each number in the tables in *folder*; none without tables.

    *abstract* are the claims of the abstract. A claim's id names table and line: T1.5 is line 5 of table-1.csv.
    """
    names, found = {f"table-{number}.csv": number for number in FORMS}, []
    for path in sorted(Path(folder).glob("*.csv")):
        if path.name not in names:
            raise ValueError(f"{path} is no table of the paper: name it one of {', '.join(names)}.")
        found += _table(path, names[path.name], {claim["id"]: claim for claim in abstract})
    return found


def _table(path: Path, number: int, abstract: dict[str, dict]) -> list[dict]:
    form, out, seen = FORMS[number], [], {}
    for line, cells in _lines(path, form):
        try:
            claim = _repeated(cells, abstract) if cells["id"] else _claim(form, cells)
            place = repr({key: claim.get(key) for key in ("kind", "from", "select", "of")})
            if place in seen and "at_any" not in claim:  # of transitions that are not said there may be several
                raise ValueError(f"it says again what line {seen[place]} says: leave one of them out.")
            seen[place] = line
            if cells["value"]:
                claim |= {"id": f"T{number}.{line}", "where": f"Table {number}", "first_rule": None}
                claim["reported"] = _value(claim, cells["value"])
                out.append(claim if claim["kind"] == "correlation" else claim | {"means_of": _count(cells["seeds"])})
        except ValueError as error:
            raise ValueError(f"{path}: line {line}, {error}") from None
    return out + _together(out)


def _together(claims: list[dict]) -> list[dict]:
    """Return a joint claim for each data set with several numbers at a limit that is not said: one limit gives all."""
    unsaid = [claim for claim in claims if claim.get("select", {}).get("limit") == "usual"]
    out = []
    for name in dict.fromkeys(claim["from"] for claim in unsaid):
        members = [claim for claim in unsaid if claim["from"] == name]
        ids = [claim["id"] for claim in members]
        if len(ids) > 1:
            out.append({
                "id": "+".join(ids), "says": "after boundary-aware stopping, all at one limit", "reported": "joint",
                "kind": "joint", "from": name, "together": ids, "over": "limits", "first_rule": None,
                "dataset": members[0]["dataset"], "where": members[0]["where"],
            })  # fmt: skip
    return out


def _lines(path: Path, form: Form) -> list[tuple[int, dict[str, str]]]:
    """Return the cells of each row by column, with its line in the file; a column that is left out is empty."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:  # as spreadsheets write it
        reader = csv.reader(file)
        head = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if "".join(row).strip()]
    allowed = f"the columns are {', '.join(form.columns)} and, where wanted, id, with commas between them"
    empty = dict.fromkeys(("id", *form.columns), "")
    for name in head:
        if name not in empty:
            raise ValueError(f"{path}: line 1, column {name!r} is not known: {allowed}.")
        if head.count(name) > 1:
            raise ValueError(f"{path}: line 1, column {name!r} stands twice: {allowed}.")
    for name in _NUMBER:
        if name not in head:
            raise ValueError(f"{path}: line 1, column {name!r} is missing: {allowed}.")
    for line, row in rows:
        if len(row) != len(head):
            fault = f"{len(row)} cells for {len(head)} columns"
            raise ValueError(f"{path}: line {line} has {fault}: separate cells by commas, and decimals by a point.")
    return [(line, empty | dict(zip(head, row))) for line, row in rows]


def _repeated(cells: dict[str, str], abstract: dict[str, dict]) -> dict:
    """Return the claim of the abstract that a row names, which says all but the number."""
    known = [name for name, claim in abstract.items() if claim["kind"] in ("value", "correlation") and "from" in claim]
    claim = dict(abstract[_one(cells, "id", known)])
    for column in cells:
        if column not in ("id", "value", "seeds"):
            _empty(cells, column, f"{claim['id']} says what the value is of")
    return claim


def _claim(form: Form, cells: dict[str, str]) -> dict:
    """Return the claim that a row makes, but for its id and its number."""
    dataset = _one(cells, "dataset", form.datasets) if "dataset" in cells else form.datasets[0]
    spec = specs.baseline(form.study, dataset)
    name = _one(cells, "measure", form.measures)
    measure = _LOCAL.get(name, name)
    select: dict = {"measure": measure}
    if name in _LOCAL:
        select["quantile"] = _QUANTILES[name.removeprefix(measure)][0]
    if measure in _SLICES:
        select["nodes"] = spec.nodes[0]
    if "split" in cells and measure != "chosen_bits":
        select["split"] = _one(cells, "split", measures.SPLITS, usual="held-out")
    if "method" in cells:
        select["method"] = _one(cells, "method", METHODS)
    place = _transition if "transition" in cells else _chosen if cells.get("rule") else _at_bits
    claim = {"dataset": DATASETS.get(dataset, dataset), "kind": "value", "from": name_of(spec)}
    claim["span"] = "method" if "method" in cells else "bits"
    claim |= place(select, spec, cells)
    return claim | {"says": _says(claim)}


def _transition(select: dict, spec: specs.Levels, cells: dict[str, str]) -> dict:
    known = {f"{first}-{second}": f"{first}→{second}" for first, second in zip(spec.bits, spec.bits[1:])}
    if not cells["transition"]:  # which one is not said: any of them may be meant
        return {"select": select, "span": "transition", "at_any": "transition"}
    return {"select": select | {"transition": known[_one(cells, "transition", known)]}, "span": "transition"}


def _chosen(select: dict, spec: specs.Stopping, cells: dict[str, str]) -> dict:
    rule = _one(cells, "rule", RULES)
    _empty(cells, "bits", "the rule chooses them")
    if cells["measure"] == "accuracy_lost":
        _empty(cells, "rule", "accuracy is lost at a number of bits, which column bits gives")
    if rule == _AWARE:
        _empty(cells, "limit", "the rule with a limit is jaccard")
        return {"select": select | {"rule": "jaccard", "limit": "usual"}}
    limits = {f"{limit:g}": limit for limit in stopping.LIMITS[rule]}
    limit = limits[_one(cells, "limit", limits, usual="0" if rule == "accuracy" else None)]
    return {"select": select | {"rule": rule, "limit": limit}}


def _at_bits(select: dict, spec: specs.Stopping, cells: dict[str, str]) -> dict:
    if cells["measure"] == "chosen_bits":
        _one(cells, "rule", RULES)  # which is empty
    _empty(cells, "limit", "a limit belongs to a rule")
    lost = cells["measure"] == "accuracy_lost"
    known = {str(bits): bits for bits in spec.bits}
    if not lost and "method" not in cells:
        known["float"] = FLOAT
    bits = known[_one(cells, "bits", known)]
    return {"select": select | ({"measure": "accuracy", "bits": FLOAT, "less_bits": bits} if lost else {"bits": bits})}


def _says(claim: dict) -> str:
    """Return what a claim is of, in words, from what it selects."""
    select = claim["select"]
    parts = [_about(select["measure"])[0] + (" lost" if "less_bits" in select else "")]
    if "quantile" in select:
        parts.append(dict(_QUANTILES.values())[select["quantile"]])
    parts += [select[key] for key in ("transition", "method") if key in select]
    if "bits" in select:
        parts.append(level(select.get("less_bits", select["bits"])))
    elif "rule" in select:
        stop = "after boundary-aware stopping" if select["rule"] == "jaccard" else "chosen by accuracy"
        parts.append(stop if select["limit"] in ("usual", 0) else f"{stop} at {select['limit']:g}")
    return ", ".join([*parts, *([f"{select['split']} inputs"] if "split" in select else [])])


def _about(measure: str) -> tuple[str, str]:
    """Return the name and the unit of a measure."""
    return measures.LONG_NAMES.get(measure, ("bits", "bit"))


def _one(cells: dict[str, str], column: str, allowed: Iterable[str], usual: str | None = None) -> str:
    """Return what a cell says, one of *allowed*, or *usual* where it is empty and that is given."""
    text = cells[column] or usual
    if text not in (allowed := list(allowed)):
        fault = f": {text!r} is none of" if text else " is empty: write one of"
        raise ValueError(f"column {column}{fault} {', '.join(allowed)}.")
    return text


def _empty(cells: dict[str, str], column: str, reason: str) -> None:
    if cells.get(column):
        raise ValueError(f"column {column}: {cells[column]!r} is too much, since {reason}: leave it empty.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"column seeds: {text!r} is no count: write how many runs the value is the mean of.")
    return int(text)


def _value(claim: dict, text: str) -> float:
    """Return the number in a cell; refuse one that its measure cannot be, such as percent."""
    measure = claim.get("select", {}).get("measure", "")
    signed = claim["kind"] == "correlation" or "less_bits" in claim["select"]
    fraction = signed or measure == "boundary_jaccard" or _about(measure)[1].startswith("fraction")
    low, high = -1 if signed else 0, 1 if fraction else math.inf
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"column value: {text!r} is no number: write it as 0.0290, or leave it empty.") from None
    if not (low <= value <= high and math.isfinite(value)):
        known = f"from {low} to 1, percent as a fraction" if fraction else "a finite number of at least 0"
        raise ValueError(f"column value: {text} cannot be: {_about(measure)[0]} is {known}.")
    return value
