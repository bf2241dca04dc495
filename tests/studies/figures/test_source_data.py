"""The data of figures and tables: in full precision, in both files, with units, and the same bytes again."""

import base64
import io
import re
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


def opened(content: bytes) -> xr.Dataset:
    with xr.open_dataset(io.BytesIO(content)) as dataset:
        return dataset.load()


def listed(data: xr.Dataset) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(source_data.csv(data)))


def saved(figure) -> bytes:
    """Return the PNG that matplotlib makes of a figure, as quickly squeezed."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi="figure", bbox_inches="tight", pil_kwargs={"compress_level": 1})
    return out.getvalue()


FULL = st.floats(-1e6, 1e6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(FULL, FULL), min_size=1, max_size=5))
def test_every_number_is_in_both_files_in_full(pairs):
    one, two = (list(column) for column in zip(*pairs))
    names = [f"n{i}" for i in range(len(pairs))]
    data = xr.Dataset(
        {
            "j": ("network", one, {"long_name": "distance", "units": "1"}),
            "d": ("network", two, {"long_name": "shift", "units": "input units"}),
        },
        {"network": names},
    )
    table = listed(data)
    assert list(table) == ["network", "j", "d [input units]"]
    assert table.j.tolist() == one and table["d [input units]"].tolist() == two and table.network.tolist() == names
    again = opened(source_data.netcdf(data))
    assert again.j.values.tolist() == one and again.network.values.tolist() == names
    assert again.d.attrs == {"long_name": "shift", "units": "input units"}


def test_variables_along_other_dimensions_stand_below_and_whole_numbers_stay_whole():
    data = xr.Dataset(
        {"flips": (("seed", "bits"), [[0.5, 0.25], [0.125, np.nan]]), "bytes": ("bits", [800, 400]), "tau": 0.5},
        {"seed": [3, 4], "bits": [8, 4], "split": "held-out"},
    )
    table = listed(data)
    assert table.flips.dropna().tolist() == [0.5, 0.25, 0.125]  # what is missing has no row
    assert table.bytes.dropna().tolist() == [800, 400] and table.tau.dropna().tolist() == [0.5]
    assert table.bits.dropna().tolist() == [8, 4, 8, 8, 4] and set(table.split) == {"held-out"}
    assert "800.0" not in source_data.csv(data)
    half = xr.Dataset({"a": ("x", [1.5, np.nan, np.nan]), "b": ("x", [np.nan, 2.5, np.nan])})
    assert source_data.csv(half) == "a,b\n1.5,\n,2.5\n"


def test_flags_are_listed_where_they_are_set_and_pictures_of_a_slice_are_in_netcdf_alone():
    labels = np.arange(6).reshape(2, 3)
    data = xr.Dataset(
        {
            "labels": (("b", "a"), labels), "mask": (("cell_b", "cell_a"), [[False, True, True]]),
            "junction": (("cell_b", "cell_a"), [[False, False, True]]),
        },
        {"a": [0.0, 0.5, 1.0], "b": [0.0, 1.0], "cell_a": [0.25, 0.75, 1.25], "cell_b": [0.5]},
    )  # fmt: skip
    table = listed(data)
    assert "labels" not in table and table[["cell_b", "cell_a"]].to_numpy().tolist() == [[0.5, 0.75], [0.5, 1.25]]
    assert table.junction.tolist() == [False, True]
    again = opened(source_data.netcdf(data))
    np.testing.assert_array_equal(again.labels, labels)
    assert again["mask"].dtype == bool


def test_sets_of_other_sizes_are_joined_with_their_own_coordinates():
    first = xr.Dataset({"j": ("choice", [0.1, 0.2])}, {"limit": ("choice", [0.5, 0.6]), "rule": ("choice", ["a", "b"])})
    second = first.assign_coords(limit=("choice", [0.7, 0.8]))
    longer = xr.Dataset({"f": ("seed", [1.0, 2.0, 3.0])}, {"seed": [0, 1, 2]})
    data = source_data.joined({"x": first.merge(longer), "y": second.merge(longer.isel(seed=[0]))})
    table = listed(data)
    of_choices = table.dropna(subset="j")
    assert of_choices.limit.tolist() == [0.5, 0.6, 0.7, 0.8] and of_choices.rule.tolist() == ["a", "b"] * 2
    assert table.dropna(subset="f")[["data_set", "f"]].to_numpy().tolist() == [["x", 1], ["x", 2], ["x", 3], ["y", 1]]
    assert opened(source_data.netcdf(data)).data_set.values.tolist() == ["x", "y"]


def test_a_figure_s_files_are_whole_and_the_same_again(axes):
    axes.plot([0, 1], [2, 3], label="ours")
    assert list(source_data.of_figure(axes.figure)) == ["svg"] and source_data.attached(axes.figure) is None
    frame = pd.DataFrame({"x": [0, 1], "y": [2.0, 1 / 3], "of": ["a", "b"]})
    assert source_data.attach(axes.figure, frame) is axes.figure
    files = source_data.of_figure(axes.figure)
    assert ElementTree.fromstring(files["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<dc:date>" not in files["svg"]
    assert re.search(r' x="\d+\.\d\d"', files["svg"]) and not re.search(r' [dxy]="[^"]*\.\d{3}|\n ', files["svg"])
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(files["csv"])), frame)
    dataset = opened(base64.b64decode(files["netcdf"]))
    assert dataset.y.values.tolist() == [2, 1 / 3] and dataset["of"].values.tolist() == ["a", "b"]
    assert source_data.of_figure(axes.figure) == files


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_a_picture_is_what_matplotlib_saves_and_what_is_changed_later_is_laid_out_anew(axes, layout):
    axes.plot([0, 1], [2, 3], label="ours")
    axes.set(xlabel="bits", title="two\nlines", aspect=2)
    axes.legend()
    axes.figure.set_layout_engine(layout)
    engine, first = axes.figure.get_layout_engine(), source_data.shown(axes.figure)
    assert axes.figure.get_layout_engine() is engine
    assert base64.b64decode(first["image/png"]) == saved(axes.figure)
    axes.set_ylabel("flips")
    second = source_data.shown(axes.figure)
    assert base64.b64decode(second["image/png"]) == saved(axes.figure) != base64.b64decode(first["image/png"])


def test_the_extension_puts_them_beside_what_is_displayed(axes):
    shell = InteractiveShell()
    source_data.load_ipython_extension(shell)
    select_figure_formats(shell, {"png"})  # as the inline backend does when it starts
    axes.plot([0, 1], [2, 3])
    source_data.attach(axes.figure, pd.DataFrame({"x": [0, 1], "y": [2, 3]}))
    data, _ = shell.display_formatter.format(axes.figure)
    assert base64.b64decode(data["image/png"]) == saved(axes.figure)
    assert data[source_data.MIME] == source_data.of_figure(axes.figure) and "csv" in data[source_data.MIME]
    table = tables.Table(pd.DataFrame({"a": ["1"]}), "a caption", "table-a")
    data, _ = shell.display_formatter.format(table)
    assert data[source_data.MIME]["name"] == "table-a" and "text/markdown" in data
    data, _ = shell.display_formatter.format(3)
    assert set(data) == {"text/plain"}


@pytest.mark.parametrize(("content", "start"), [
    ({"a": ("x", [1.5, 2.5])}, b"CDF"), ({"a": ("x", [2**40, 1])}, b"\x89HDF"),
    ({"a": ("x", [1.5], {"long_name": "shift δ"})}, b"CDF"), ({"δ": ("x", [1.5])}, b"\x89HDF"), ({"a": ("x", np.arange(1001.0))}, b"\x89HDF"),
])  # fmt: skip
def test_a_small_file_is_of_the_older_format_where_that_can_hold_it(content, start):
    data = xr.Dataset(content, attrs={"title": "t"})
    written = source_data.netcdf(data)
    assert written.startswith(start) and written == source_data.netcdf(data)
    xr.testing.assert_identical(opened(written), data)
