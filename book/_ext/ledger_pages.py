"""
What pages show of the ledger: tables, the seven answers, verdicts as marks, each claim in full; figures of pages.

    {ledger}, a directive with the options :id:, :dataset:, :verdict: and :table:
        the ledger as a table: all of it, or the rows with these values (several with commas between); of a table of the
        paper that is not entered, nothing
    {ledger} details
        those rows in full, folded, each with the anchor that the marks lead to
    {ledger} answers  {ledger} tally  {ledger} counts  {ledger} chance  {ledger} runs  {ledger} file
        the seven rows of studies.answers; a mark for each verdict, by group; how many claims have each verdict; how
        many would fail by chance; the runs behind the claims; the whole ledger as CSV
    {strips} D1 D2
        a figure of these claims by studies.figures.strips, with the options of a figure and its caption below
    {growth}
        a figure of how the time of the library's functions grows, by studies.figures.growth, likewise
"""

import io
import posixpath
import re
import shutil
from html import escape
from pathlib import Path

import downloads
import results
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.directives.patches import Figure
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

DPI = 130  # as the notebooks' figures
KEPT = "_build/ledger"  # what is made while pages are read, which not every build does
TABLE = "ledger.csv"
MARKS = {
    "reproduced": "✓", "compatible": "≈", "not reproduced": "✗", "no difference seen": "=", "opposite": "⇄",
    "not attempted": "–",
}  # fmt: skip
logger = logging.getLogger(__name__)


class Ledger(SphinxDirective):
    """The directive {ledger}."""

    optional_arguments = 1
    option_spec = dict.fromkeys(("id", "dataset", "verdict", "table"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        """Insert what is asked for into the page."""
        results.note_ledger(self.env)
        shows = {
            "": self.table, "details": self.details, "tally": self.tally, "file": self.file, "answers": self.answers,
            "counts": self.counts, "chance": self.chance, "runs": self.runs,
        }  # fmt: skip
        try:
            show = results.pick(shows, self.arguments[0] if self.arguments else "", "part of the ledger")
            return show(self.rows())
        except (ValueError, OSError) as error:
            logger.error("{ledger}: %s.", str(error).rstrip("."), location=self.get_location())
            return []

    def rows(self) -> list[dict]:
        """Return the rows that the options name."""
        rows = results.ledger()
        if "table" in self.options:
            return [row for row in rows if row["where"] == f"Table {self.options['table']}"]
        for field in ("id", "dataset", "verdict"):
            wanted = re.split(r"\s*,\s*", self.options.get(field, "").strip())
            rows = [row for row in rows if field not in self.options or str(row[field]) in wanted]
        if not rows:
            raise ValueError(f"no claim has {self.options}")
        return rows

    def table(self, rows: list[dict]) -> list[nodes.Node]:
        """Return the table of some claims, its verdicts as badges; none for a table of the paper not entered."""
        from studies import answers

        if not rows:
            return []
        table = results.table_of(self, answers.claims_table(rows, results.ledger()), "ledger")
        for line in table.findall(nodes.row):
            verdict = line.children[4]
            if verdict.astext() in MARKS:
                results.refill(verdict, results.badge(verdict.astext()))
        return [table]

    def answers(self, rows: list[dict]) -> list[nodes.Node]:
        """Return the seven rows, with links to chapters."""
        from studies import answers

        return [results.table_of(self, answers.table(rows, linked=True), "answers")]

    def counts(self, rows: list[dict]) -> list[nodes.Node]:
        """Return how many claims have each verdict, by this rule and by the first."""
        from studies import ledger

        return [results.table_of(self, ledger.counts_table(rows), "ledger-summary")]

    def chance(self, rows: list[dict]) -> list[nodes.Node]:
        """Return how many would fail by chance."""
        from studies import ledger

        return [results.table_of(self, ledger.chance_line(rows), "ledger-summary")]

    def runs(self, rows: list[dict]) -> list[nodes.Node]:
        """Return the runs behind the claims."""
        from studies import ledger

        return [results.table_of(self, ledger.runs_table(rows), "ledger-summary")]

    def details(self, rows: list[dict]) -> list[nodes.Node]:
        """Return claims in full, folded; each has an anchor, which unfolds them when it is led to."""
        from studies import answers

        lines = []
        for row in rows:
            first, *rest = answers.details(row)
            lines += [f"**{row['id']}** {first}", "", *(f"- {text}" for text in rest), ""]
        found = results.table_of(self, "\n".join(lines), "claims-in-full")
        claims = iter(rows)
        for node in list(found.children):
            if isinstance(node, nodes.paragraph):
                node["ids"].append(anchor(next(claims)["id"]))
        head = f"{rows[0]['id']} to {rows[-1]['id']} in full" if len(rows) > 1 else f"{rows[0]['id']} in full"
        return [
            nodes.raw("", f'<details class="claims"><summary>{escape(head)}</summary>', format="html"),
            found,
            nodes.raw("", "</details>", format="html"),
        ]

    def tally(self, rows: list[dict]) -> list[nodes.Node]:
        """Return a mark for each claim, by group, which leads to it in the ledger, and how many have which verdict."""
        from studies import answers, verdicts

        ledger_page = posixpath.relpath("book/ledger", posixpath.dirname(self.env.docname)) + ".html"
        lines = []
        for answer in answers.answers(rows):
            marks = " ".join(mark(row, ledger_page) for row in answer.rows)
            lines.append(f"<li><span>{escape(answer.group.title)}</span><span>{marks}</span></li>")
        counts = [(verdict, sum(row["verdict"] == verdict for row in rows)) for verdict in verdicts.VERDICTS]
        legend = " ".join(
            f'<span><span class="verdict {style(verdict)}">{MARKS[verdict]}</span> {count} {verdict}</span>'
            for verdict, count in counts if count
        )  # fmt: skip
        head = f'<p class="tally-legend"><span>{len(rows)} claims and readings of claims:</span> {legend}</p>'
        return [nodes.raw("", f'{head}<ul class="tally">{"".join(lines)}</ul>', format="html")]

    def file(self, rows: list[dict]) -> list[nodes.Node]:
        """Write the whole ledger, and return a line that leads to it."""
        from studies import ledger

        name = f"{downloads.FOLDER}/{TABLE}"
        kept(self.env, TABLE).write_text(ledger.as_csv(rows), encoding="utf-8")
        says = "the ledger as CSV: every interval, every neighbour with its mean, every run"
        return [downloads.line("The ledger in full: ", [(name, "CSV", says)], self.env.docname)]


def kept(env, name: str) -> Path:
    """Return the path of a file that is made while a page is read."""
    folder = Path(env.srcdir, KEPT)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def copy_table(app: Sphinx, error: Exception | None) -> None:
    """Write the ledger as CSV beside the pages."""
    source = Path(app.srcdir, KEPT, TABLE)
    if error is None and app.builder.format == "html" and source.exists():
        target = Path(app.outdir, downloads.FOLDER, TABLE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def anchor(name: str) -> str:
    """Return the anchor of a claim in the ledger's page."""
    return "claim-" + nodes.make_id(name.replace("+", "-"))


def style(verdict: str) -> str:
    """Return the class that colours a verdict."""
    return "verdict-" + verdict.replace(" ", "-")


def mark(row: dict, page: str) -> str:
    """Return a claim's mark as HTML: its name and a sign for its verdict, in words for whoever does not see them."""
    says = escape(f"{row['id']}, {row['short']}: {row['verdict']}")
    name = f'{row["id"]} <span aria-hidden="true">{MARKS[row["verdict"]]}</span>'
    return (
        f'<a class="verdict {style(row["verdict"])}" href="{page}#{anchor(row["id"])}" title="{says}" '
        f'aria-label="{says}">{name}</a>'
    )


class Drawn(Figure):
    """A figure that is drawn while the page is read."""

    def shown(self, figure, name: str, says: str) -> list[nodes.Node]:
        """Insert *figure* as a picture, with its numbers in words."""
        from PIL import Image

        drawn, env = io.BytesIO(), self.state.document.settings.env
        figure.savefig(drawn, format="png", dpi=DPI)
        path = kept(env, f"{name}.png")
        picture = Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        self.arguments = [f"/{path.relative_to(env.srcdir).as_posix()}"]
        self.options["alt"] = says
        return super().run()


class Growth(Drawn):
    """The directive {growth}."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Draw the figure, and insert it."""
        from studies import published
        from studies.figures import growth

        env = self.state.document.settings.env
        path = Path(env.srcdir, "data", "results", published.GROWTH)
        env.note_dependency(str(path))
        found = results.load(path)
        return self.shown(growth.growth(found), "growth", growth.in_words(found))


class Strips(Drawn):
    """The directive {strips}."""

    def run(self) -> list[nodes.Node]:
        """Draw the figure, and insert it as a picture with its numbers in words."""
        from studies.figures import strips

        env, ids = self.state.document.settings.env, self.arguments[0].split()
        results.note_ledger(env)
        rows = {row["id"]: row for row in results.ledger()}
        try:
            figure = strips.strips(ids, list(rows.values()))
        except ValueError as error:
            logger.error("{strips}: %s.", str(error).rstrip("."), location=(env.docname, self.lineno))
            return []
        says = (f"{name}, {rows[name]['short']}: {strips.in_words(rows[name], rows)}" for name in ids)
        return self.shown(figure, "-".join(anchor(name) for name in (ids[0], ids[-1])), "; ".join(says))


def setup(app: Sphinx) -> dict:
    """Register the directives."""
    app.add_directive("ledger", Ledger)
    app.add_directive("strips", Strips)
    app.add_directive("growth", Growth)
    app.connect("build-finished", copy_table)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
