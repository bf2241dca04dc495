"""
The data of figures and tables: attached by what draws them, and written as CSV and NetCDF beside a figure's SVG.

As an IPython extension (``%load_ext studies.figures.source_data``; notebooks/execute.py loads it) this module puts
these files into the executed notebook, beside each picture and table, under the type :data:`MIME`; the book gives
them to its readers.
"""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

MIME = "application/vnd.studies.figures.source_data+json"
_NODES = {"a", "b"}  # the dimensions of a picture of a slice; CSV leaves these out
_KEPT = ("title", "command")  # attributes of a dataset that go with it
_SMALL = 1000  # values of a variable; larger ones are compressed
_attached = WeakKeyDictionary()


def attach(figure: Figure, data: xr.Dataset | pd.DataFrame) -> Figure:
    """
    Keep with a figure the numbers that it shows, in full precision, with long names and units; return the figure.

    The rows of a frame are those of one thing each, without an index of meaning.
    """
    _attached[figure] = rows(data) if isinstance(data, pd.DataFrame) else data
    return figure


def attached(figure: Figure) -> xr.Dataset | None:
    """Return the numbers that a figure shows, or None where nothing is attached."""
    return _attached.get(figure)


def rows(frame: pd.DataFrame, **attributes: dict) -> xr.Dataset:
    """Return a frame as a dataset along "row"; *attributes* are those of columns, such as long_name and units."""
    kinds = {name: None if pd.api.types.is_numeric_dtype(column) else str for name, column in frame.items()}
    return xr.Dataset({name: ("row", frame[name].to_numpy(kind), attributes.get(name)) for name, kind in kinds.items()})


def joined(sets: dict[str, xr.Dataset], name: str = "data_set") -> xr.Dataset:
    """Return datasets of several titles as one, along a new dimension; what one of them has not is missing there."""
    titles = xr.DataArray(np.array(list(sets), str), dims=name, name=name)
    how = {"data_vars": "all", "coords": "different", "compat": "equals", "combine_attrs": "override"}
    return xr.concat(list(sets.values()), titles, join="outer", **how)


def csv(data: xr.Dataset) -> str:
    """
    Write a dataset as one table of numbers in full precision, units in the head.

    Variables along the same dimensions stand side by side, and those along others below them. Of flags, only the
    places where one is set are listed. Pictures of a slice, along its nodes, are left out.
    """
    together = {}
    for name, variable in data.data_vars.items():
        if not set(variable.dims) >= _NODES:
            together.setdefault(variable.dims, []).append(name)
    table = pd.concat([_listed(data[names], dims) for dims, names in together.items()], ignore_index=True)
    units = {name: data[name].attrs.get("units", "") for name in table}
    head = {name: f"{name} [{unit}]" if unit not in ("", "1") else name for name, unit in units.items()}
    return table.rename(columns=head).to_csv(index=False, lineterminator="\n")


def _listed(part: xr.Dataset, dims: tuple[str, ...]) -> pd.DataFrame:
    names = list(part.data_vars)
    table = (part if dims else part.expand_dims("row")).to_dataframe().reset_index()
    table = table[[name for name in dict.fromkeys((*dims, *part.coords, *names)) if name in part.variables]]
    if all(part[name].dtype == bool for name in names):
        table = table[table[names].any(axis=1)]
    # Whole numbers stay whole where other parts of the table have none.
    whole = {name: "Int64" for name, kind in table.dtypes.items() if kind.kind in "iu"}
    return table.dropna(how="all", subset=names).astype(whole)


def netcdf(data: xr.Dataset) -> bytes:
    """Return the content of a dataset's NetCDF file; the same dataset gives the same bytes."""
    about = {name: data.attrs[name] for name in _KEPT if name in data.attrs}
    words = {name: v for name, v in data.variables.items() if v.dtype.kind not in "biufU"}  # of pandas' own types
    data = data.assign({name: (v.dims, np.array(v.values.tolist(), str), v.attrs) for name, v in words.items()})
    data = data.drop_attrs(deep=False).assign_attrs(about)
    if all(variable.size <= _SMALL for variable in data.variables.values()):
        try:  # the older format has no headers of 20 kB; but neither names in Greek nor long integers
            return bytes(data.to_netcdf(engine="scipy"))
        except (UnicodeEncodeError, ValueError):
            pass
    squeeze = {"zlib": True, "complevel": 9}
    # Words as characters, which can be compressed; more than four attributes of a variable would take a page of 2 kB.
    kinds = {"U": {"dtype": "S1"}, "f": {"_FillValue": None}}
    variables = data.variables.items()
    encoding = {name: kinds.get(v.dtype.kind, {}) | (squeeze if v.size > _SMALL else {}) for name, v in variables}
    return bytes(data.to_netcdf(engine="h5netcdf", encoding=encoding))


def identifier(title: str) -> str:
    """
    Return a name for a variable whose title holds blanks and signs.

    >>> identifier("displacement, median (95 %)")
    'displacement_median_95'
    """
    return re.sub(r"\W+", "_", title).strip("_") or "column"


def of_figure(figure: Figure) -> dict[str, str]:
    """Return a figure's files: svg and csv as text, netcdf as base64. The same figure gives the same ones."""
    with _laid_out(figure) as box:
        return _files_of(figure, box)


def shown(figure: Figure) -> dict[str, str | dict]:
    """Return what a notebook shows of a figure, by type: its picture as PNG, and its files."""
    out = io.BytesIO()
    with _laid_out(figure) as box:
        # Squeezed little, which is quick: notebooks/execute.py packs it.
        figure.savefig(out, format="png", dpi="figure", bbox_inches=box, pil_kwargs={"compress_level": 1})
        return {"image/png": base64.b64encode(out.getvalue()).decode(), MIME: _files_of(figure, box)}


@contextmanager
def _laid_out(figure: Figure) -> Iterator[Bbox]:
    """Lay a figure out once for all its formats, which takes as long as to draw it; yield the box that it fills."""
    engine = figure.get_layout_engine()
    if engine:
        engine.execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False, "savefig.bbox": None}):
        figure.set_layout_engine(None)
        try:
            yield figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
        finally:
            figure.set_layout_engine(engine)


def _files_of(figure: Figure, box: Bbox) -> dict[str, str]:
    drawing = io.StringIO()
    # Text stays text: it can be searched, and the files are half as large.
    with plt.rc_context({"svg.hashsalt": "bqcore", "svg.fonttype": "none", "savefig.facecolor": "white"}):
        figure.savefig(drawing, format="svg", dpi=150, bbox_inches=box, metadata={"Date": None, "Creator": None})
    data = attached(figure)
    return {"svg": _short(drawing.getvalue())} | ({} if data is None else _files(data))


def _short(svg: str) -> str:
    """Return a drawing without indentation, and with places to a hundredth of a point: an eighth is gone, unseen."""
    places = re.sub(
        r'(?<=\s)(?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", " ".join(found[0].split())), svg
    )
    return re.sub(r"\n +", "\n", places)


def of_table(table) -> dict[str, str]:
    """Return the name and the files of a :class:`studies.figures.tables.Table`: csv as text, netcdf as base64."""
    return {"name": table.name} | _files(table.data)


def _files(data: xr.Dataset) -> dict[str, str]:
    return {"csv": csv(data), "netcdf": base64.b64encode(netcdf(data)).decode()}


def load_ipython_extension(shell) -> None:
    """Have IPython put the files of figures and tables into what it displays."""

    def of(figure: Figure) -> dict[str, str | dict]:
        shell.display_formatter.formatters["image/png"].pop(Figure, None)  # the inline backend would draw it once more
        return shown(figure)

    def with_files(table) -> dict[str, str | dict]:
        return table._repr_mimebundle_() | {MIME: of_table(table)}

    formatter = shell.display_formatter.mimebundle_formatter
    formatter.for_type(Figure, of)
    formatter.for_type_by_name("studies.figures.tables", "Table", with_files)
