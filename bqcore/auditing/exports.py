"""What an audit found, for the places where people work: notebooks, data frames, pipelines and pull requests."""

import re
import xml.etree.ElementTree as ET

import numpy as np

from .limits import TITLES, exceeded
from .streaming import RATES
from .verdict import LISTED

TABLES = ("rates", "flips", "pairs")
_MARKS = {"ship": "✅", "look": "⚠️", "do not ship": "❌"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def frame(found, of: str = "rates"):
    """
    Return a pandas table of an audit: its rates by split, the flipped samples, or the pairs of classes that moved.

    Rates are in [0, 1], each with its count and its 95 % interval. Classes are numbers of columns, or the names that an
    estimator has for them.
    """
    import pandas as pd  # which xarray brings

    from .._checks import check_choice

    ds = found.dataset
    if check_choice("Table", of, TABLES) != "rates":
        start, dim = {"flips": ("flipped_", "flip"), "pairs": ("pair_", "pair")}[of]
        columns = {name.removeprefix(start): ds[name].values for name in ds.data_vars if ds[name].dims == (dim,)}
        if "class_name" in ds:  # −1 is a class that is not known
            names = np.array([*ds.class_name.values.tolist(), None], object)
            columns |= {key: names[columns[key]] for key in ("from", "to", "target") if key in columns}
        return pd.DataFrame(columns)
    rows = [
        {
            "split": split,
            "measure": name,
            "rate": float(part[name]),
            "count": int(part[f"{name}_events"]),
            "low": float(part[f"{name}_low"]),
            "high": float(part[f"{name}_high"]),
        }
        for split, part in ((split, ds.sel(split=split)) for split in ds.split.values.tolist())
        for name in RATES
        if np.isfinite(part[name])
    ]
    return pd.DataFrame(rows).set_index(["split", "measure"])


def failures(found) -> list[bool]:
    """Return for each judged limit whether it is shown to be exceeded, or is a stated one that was by the numbers."""
    stated = found.limits or {}
    over = {name for name, limit in stated.items() if exceeded(found.dataset, {name: limit})}
    return [one.outcome == "exceeded" or one.name in over for one in found.verdict.judged]


def junit(found) -> str:
    """Return an audit as JUnit XML: a test for each limit, failed if it is exceeded, skipped if that is open."""
    judged, failed = found.verdict.judged, failures(found)
    skipped = [one.outcome == "open" and not fails for one, fails in zip(judged, failed)]
    counts = {"tests": len(judged), "failures": sum(failed), "errors": 0, "skipped": sum(skipped)}
    given = {"name": "bqcore audit"} | {name: str(count) for name, count in counts.items()}
    suites = ET.Element("testsuites", given)
    suite = ET.SubElement(suites, "testsuite", given)
    for one, fails, skips, reason in zip(judged, failed, skipped, found.verdict.reasons):
        name = f"{TITLES[one.name]} at most {100 * one.limit:.3g} %"
        case = ET.SubElement(suite, "testcase", {"classname": "bqcore.audit", "name": name})
        if fails or skips:
            ET.SubElement(case, "failure" if fails else "skipped", {"message": _xml(reason)})
    ET.SubElement(suite, "system-out").text = _xml(str(found))
    ET.indent(suites)
    return ET.tostring(suites, encoding="utf-8", xml_declaration=True).decode() + "\n"


def annotations(found) -> str:
    """Return annotations of GitHub Actions: errors for exceeded limits, warnings for open ones, and the verdict."""
    lines = []
    for one, fails, reason in zip(found.verdict.judged, failures(found), found.verdict.reasons):
        if fails or one.outcome == "open":
            lines.append(f"::{'error' if fails else 'warning'} title=Audit::{_annotation(reason)}")
    lines.append(f"::notice title=Audit::{_annotation(f'{found.verdict.headline} {found.conclusion}')}")
    return "\n".join(lines)


def markdown(found) -> str:
    """Return an audit as Markdown for a pull request: verdict, limits, what to do next, and the notes folded."""
    verdict = found.verdict
    rows = [
        f"| {TITLES[one.name]} | {_percent(one.estimate)} | {_percent(one.low)} to {_percent(one.high)} "
        f"| {_percent(one.limit)} | {one.outcome} |"
        for one in verdict.judged
    ]
    more = verdict.reasons[len(verdict.judged) :]
    parts = [
        f"## {_MARKS[verdict.word]} {_escaped(verdict.headline)}",
        _escaped(found.conclusion),
        "\n".join(["| limit on | measured | bounds | limit | outcome |", "| --- | ---: | ---: | ---: | --- |", *rows]),
        "\n".join(f"- {_escaped(line[0].upper() + line[1:])}." for line in more),
        "\n".join(f"{number}. {_escaped(step)}" for number, step in enumerate(verdict.next_steps, 1)),
        _flips(found),
    ]
    if found.notes:
        notes = "\n".join(f"- {_escaped(note)}" for note in found.notes)
        parts.append(f"<details><summary>Notes: {len(found.notes)}</summary>\n\n{notes}\n\n</details>")
    return "\n\n".join(part for part in parts if part) + "\n"


def fragment(found) -> str:
    """Return an audit as a piece of HTML, in colours of its own, as a notebook shows it."""
    from .report import rendered

    rows = [[TITLES[one.name], list(map(_percent, one[1:5])), one.outcome] for one in found.verdict.judged]
    return rendered("result.html.jinja", {"found": found, "verdict": found.verdict, "rows": rows})


def _flips(found) -> str:
    """Return the first flipped samples by growing margin as a table, with how many there are."""
    flips = frame(found, "flips")
    if flips.empty:
        return ""
    names = flips["id" if "id" in flips else "sample"].head(LISTED)
    lines = [
        f"| {_escaped(str(name))} | {row.margin:.3g} | {_escaped(str(row['from']))} | {_escaped(str(row.to))} |"
        for name, (_, row) in zip(names, flips.iterrows())
    ]
    head = f"Of {len(flips)} changed decisions, those of lowest margin:\n"
    return "\n".join([head, "| sample | margin | from class | to class |", "| --- | ---: | ---: | ---: |", *lines])


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.3g} %"


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)


def _annotation(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped(text: str) -> str:
    """Return a text with what Markdown would read as a mark escaped, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#~@])", r"\\\1", " ".join(text.split()))
