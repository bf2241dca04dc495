"""
What is behind a figure or table of a notebook: the figure as SVG, and its numbers as CSV and NetCDF.

As an IPython extension (``%load_ext studies.figures.source_data``; notebooks/execute.py loads it) this module puts
them into the executed notebook, beside each picture and table, under the type
:data:`MIME`; the book gives them to its readers.
"""

import base64
import io
import re

import numpy as np
import pandas as pd
import xarray as xr

MIME = "application/vnd.studies.figures.source_data+json"
COLUMNS = ("panel", "kind", "series", "colour", "piece", "x", "y", "width", "height", "value", "text")
_WORDS = ("kind", "series", "colour", "text")
_NUMBER = r"[-+−]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER}) ?%?(?: \[({_NUMBER}), ?({_NUMBER})\])?(?: ✓)?")
_ARROW = re.compile(rf"({_NUMBER}) → ({_NUMBER})")
_MISSING = ("", "none", "nan", "–")
_NO_LINE = ("None", "none", "", " ")


def figure_frame(figure) -> pd.DataFrame:
    """
    List what a figure draws, a row for each point, rectangle and text, in the units of its axes.

    Parameters
    ----------
    figure : matplotlib Figure

    Returns
    -------
    frame : pandas.DataFrame with the columns :data:`COLUMNS`
        *kind* is "axes" (title and labels are the text), "x tick" and "y tick" (names of places), "line", "dots",
        "outline", "rectangle", "cells" or "text". Rectangles, and cells of equal value that lie side by side in a
        picture, have their lower left corner at (x, y). *piece* counts the parts of a panel; a coordinate that is not
        one of the axes, such as those of a line across the panel, is missing.
    """
    rows = []
    for panel, axes in enumerate(_axes_of(figure)):
        said = {"title": axes.get_title(), "x": axes.get_xlabel(), "y": axes.get_ylabel()}
        labels = "; ".join(f"{name}: {text}" for name, text in said.items() if text)
        rows.append(pd.DataFrame([{"panel": panel, "kind": "axes", "text": labels}]))
        parts = [*_ticks(axes), *(part for artist in _artists(axes) for part in _parts_of(artist, axes))]
        for piece, (kind, artist, values) in enumerate(parts):
            label = str(artist.get_label()) if artist is not None else ""
            series = "" if label.startswith("_") else label
            about = {"panel": panel, "kind": kind, "series": series, "colour": _colour(artist), "piece": piece}
            rows.append(pd.DataFrame(values).assign(**about))
    frame = pd.concat(rows, ignore_index=True).reindex(columns=COLUMNS)
    words = {name: frame[name].fillna("") for name in _WORDS}
    return frame.assign(**words | {name: frame[name].astype(float) for name in COLUMNS[5:10]})


def figure_dataset(figure, frame: pd.DataFrame | None = None) -> xr.Dataset:
    """Give the rows of :func:`figure_frame` along "row", and each picture in the figure whole, as a grid of its own."""
    frame = figure_frame(figure) if frame is None else frame
    frame = frame[frame.kind != "cells"]
    out = {name: ("row", frame[name].to_numpy(str if name in _WORDS else float)) for name in COLUMNS}
    count = 0
    for panel, axes in enumerate(_axes_of(figure)):
        for image in axes.images:
            x, y, _, values = _grid(image)
            names = [f"{name}_{count}" for name in ("y", "x")]
            about = {"panel": panel, "title": axes.get_title(), "colour": _colour(image)}
            out[f"picture_{count}"] = (names, values, about)
            out |= {names[0]: (names[0], y), names[1]: (names[1], x)}
            count += 1
    return xr.Dataset(out).set_coords([name for name in out if name.startswith(("x_", "y_"))])


def table_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Split the cells of a table into numbers, written as in the table.

    A column of "0.95 [0.86, 0.99]" becomes three, with "low" and "high"; one of "0.01 → 0.02" becomes two, "left" and
    "right"; what holds words stays. Returned without an index, which is the first column.
    """
    out = {}
    columns = [(frame.index.name or "of", frame.index), *((name, frame[name]) for name in frame.columns)]
    for name, cells in columns:
        texts = ["" if str(cell).strip() in _MISSING else str(cell).replace("\u00a0", " ").strip() for cell in cells]
        found = {
            form: [form.fullmatch(text) if text else None for text in texts] for form in (_INTERVAL, _ARROW)
        }  # fmt: skip
        fit = [form for form, made in found.items() if any(made) and all(m for m, t in zip(made, texts) if t)]
        if not fit:
            out[str(name)] = texts
            continue
        groups = [[m[k] or "" if m else "" for m in found[fit[0]]] for k in range(1, fit[0].groups + 1)]
        parts = ("", " low", " high") if fit[0] is _INTERVAL else (": left", ": right")
        out |= {
            f"{name}{part}": [t.replace("−", "-") for t in group] for part, group in zip(parts, groups) if any(group)
        }
    return pd.DataFrame(out)


def table_dataset(frame: pd.DataFrame) -> xr.Dataset:
    """Give the columns of :func:`table_frame` along "row", numbers as numbers; the column's title is its long_name."""
    out = {}
    for title, texts in table_frame(frame).items():
        name = stem = re.sub(r"\W+", "_", title).strip("_") or "column"
        while name in out or name == "row":
            name = f"{stem}_{len(out)}"
        values = pd.to_numeric(texts.replace("", None), errors="coerce")
        numeric = not (values.isna() & (texts != "")).any()
        kept = values.to_numpy(float) if numeric else texts.to_numpy(str)
        out[name] = ("row", kept, {"long_name": title})
    return xr.Dataset(out)


def of_figure(figure) -> dict[str, str]:
    """Give a figure's files: svg and csv as text, netcdf as base64. The same figure gives the same ones."""
    import matplotlib.pyplot as plt

    drawing = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "bqcore", "savefig.facecolor": "white"}):
        figure.savefig(drawing, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    frame = figure_frame(figure)
    return {"svg": drawing.getvalue()} | _files(frame, figure_dataset(figure, frame))


def of_table(table) -> dict[str, str]:
    """Give the name and the files of a :class:`studies.figures.tables.Table`: csv as text, netcdf as base64."""
    return {"name": table.name} | _files(table_frame(table.frame), table_dataset(table.frame))


def load_ipython_extension(shell) -> None:
    """Have IPython put the files of figures and tables into what it displays."""
    from IPython.core.formatters import JSONFormatter

    class Behind(JSONFormatter):
        """The formatter of that type."""

        format_type = MIME
        print_method = "_repr_behind_"

    formatter = Behind(parent=shell.display_formatter)
    # Not Figure itself: the inline backend, when it starts, drops what others have registered for that.
    formatter.for_type_by_name("matplotlib.figure", "FigureBase", of_figure)
    formatter.for_type_by_name("studies.figures.style", "Table", of_table)
    shell.display_formatter.formatters[MIME] = formatter


def _files(frame: pd.DataFrame, dataset: xr.Dataset) -> dict[str, str]:
    squeeze = {"zlib": True, "complevel": 9}
    kinds = {"U": {"dtype": "S1"}, "i": {}, "f": {}}  # words as characters, which can be compressed
    encoding = {
        name: kinds[v.dtype.kind] | (squeeze if v.size > 1000 else {}) for name, v in dataset.variables.items()
    }  # fmt: skip
    content = bytes(dataset.to_netcdf(engine="h5netcdf", encoding=encoding))
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return {"csv": text, "netcdf": base64.b64encode(content).decode()}


def _axes_of(figure) -> list:
    """Give the panels with something in them, insets too, colour bars not."""
    found = [inner for axes in figure.axes for inner in (axes, *axes.child_axes)]
    return [axes for axes in found if axes.get_label() != "<colorbar>" and (axes.axison or _artists(axes))]


def _artists(axes) -> list:
    return [*axes.images, *axes.collections, *axes.patches, *axes.lines, *axes.texts]


def _ticks(axes):
    """Give the names of places, where an axis has names."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter, ScalarFormatter

    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter | FixedFormatter) or "Categor" in type(formatter).__name__:
            if not isinstance(formatter, ScalarFormatter):
                places = axis.get_ticklocs()
                yield f"{name} tick", None, {name: places, "text": formatter.format_ticks(places)}


def _parts_of(artist, axes):
    """Give an artist's parts: kind, the artist, and columns of numbers."""
    from matplotlib import collections, contour, image, lines, patches, text

    if isinstance(artist, image.AxesImage):
        yield "cells", artist, _runs(artist)
    elif isinstance(artist, lines.Line2D):
        x, y = (np.asarray(values, float) for values in artist.get_data(orig=False))
        across = artist.get_transform().contains_branch_seperately(axes.transData)
        kind = "dots" if artist.get_linestyle() in _NO_LINE else "line"
        yield kind, artist, {n: v if inside else np.nan * v for n, v, inside in zip("xy", (x, y), across)}
    elif isinstance(artist, patches.Rectangle):
        (x, y), width, height = artist.get_xy(), artist.get_width(), artist.get_height()
        yield "rectangle", artist, {"x": [x], "y": [y], "width": [width], "height": [height]}
    elif isinstance(artist, collections.PathCollection) and len(artist.get_offsets()):
        x, y = np.ma.filled(np.ma.asarray(artist.get_offsets(), float), np.nan).T
        values = artist.get_array()
        values = np.full(len(x), np.nan) if values is None or len(values) != len(x) else np.ma.filled(values, np.nan)
        yield "dots", artist, {"x": x, "y": y, "value": np.asarray(values, float)}
    elif isinstance(artist, collections.Collection | contour.ContourSet):
        for path in artist.get_paths():
            for polygon in path.to_polygons(closed_only=False) or []:
                x, y = np.asarray(polygon, float).T
                yield "line" if isinstance(artist, collections.LineCollection) else "outline", artist, {"x": x, "y": y}
    elif isinstance(artist, patches.Patch):
        for polygon in artist.get_path().to_polygons(closed_only=False):
            x, y = np.asarray(artist.get_patch_transform().transform(polygon), float).T
            yield "outline", artist, {"x": x, "y": y}
    elif isinstance(artist, text.Text) and artist.get_text():
        place = getattr(artist, "xy", artist.get_position())
        coordinates = getattr(artist, "xycoords", "data" if artist.get_transform() == axes.transData else "other")
        x, y = place if coordinates == "data" else (np.nan, np.nan)
        yield "text", artist, {"x": [x], "y": [y], "text": [artist.get_text()]}


def _grid(artist) -> tuple[np.ndarray, np.ndarray, tuple[float, float], np.ndarray]:
    """Give the middles of a picture's columns and rows, their steps, and its values (y, x), the lowest row first."""
    values = np.ma.filled(np.ma.asarray(artist.get_array(), float), np.nan)
    if values.ndim == 3:  # colours: their mean stands for them
        values = values[..., :3].mean(-1)
    left, right, bottom, top = artist.get_extent()
    if artist.origin == "upper":
        values = values[::-1]
        bottom, top = min(bottom, top), max(bottom, top)
    rows, columns = values.shape
    h, v = (right - left) / columns, (top - bottom) / rows
    return (
        left + (np.arange(columns) + 0.5) * h,
        bottom + (np.arange(rows) + 0.5) * v,
        (h, v),
        values.astype(np.float32),
    )


def _runs(artist) -> dict[str, np.ndarray]:
    """Give the runs of equal values along a picture's rows as rectangles; cells without a value are left out."""
    x, y, (h, v), values = _grid(artist)
    first = np.ones(values.shape, bool)
    first[:, 1:] = (values[:, 1:] != values[:, :-1]) & ~(np.isnan(values[:, 1:]) & np.isnan(values[:, :-1]))
    rows, starts = np.nonzero(first)
    ends = np.append(starts[1:], 0)
    ends[ends == 0] = values.shape[1]
    found = values[rows, starts]
    kept = ~np.isnan(found)
    out = {
        "x": x[starts] - h / 2, "y": y[rows] - v / 2, "width": (ends - starts) * h, "height": np.full(len(rows), v),
        "value": found,
    }  # fmt: skip
    return {name: numbers[kept] for name, numbers in out.items()}


def _colour(artist) -> str:
    """Name an artist's one colour, or none if it has several."""
    from matplotlib.colors import to_hex, to_rgba_array

    if artist is None:
        return ""
    if hasattr(artist, "get_cmap") and artist.get_array() is not None:
        cmap = artist.get_cmap()
        return to_hex(cmap(0)) if cmap.N == 1 else ""
    if hasattr(artist, "get_markerfacecolor"):
        marked = [artist.get_markerfacecolor(), artist.get_markeredgecolor()]
        found = (
            [artist.get_color()] if artist.get_linestyle() not in _NO_LINE else [c for c in marked if str(c) != "none"]
        )
        return to_hex(found[0]) if found else ""
    if hasattr(artist, "get_facecolor"):
        for colours in (artist.get_facecolor(), artist.get_edgecolor()):
            found = np.unique(np.atleast_2d(to_rgba_array(colours)), axis=0)
            if len(found) == 1 and found[0, 3] > 0:
                return to_hex(found[0])
        return ""
    return to_hex(artist.get_color())
