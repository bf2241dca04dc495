"""
Numbers and verdicts in pages, read from result files while the book is built, so that none is typed.

    {value}`digits_levels boundary_jaccard bits=8 nodes=201 median .3f`
        a variable of data/results/digits_levels.nc at these coordinates, reduced over what is left (median, mean, min,
        max, std, sum, count, or a percentile such as q2.5) and formatted; one number alone needs no reduction, and a
        coordinate with a blank in it stands in quotation marks, as "method=mse, step"
    {value}`digits_levels @command`  {value}`digits_levels boundary_jaccard @units`
        an attribute of the file or of a variable
    {claim}`D2 low`  {claim}`D2 low .2f`  {claim}`D2 verdict`  {claim}`D3 held`
        a field of a row of the ledger; of neighbours, their names
    {parameters} levels digits, a directive
        the parameters of the runs of a study on a data set as a table, as studies.specs knows them
    {times} and {growth-table}, directives
        what the paper's own runs took, and how the time of the library's functions grows, as tables
    {setup} digits, a directive
        the setup of a data set as a table, beside what the abstract says of it; {deviations}: the log of deviations
    {notebooks}, a directive
        the parameters of every notebook as tables, from its cells tagged `parameters`: a comment behind a parameter
        says what it means, and after "; cost: " what it costs

What is not there is an error with its page and line, which `make book` does not let pass.
"""

import functools
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

REDUCTIONS = {"median": np.median, "mean": np.mean, "min": np.min, "max": np.max, "std": np.std, "sum": np.sum}
REDUCTIONS["count"] = np.size
VERDICTS = ("reproduced", "compatible", "not reproduced", "no difference seen", "opposite", "inconclusive")
VERDICTS += ("not attempted",)
logger = logging.getLogger(__name__)


@functools.cache
def load(path: Path) -> xr.Dataset:
    """Load a result file, once for all pages."""
    from bqcore._store import load_dataset

    return load_dataset(path)


@functools.cache
def ledger() -> list[dict]:
    """Return the ledger, once for all pages."""
    from studies import ledger

    return ledger.kept()


def pick(things, key, what: str):
    """Return things[key], or say which keys there are."""
    if key not in things:
        raise ValueError(f"there is no {what} {key!r}, there is {', '.join(map(str, things)) or 'none at all'}")
    return things[key]


def formatted(number, form: str) -> str:
    """Format a number; text stays as it is, and what is missing is a dash."""
    if not isinstance(number, int | float) or isinstance(number, bool):
        return "–" if number is None else str(number)
    if number != number:
        raise ValueError("the number is undefined (NaN)")
    try:
        return format(int(number) if form.endswith("d") and number == int(number) else number, form).replace("-", "−")
    except ValueError:
        known = f"a reduction ({', '.join(REDUCTIONS)}, q2.5)"
        raise ValueError(f"{form!r} is neither name=value nor {known} nor a format for {number}") from None


def select(array: xr.DataArray, name: str, text: str) -> xr.DataArray:
    """Select one coordinate value that is given as text."""
    values = pick({str(d): array[d].values.tolist() for d in array.dims if d in array.coords}, name, "coordinate")
    known = {f"{v:g}" if isinstance(v, float) else str(v): index for index, v in enumerate(values)}
    return array.isel({name: pick(known, text, name)})


def value(text: str, results: Path) -> str:
    """Return what {value}`text` stands for; raise ValueError if a part of it is not there."""
    file, *words = shlex.split(text)
    owner = load(pick({path.stem: path for path in sorted(results.glob("*.nc"))}, file, "result file"))
    if words and not words[0].startswith("@"):
        owner = pick({str(name): owner[name] for name in owner.data_vars}, words.pop(0), "variable")
    number, form = None, ""
    for word in words:
        name, equals, coordinate = word.partition("=")
        if word.startswith("@"):
            return str(pick(owner.attrs, word[1:], "attribute"))
        if equals:
            owner = select(owner, name, coordinate)
        elif re.fullmatch(r"q\d+(\.\d+)?", word):
            number = np.percentile(owner.values, float(word[1:])).item()
        elif word in REDUCTIONS:
            number = np.asarray(REDUCTIONS[word](owner.values)).item()
        else:
            form = word
    if isinstance(owner, xr.Dataset):
        raise ValueError("it names no variable")
    if number is None and owner.size != 1:
        raise ValueError(f"{owner.size} numbers are left over {', '.join(map(str, owner.dims))}: select or reduce them")
    return formatted(owner.values.item() if number is None else number, form)


def claim(text: str, rows: list[dict]) -> str:
    """Return what {claim}`text` stands for; raise ValueError if a part of it is not there."""
    from studies import ledger

    key, field, form, *_ = [*text.split(), ".4g", ""] if len(text.split()) > 1 else [text, "", ""]
    found = pick(pick({row["id"]: row for row in rows}, key, "claim"), field, "field")
    return ledger.named(list(found)) or "none" if isinstance(found, dict) else formatted(found, form)


def badge(verdict: str) -> nodes.inline:
    """Return a verdict with the class that colours it."""
    return nodes.inline("", verdict, classes=["verdict", "verdict-" + verdict.replace(" ", "-")])


def refill(entry: nodes.entry, *parts: nodes.Node) -> None:
    """Write other words into a cell of a table."""
    entry.clear()
    entry += nodes.paragraph("", "", *parts)


class Value(SphinxRole):
    """The role {value}."""

    def text_of(self) -> str:
        """Return the text to show; raise ValueError if there is none."""
        results = Path(self.env.srcdir, "data", "results")
        self.env.note_dependency(str(results / f"{self.text.split()[0]}.nc"))
        return value(self.text, results)

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Insert the text into the page."""
        try:
            text = self.text_of()
        except (ValueError, OSError) as error:
            logger.error("{%s}`%s`: %s.", self.name, self.text, str(error).rstrip("."), location=self.get_location())
            text = "?"
        if self.text.endswith("@command"):  # to be copied: no typographic quotes
            return [nodes.literal(text, text)], []
        return [badge(text) if text in VERDICTS else nodes.Text(text)], []


class Claim(Value):
    """The role {claim}."""

    def text_of(self) -> str:
        """Return the text to show; raise ValueError if there is none."""
        note_ledger(self.env)
        return claim(self.text, ledger())


class Notebooks(SphinxDirective):
    """The directive {notebooks}."""

    def run(self) -> list[nodes.Node]:
        """Insert the tables into the page, each below the title of its chapter."""
        lines = []
        for path in sorted(Path(self.env.srcdir, "notebooks").glob("[0-9][0-9]_*.py")):
            self.env.note_dependency(str(path))
            rows = notebook_parameters(path)
            lines += ["", f"**{path.stem}**, {{doc}}`/notebooks/executed/{path.stem}`" + ("" if rows else ": none")]
            if rows:
                lines += ["", "| name | type | default | meaning | cost |", "| --- | --- | --- | --- | --- |"]
                lines += ["| " + " | ".join(row) + " |" for row in rows]
        return [table_of(self, "\n".join(lines), "parameters")]


def notebook_parameters(path: Path) -> list[tuple[str, str, str, str, str]]:
    """Return name, type, default, meaning and cost of a notebook's parameters; the last two are in their comments."""
    import execute
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    rows = []
    for (name, default), found in zip(execute.declared(notebook).items(), execute.inspected(notebook)):
        meaning, _, cost = found.help.replace("|", "\\|").partition("; cost: ")
        meaning = re.sub(r"2\^b", "$2^b$", meaning)
        rows.append((f"`{name}`", execute.kind(default), f"`{json.dumps(default)}`", meaning, cost or "–"))
    return rows


class Parameters(SphinxDirective):
    """The directive {parameters}."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Insert the table into the page."""
        from studies import specs

        self.env.note_dependency(specs.__file__)
        known = specs.parameters(specs.baseline(*self.arguments))
        lines = ["| name | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{name}` | {kind} | `{default}` | {says} |" for name, kind, default, says in known]
        return [table_of(self, "\n".join(lines), "parameters")]


class Times(SphinxDirective):
    """The directives {times} and {growth-table}."""

    def run(self) -> list[nodes.Node]:
        """Insert the table into the page."""
        from studies import published, times

        tables = {"times": (published.TIMES, times.table), "growth-table": (published.GROWTH, times.growth_table)}
        file, table = tables[self.name]
        path = Path(self.env.srcdir, "data", "results", file)
        self.env.note_dependency(str(path))
        return [table_of(self, table(load(path)), "times")]


class Setup(SphinxDirective):
    """The directive {setup}."""

    required_arguments = 1

    def written(self) -> str:
        """Return the table in Markdown."""
        from studies.figures import setup

        return setup.text(self.arguments[0])

    def run(self) -> list[nodes.Node]:
        """Insert the table into the page."""
        from studies import specs
        from studies.figures import setup

        for path in (specs.__file__, setup.__file__, setup.STATED, setup.DEVIATIONS):
            self.env.note_dependency(str(Path(self.env.srcdir, path)))
        return [table_of(self, self.written(), "setup")]


class Deviations(Setup):
    """The directive {deviations}."""

    required_arguments = 0

    def written(self) -> str:
        """Return the log in Markdown."""
        from studies.figures import setup

        return setup.deviations_text()


def table_of(directive: SphinxDirective, markdown: str, name: str) -> nodes.container:
    """Return a Markdown table as nodes, in a container of the class *name*."""
    table = nodes.container(classes=[name])
    lines = StringList(markdown.strip().splitlines(), source=directive.get_source_info()[0])
    directive.state.nested_parse(lines, directive.content_offset, table)
    return table


def note_ledger(env) -> None:
    """Rebuild this page when a claim or a published result changes."""
    data = Path(env.srcdir, "data")
    written = [data / "claims.yml", data / "predictions.yml", *sorted(data.glob("paper/*.csv"))]
    for path in [*written, *sorted(data.glob("results/*.nc"))]:
        env.note_dependency(str(path))


def setup(app: Sphinx) -> dict:
    """Register the roles and the directive."""
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "notebooks")]  # bqcore, also where it is not installed; execute.py
    app.add_role("value", Value())
    app.add_role("claim", Claim())
    app.add_directive("parameters", Parameters)
    app.add_directive("notebooks", Notebooks)
    app.add_directive("setup", Setup)
    app.add_directive("deviations", Deviations)
    app.add_directive("times", Times)
    app.add_directive("growth-table", Times)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
