"""Tables: each cell is written and kept, and the coordinates that it was measured at go with it."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore.metrics import statistics
from studies.figures import tables
from studies.formats import Ends

SHARE = {"long_name": "flip rate", "units": "share"}
VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=9)


def over_seeds(values, **at) -> xr.DataArray:
    return xr.DataArray(values, {"seed": range(len(values)), **at}, ("seed",), "flip_rate", SHARE)


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_a_cell_keeps_in_full_what_it_writes(values):
    given_values = over_seeds(values, bits=4)
    low, high = min(values), max(values)
    for cell, parts in (
        (tables.mean(given_values), [np.mean(values)]),
        (tables.mean_range(given_values), [np.mean(values), low, high]),
        (tables.median_range(given_values), [np.median(values), low, high]),
        (
            tables.difference(given_values, 0 * given_values),
            statistics.paired_difference(np.array(values), np.zeros(len(values))),
        ),
    ):
        assert list(cell.numbers.values()) == pytest.approx(list(parts), rel=1e-12)
        written = [float(word.strip("[](),–")) for word in cell.text.split() if word != "–"]
        assert written == pytest.approx(list(parts)[: len(written)], abs=0.50001e-4)
        assert cell.at["bits"] == 4
    assert tables.mean(given_values).units == "share"


def test_an_interval_is_one_over_seeds_and_what_is_all_alike_has_none():
    alike = tables.next_run(over_seeds([0.5, 0.5, 0.5]))
    assert alike.text == "0.5000" and alike.numbers == {"": 0.5}
    assert tables.next_run(over_seeds([np.nan, np.nan])).text == "none"
    assert tables.next_run(over_seeds([np.nan, 0.25])).text == "0.2500"
    with pytest.raises(ValueError, match=r"^flip_rate runs over \('nodes',\): an interval is one over seeds\.$"):
        tables.next_run(xr.DataArray([0.1, 0.2], dims="nodes", name="flip_rate"))


def test_arrows_and_fractions_by_hand():
    both = xr.DataArray([[0.1, 0.3], [0.2, 0.2]], {"split": ["calibration", "held-out"]}, ("split", "seed"))
    cell = tables.arrow(both, ".2f")
    assert cell.text == "0.20 → 0.20" and cell.numbers == pytest.approx({"calibration": 0.2, "held-out": 0.2})
    cell = tables.fraction(xr.DataArray(0.0, attrs=SHARE), 450)
    assert cell.text == "0.0000 [0.0000, 0.0082]" and cell.numbers["high"] == pytest.approx(1 - 0.025 ** (1 / 450))


def made() -> tables.Frame:
    j = xr.DataArray(
        [[0.5, 0.25], [0.75, 1 / 3]], {"bits": [8, 4], "nodes": [201, 101]}, ("bits", "nodes"), attrs=SHARE
    )
    j = j.assign_coords(split="held-out").assign_coords(bits=("bits", [8, 4], {"units": "bit"}))
    lines = {
        f"{bits} bits": {f"J ({n})": tables.number(j.sel(bits=bits, nodes=n), ".2f") for n in (201, 101)}
        | {"note": "a, b"}
        for bits in (8, 4)
    }
    lines["the paper"] = {"J (201)": "none", "J (101)": tables.Cell("0.1 ✓", {"": 0.1})}
    return tables.frame(lines, "level")


def test_coordinates_are_those_of_table_rows_or_columns():
    text, data, numeric = made()
    assert text.index.tolist() == ["8 bits", "4 bits", "the paper"] and numeric == {"J (201)", "J (101)"}
    assert text.to_numpy().tolist() == [["0.50", "0.25", "a, b"], ["0.75", "0.33", "a, b"], ["none", "0.1 ✓", ""]]
    np.testing.assert_array_equal(data.J_201, [0.5, 0.75, np.nan])
    np.testing.assert_array_equal(data.J_101, [0.25, 1 / 3, 0.1])
    assert data.J_201.attrs == {"long_name": "J (201)", "units": "share", "nodes": 201}
    assert data.split.item() == "held-out" and data.level.values.tolist() == text.index.tolist()
    assert data.note.values.tolist() == ["a, b", "a, b", ""]
    rows = tables.frame({"8 bits": {"J": made_cell(8)}, "4 bits": {"J": made_cell(4)}}, "level").data
    assert rows.bits.dims == ("row",) and rows.bits.values.tolist() == [8, 4] and rows.bits.attrs == {"units": "bit"}


def made_cell(bits: int) -> tables.Cell:
    return tables.number(xr.DataArray(0.5, {"bits": ((), bits, {"units": "bit"})}))


def test_columns_of_one_title_s_parts_and_lines_that_begin_alike_are_kept_apart():
    cell = tables.interval(Ends(0.5, 0.25, 0.75), ".1f")._replace(text="x")
    text, data, _ = tables.frame([("a", {"J": cell, "J low": "word"}), ("a", {"J": cell, "J low": "other"})], "row")
    assert text.index.tolist() == ["a", "a"] and text.columns.tolist() == ["J", "J low"]
    assert data.J_low.values.tolist() == [0.25] * 2 and data.J_low_.values.tolist() == ["word", "other"]


def test_a_table_reads_in_markdown_and_numbers_are_not_broken():
    j = tables.interval(Ends(0.5, 0.25, 0.75), ".2f")
    frame = tables.frame({"8→7": {"J": j, "words": "a, b"}}, "transition")
    shown = tables.Table(frame, "A caption & more", "table-x")._repr_mimebundle_()
    assert shown["text/markdown"].splitlines() == [
        "```{table} A caption & more", ":name: table-x", "", "| transition | J | words |", "| --- | ---: | --- |",
        "| 8→7 | 0.50 [0.25,\u00a00.75] | a, b |", "```",
    ]  # fmt: skip
    assert "<caption>A caption &amp; more</caption>" in shown["text/html"]
    plain = tables.Table(pd.DataFrame({"n": [1.5, 2.0]}, pd.Index(["a", "b"], name="of what")), "c", "t")
    assert plain.data.n.values.tolist() == [1.5, 2.0] and plain.data.of_what.values.tolist() == ["a", "b"]
