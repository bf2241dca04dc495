"""Tables that are numbered, captioned and carry their numbers; each cell is written and kept by one function here."""

import html
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown, display

from bqcore.metrics import statistics

from .. import formats, measures, published
from ..formats import Ends, level, signed
from .source_data import identifier, rows


class Cell(NamedTuple):
    """
    What a table shows in one place, and the numbers behind it, in full precision.

    Of ``numbers``, "" is the estimate, others are parts such as "low" and "high"; ``at`` are the coordinates by name.
    """

    text: str
    numbers: dict[str, float]
    units: str = ""
    at: dict[str, xr.DataArray] = {}


class Frame(NamedTuple):
    """The cells of a table: its text, the dataset of its numbers along "row", and the columns that hold numbers."""

    text: pd.DataFrame
    data: xr.Dataset
    numeric: frozenset[str] = frozenset()


def number(value, form: str = ".4f", *, write=formats.number) -> Cell:
    """Make a cell of one number, a scalar array or a plain one."""
    return _cell(value, write(value, form), {"": value})


def interval(found, form: str = ".4f", *, write=formats.number, of=None) -> Cell:
    """Make a cell of an estimate with its interval; *of* is the array that it was found from."""
    return _cell(of, formats.interval(found, form, write), dict(zip(("", "low", "high"), found)))


def difference(first: xr.DataArray, second: xr.DataArray, form: str = ".4f") -> Cell:
    """Make a cell of the mean of first less second, paired by seed, with its interval; of one seed it has none."""
    if first.size < 2:
        return _cell(second, signed((first - second).mean(), form), {"": (first - second).mean()})
    found = statistics.paired_difference(first.values, second.values)
    return interval(found, form, write=signed, of=second)


def mean(values: xr.DataArray, form: str = ".4f") -> Cell:
    """Make a cell of a mean."""
    return _cell(values, formats.number(values.mean(), form), {"": values.mean()})


def mean_deviation(values: xr.DataArray, form: str = ".4f") -> Cell:
    """Make a cell of a mean, with the standard deviation if there are several values."""
    if values.size < 2:
        return mean(values, form)
    found = {"": values.mean(), "deviation": values.std(ddof=1)}
    middle, off = (formats.number(value, form) for value in found.values())
    return _cell(values, f"{middle} ± {off}", found)


def mean_range(values: xr.DataArray, form: str = ".4f") -> Cell:
    """Make a cell of a mean, with the lowest and the highest value if there are several."""
    if values.size < 2:
        return mean(values, form)
    found = {"": values.mean(), "lowest": values.min(), "highest": values.max()}
    middle, low, high = (formats.number(value, form) for value in found.values())
    return _cell(values, f"{middle} ({low} – {high})", found)


def median_range(values: xr.DataArray, form: str = ".4f") -> Cell:
    """Make a cell of the median of what is finite, with the lowest and the highest if they are not written the same."""
    kept = values.values[np.isfinite(values.values)]
    if not len(kept):
        return _cell(values, formats.NONE, {})
    found = {"": np.median(kept), "lowest": kept.min(), "highest": kept.max()}
    middle, low, high = (formats.number(value, form) for value in found.values())
    return _cell(values, middle if low == high else f"{middle} [{low}, {high}]", found)


def next_run(values: xr.DataArray, form: str = ".4f", *, write=formats.number) -> Cell:
    """Make a cell of one run's value or, over seeds, of their median with the 95 % prediction interval of a run."""
    if values.dims not in ((), ("seed",)):  # an interval over anything but seeds would be one over nodes or cells
        raise ValueError(f"{values.name} runs over {values.dims}: an interval is one over seeds.")
    kept = np.atleast_1d(values.values)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return _cell(values, formats.NONE, {})
    found = statistics.prediction_interval(kept) if len(kept) > 1 else Ends(*kept.repeat(3))
    if found.low == found.high:
        return _cell(values, write(found.estimate, form), {"": found.estimate})
    return interval(found, form, write=write, of=values)


def fraction(value: xr.DataArray, inputs: int, form: str = ".4f", *, write=formats.number) -> Cell:
    """Make a cell of a fraction of inputs, with its 95 % Clopper–Pearson interval."""
    found = statistics.clopper_pearson(round(float(value) * inputs), inputs)
    return interval(Ends(float(value), found.low, found.high), form, write=write, of=value)


def arrow(values: xr.DataArray, form: str = ".4f", over: str = "split") -> Cell:
    """Make a cell of two means, left → right, along the two places of *over*."""
    found = {place: float(values.sel({over: place}).mean()) for place in values[over].values.tolist()}
    return _cell(values, " → ".join(formats.number(mean, form) for mean in found.values()), found)


def span(low, high, form: str = ".4f", units: str = "") -> Cell:
    """Make a cell of a range of values."""
    return Cell(formats.span(low, high, form), {"low": float(low), "high": float(high)}, units)


def beyond_column(distances: xr.DataArray) -> tuple[str, float]:
    """Return the title of a table's column of tolerance Jaccard distances, and the tolerance that they are of."""
    tau = measures.usual_tolerance(distances)
    return f"beyond {tau:g}", tau


def frame(lines: dict[str, dict[str, Cell | str]] | list[tuple[str, dict]], index: str) -> Frame:
    """
    Return a table of lines, each a cell or words by the title of the column; *index* is the title of the first.

    What a line lacks stays empty; lines that begin alike come as pairs. In the dataset, a column of numbers is a
    variable for each part, with the title as its long name. A coordinate of the cells is one of the table where all
    have the same, one of the rows where each row has its own, and an attribute of the variables where each column has
    its own.
    """
    names, rows = zip(*(lines.items() if isinstance(lines, dict) else lines))
    columns = {title: [row.get(title, "") for row in rows] for row in rows for title in row}
    text = {title: [_text(cell) for cell in cells] for title, cells in columns.items()}
    first = {identifier(index): ("row", np.array(names, str), {"long_name": index})}
    data = xr.Dataset(coords=first | _places(rows))
    for title, cells in columns.items():
        data = data.assign(_variables(title, cells, set(data.variables)))
    numeric = frozenset(title for title, cells in columns.items() if any(isinstance(cell, Cell) for cell in cells))
    return Frame(pd.DataFrame(text, pd.Index(names, name=index), dtype=object), data, numeric)


def along(
    dim: str, columns: dict[str, tuple[xr.DataArray, str]], write=number, *, index="bit-width", name=level
) -> Frame:
    """
    Return a table with a line for each place of a dimension, by default for each bit-width.

    *columns* are, by title, values and the form of their numbers, of which *write* makes a cell; *name* writes what a
    line begins with.
    """
    places = next(iter(columns.values()))[0][dim].values.tolist()
    cells = ({title: write(of.sel({dim: place}), form) for title, (of, form) in columns.items()} for place in places)
    return frame(dict(zip(map(name, places), cells)), index)


class Table:
    """
    A table with a caption and a name for cross-references, numbered by the book and plain HTML elsewhere.

    Its cells are of :func:`frame`, or text and numbers as they should read; the index becomes the first column.
    """

    def __init__(self, cells: Frame | pd.DataFrame, caption: str, name: str):
        if isinstance(cells, pd.DataFrame):
            cells = Frame(cells, rows(cells.reset_index().rename(columns=identifier)))
        (self.frame, self.data, self.numeric), self.caption, self.name = cells, caption, name

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        # A table of a dozen columns needs every place to break: on paper nothing scrolls.
        kept = self.numeric if len(self.frame.columns) < 11 else ()
        shown = self.frame.apply(lambda column: column.map(_unbroken) if column.name in kept else column)
        head = [shown.index.name or "", *map(str, shown.columns)]
        body = [[str(index), *map(str, row)] for index, row in zip(shown.index, shown.to_numpy())]
        rule = ["---", *("---:" if column in self.numeric else "---" for column in shown.columns)]
        lines = ["| " + " | ".join(row) + " |" for row in [head, rule, *body]]
        lines = [re.sub(r"(?<=[A-Za-z])-(?=\d)", "\u2011", line) for line in lines]  # CIFAR-10 stays in one line
        markdown = "\n".join([f"```{{table}} {self.caption}", f":name: {self.name}", "", *lines, "```"])
        caption = f"<caption>{html.escape(self.caption)}</caption><thead>"
        plain = shown.to_html(classes="dataframe").replace("<thead>", caption, 1)
        return {"text/markdown": markdown, "text/html": plain, "text/plain": self.frame.to_string()}


def show_tables(of: Iterable[tuple[Frame, str, str]]) -> None:
    """Show several numbered tables in one cell: of each, the cells, the caption and the name."""
    for cells, caption, name in of:
        display(Table(cells, caption, name))


def source(dataset: xr.Dataset, name: str) -> Markdown:
    """Return the line below a figure or table: command, data, result file, distance from the published one."""
    return Markdown(published.shown(dataset, name))


def sources(*results: xr.Dataset) -> Markdown:
    """Say where figures and tables come from: the command, the data and the file of each result."""
    lines = [f"- {published.origin(many)}" for many in results]
    head = "<details><summary>Where the figures and tables of this page come from</summary>"  # in JupyterLab too
    return Markdown("\n".join([head, "", *lines, "", "</details>"]))


def _cell(values, text: str, numbers: dict) -> Cell:
    """Make a cell of what was measured: an array says its units and where it was measured, a plain number does not."""
    numbers = {part: float(value) for part, value in numbers.items()}
    if not isinstance(values, xr.DataArray):
        return Cell(text, numbers)
    at = {str(name): place for name, place in values.coords.items() if place.ndim == 0}
    return Cell(text, numbers, values.attrs.get("units", ""), at)


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else str(cell)


def _unbroken(text: str) -> str:
    """Keep the numbers of a cell on one line, but for an interval behind its estimate."""
    for blank in (", ", " → ", " – ", " ± "):
        text = text.replace(blank, blank.replace(" ", "\u00a0"))
    return text


def _variables(title: str, cells: list[Cell | str], taken: set[str]) -> dict[str, tuple]:
    """Return the variables behind one column, by name; those of the table are *taken*."""
    made = [cell for cell in cells if isinstance(cell, Cell)]
    units = next((cell.units for cell in made if cell.units), "")
    about = {"units": units} if units else {}
    for name in dict.fromkeys(name for cell in made for name in cell.at if name not in taken):
        places = {str(cell.at[name].item()): cell.at[name].item() for cell in made if name in cell.at}
        if len(places) == 1:
            about[name] = next(iter(places.values()))
    numbers = [cell.numbers if isinstance(cell, Cell) else {} for cell in cells]
    parts = dict.fromkeys(part for found in numbers for part in found)
    columns = {f"{title} {part}".strip(): np.array([n.get(part, np.nan) for n in numbers], float) for part in parts}
    words = [_text(cell) if isinstance(cell, str) or not cell.numbers else "" for cell in cells]
    if any(words):
        columns[f"{title} in words" if columns else title] = np.array(words, str)
    out = {}
    for long_name, values in (columns or {title: np.array(words, str)}).items():
        name = identifier(long_name)
        while name in taken or name in out:
            name += "_"
        out[name] = ("row", values, {"long_name": long_name, **about})
    return out


def _places(lines: Iterable[dict[str, Cell | str]]) -> dict[str, tuple]:
    """Return the coordinates that all measured cells of a table have the same, or all of each row."""
    seen = [[cell.at for cell in line.values() if isinstance(cell, Cell) and cell.at] for line in lines]
    everywhere = set.intersection(*(set(at) for line in seen for at in line)) if any(seen) else set()
    out = {}
    for name in sorted(everywhere):
        found = [{str(at[name].item()): at[name] for at in line} for line in seen]
        words = {word: value for one in found for word, value in one.items()}
        some = next(iter(words.values()))
        missing = "" if some.dtype.kind == "U" else np.nan  # in a line where nothing was measured
        if len(words) == 1:
            out[name] = ((), some.item(), some.attrs)
        elif all(len(one) <= 1 for one in found):
            values = [next((value.item() for value in one.values()), missing) for one in found]
            out[name] = ("row", np.array(values), some.attrs)
    return out
