"""What is behind a figure or table: known answers for every kind of mark, generated tables, and the same bytes again."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats

from studies.figures import source_data, tables


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def rows_of(axes, kind: str) -> pd.DataFrame:
    found = source_data.figure_frame(axes.figure)
    return found[found.kind == kind]


def test_lines_and_dots_are_listed_point_by_point_with_series_and_colour(axes):
    axes.plot([1, 2, 3], [4, 5, np.nan], color="#0072b2", label="ours")
    axes.plot([1, 2], [7, 8], "D", color="#d55e00")
    axes.scatter([5, 6], [7, 8], c=[0.1, 0.2], label="cloud")
    axes.axhline(0.5, color="black")
    line = rows_of(axes, "line")
    np.testing.assert_array_equal(line.x, [1, 2, 3, np.nan, np.nan])  # across the panel: at no x of the axes
    np.testing.assert_array_equal(line.y, [4, 5, np.nan, 0.5, 0.5])
    assert list(line.series) == ["ours"] * 3 + [""] * 2 and list(line.colour) == ["#0072b2"] * 3 + ["#000000"] * 2
    dots = rows_of(axes, "dots")
    assert dots[["x", "y"]].to_numpy().tolist() == [[5, 7], [6, 8], [1, 7], [2, 8]]
    assert list(dots.value)[:2] == [0.1, 0.2] and list(dots.series) == ["cloud"] * 2 + [""] * 2
    assert dots.colour.iloc[-1] == "#d55e00" and dots.piece.nunique() == 2


def test_bars_outlines_texts_labels_and_names_of_places_are_listed(axes):
    axes.bar(["one", "two"], [3.0, 4.0])
    axes.fill([0, 1, 1], [0, 0, 2])
    axes.text(0.5, 2.5, "here")
    axes.text(0.5, 0.5, "corner", transform=axes.transAxes)
    axes.set(title="bars", xlabel="which", ylabel="how many")
    bars = rows_of(axes, "rectangle")
    np.testing.assert_allclose(bars[["x", "y", "width", "height"]], [[-0.4, 0, 0.8, 3], [0.6, 0, 0.8, 4]])
    assert rows_of(axes, "outline")[["x", "y"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 2], [0, 0]]
    said = rows_of(axes, "text")
    assert list(said.text) == ["here", "corner"]
    np.testing.assert_array_equal(said[["x", "y"]], [[0.5, 2.5], [np.nan, np.nan]])
    assert list(rows_of(axes, "axes").text) == ["title: bars; x: which; y: how many"]
    assert rows_of(axes, "x tick")[["x", "text"]].to_numpy().tolist() == [[0, "one"], [1, "two"]]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from(["lower", "upper"]), st.integers(0, 999))
def test_cells_of_a_picture_give_the_picture_back(rows, columns, origin, seed):
    values = np.random.default_rng(seed).choice([0.0, 1.0, 2.0, np.nan], (rows, columns))
    figure, axes = plt.subplots()
    axes.imshow(values, origin=origin, extent=(10, 10 + 2 * columns, 5, 5 + rows), aspect="auto")
    wanted = values if origin == "lower" else values[::-1]
    again = np.full_like(wanted, np.nan)
    for cell in rows_of(axes, "cells").itertuples():
        first = round((cell.x - 10) / 2)
        assert cell.height == pytest.approx(1)
        again[round(cell.y - 5), first : first + round(cell.width / 2)] = cell.value
    np.testing.assert_array_equal(again, wanted)
    dataset = source_data.figure_dataset(figure)
    np.testing.assert_array_equal(dataset.picture_0, wanted)
    np.testing.assert_allclose(dataset.x_0, 11 + 2 * np.arange(columns))
    np.testing.assert_allclose(dataset.y_0, 5.5 + np.arange(rows))
    plt.close(figure)


def test_insets_are_panels_and_colour_bars_are_not(axes):
    picture = axes.scatter([0, 1], [0, 1], c=[0, 1])
    axes.figure.colorbar(picture)
    axes.inset_axes([0.5, 0.5, 0.4, 0.4]).plot([3, 4], [5, 6])
    found = source_data.figure_frame(axes.figure)
    assert sorted(found.panel.unique()) == [0, 1]
    assert found[found.panel == 1].query("kind == 'line'").y.tolist() == [5, 6]


def test_intervals_arrows_and_words_of_a_table_are_split():
    frame = pd.DataFrame(
        {
            "J": ["0.95 [0.86, 0.99] ✓", "none", "0.10"],
            "flips": ["0.01\u00a0→\u00a00.02", "0.03 → −0.04", ""],
            "says": ["7 bits", "1", "2"],
            "share, %": ["12%", "3%", "0%"],
        },
        index=pd.Index(["8→7", "float", "4"], name="level"),
    )
    found = source_data.table_frame(frame)
    assert found.to_dict("list") == {
        "level": ["8→7", "float", "4"], "J": ["0.95", "", "0.10"], "J low": ["0.86", "", ""],
        "J high": ["0.99", "", ""], "flips: left": ["0.01", "0.03", ""], "flips: right": ["0.02", "-0.04", ""],
        "says": ["7 bits", "1", "2"], "share, %": ["12", "3", "0"],
    }  # fmt: skip
    dataset = source_data.table_dataset(frame)
    np.testing.assert_array_equal(dataset.J, [0.95, np.nan, 0.1])
    assert dataset.share.attrs["long_name"] == "share, %" and list(dataset.says.values) == ["7 bits", "1", "2"]


NUMBERS = st.floats(-1e6, 1e6).map(lambda number: f"{number:.4g}")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5),
    st.sampled_from(["J", "row", "a/b", "95 %"]),
)
def test_every_number_of_a_table_is_in_both_files(cells, title):
    frame = pd.DataFrame({title: [f"{a} [{b}, {c}]" for a, b, c in cells], f"{title} ": [a for a, _, _ in cells]})
    files = source_data.of_table(tables.Table(frame, "a caption", "table-x"))
    assert files["name"] == "table-x"
    table = pd.read_csv(io.StringIO(files["csv"]))
    wanted = np.array([[float(a), float(b), float(c), float(a)] for a, b, c in cells])
    np.testing.assert_array_equal(table.iloc[:, 1:], wanted)
    with xr.open_dataset(io.BytesIO(base64.b64decode(files["netcdf"])), engine="h5netcdf") as dataset:
        assert sorted(v.attrs["long_name"] for v in dataset.data_vars.values()) == sorted(table.columns)
        for v in dataset.data_vars.values():
            np.testing.assert_array_equal(v, table[v.attrs["long_name"]])


def test_a_figure_s_files_are_whole_and_the_same_again(axes):
    axes.plot([0, 1], [2, 3], label="ours")
    axes.imshow(np.eye(3), extent=(0, 1, 2, 3))
    files = source_data.of_figure(axes.figure)
    assert ElementTree.fromstring(files["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<dc:date>" not in files["svg"]
    table = pd.read_csv(io.StringIO(files["csv"]))
    assert list(table.columns) == list(source_data.COLUMNS) and list(table[table.kind == "line"].y) == [2, 3]
    with xr.open_dataset(io.BytesIO(base64.b64decode(files["netcdf"])), engine="h5netcdf") as dataset:
        np.testing.assert_array_equal(dataset.picture_0, np.eye(3)[::-1])
        assert list(dataset.series.values[-2:]) == ["ours", "ours"] and list(dataset.y.values[-2:]) == [2, 3]
    assert source_data.of_figure(axes.figure) == files


def test_the_extension_puts_them_beside_what_is_displayed(axes):
    shell = InteractiveShell()
    source_data.load_ipython_extension(shell)
    select_figure_formats(shell, {"png"})  # as the inline backend does when it starts
    axes.plot([0, 1], [2, 3])
    data, _ = shell.display_formatter.format(axes.figure)
    assert data[source_data.MIME] == source_data.of_figure(axes.figure)
    table = tables.Table(pd.DataFrame({"a": ["1"]}), "a caption", "table-a")
    data, _ = shell.display_formatter.format(table)
    assert data[source_data.MIME]["name"] == "table-a" and "text/markdown" in data
    data, _ = shell.display_formatter.format(3)
    assert set(data) == {"text/plain"}
