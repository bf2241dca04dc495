"""The charts of an audit's page: marks lie where the numbers say, on scales that hold all of them."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st

from bqcore.auditing import charts
from bqcore.auditing.limits import Judged
from bqcore.metrics.statistics import clopper_pearson


@given(st.floats(1e-9, 1e9))
@example(0.3 * (1 - 1e-10))
def test_ticks_are_few_and_round_and_begin_at_zero(high):
    found = charts.ticks(high)
    assert 3 <= len(found) <= 6 and found[0] == 0 and high / 2 < found[-1] <= high * (1 + 1e-9)
    assert f"{found[1]:.0e}"[0] in "125" and found[1] == pytest.approx(float(f"{found[1]:.0e}"))


def test_a_limit_is_drawn_on_a_scale_that_holds_zero_and_all_ends():
    (row,) = charts.limit_rows([Judged("accuracy_loss", 0.02, -0.02, 0.06, 0.04, "open")])
    x = [row[f"x_{name}"] for name in ("low", "zero", "estimate", "limit", "high")]
    assert x[0] == 1 and np.diff(x).tolist() == pytest.approx([98 / 4.2] * 4, abs=0.02) and x[-1] < 99
    assert row["title"] == "loss of accuracy"
    (row,) = charts.limit_rows([Judged("flip_rate", 0.0, 0.0, 0.01, 0.0, "open")])
    assert row["x_limit"] == row["x_zero"] == 1
    (row,) = charts.limit_rows([Judged("accuracy_loss", np.nan, np.nan, np.nan, 0.04, "open")])
    assert not row["measured"] and "x_low" not in row


def test_the_curve_has_a_point_at_the_middle_of_each_group():
    """Of 21 samples by growing margin, the first group has three and the others two: one flips in the first two."""
    groups = [{"samples": 3 if i == 0 else 2, "flips": int(i < 2), "margin": float(i)} for i in range(10)]
    found = charts.curve(groups, 0.2)
    wide = charts.RIGHT - charts.LEFT
    assert [point["x"] for point in found["points"][:3]] == pytest.approx(
        [charts.LEFT + wide * middle / 21 for middle in (1.5, 4, 6)], abs=0.01
    )
    assert found["band"] == pytest.approx(charts.LEFT + wide / 5, abs=0.01)
    tall, high = charts.BOTTOM - charts.TOP, clopper_pearson(1, 2).high
    assert [point["y"] for point in found["points"]] == pytest.approx(
        [charts.BOTTOM - tall * rate / high for rate in (1 / 3, 1 / 2, *[0] * 8)], abs=0.01
    )
    assert found["points"][1]["y_high"] == charts.TOP and found["points"][2]["y_low"] == charts.BOTTOM
    assert charts.curve([group | {"flips": 0} for group in groups], 0.2) is None


@given(st.dictionaries(st.tuples(st.integers(0, 20), st.integers(0, 20)), st.integers(1, 50), max_size=60))
def test_the_table_of_classes_holds_the_largest_pairs_that_fit_in(counts):
    pairs = [{"from": a, "to": b, "flips": n} for (a, b), n in counts.items() if a != b]
    pairs.sort(key=lambda one: -one["flips"])
    found = charts.heat(pairs)
    if not pairs:
        assert found is None
        return
    shown = set(found["classes"])
    assert found["classes"] == sorted(shown) and {pairs[0]["from"], pairs[0]["to"]} <= shown and len(shown) <= 12
    assert found["of"] == len({one[end] for one in pairs for end in ("from", "to")})
    assert all(len(shown | {one["from"], one["to"]}) > 12 for one in pairs if not {one["from"], one["to"]} <= shown)
    for row in found["rows"]:
        assert row["flips"] == [counts.get((row["from"], b), 0) * (row["from"] != b) for b in found["classes"]]


def rates(dim: str, names: list, **values) -> xr.Dataset:
    """Return rates with their ends, for the *names* along a dimension."""
    found = {key: (dim, value) for key, value in values.items()}
    for name in ("flip_rate", "band_flip_rate"):
        rate = np.array(values[name])
        found |= {f"{name}_low": (dim, rate / 2), f"{name}_high": (dim, rate * 2)}
    return xr.Dataset(found, {dim: names})


def test_layers_are_bars_on_one_scale_and_the_rest_is_counted():
    names = [f"layer{i}" for i in range(25)]
    band = [0.4, *[0.1] * 24]
    found = charts.layer_bars(rates("layer", names, flip_rate=band, band_flip_rate=band).assign_attrs(bits=3))
    assert found["left"] == 5 and found["bits"] == 3 and [row["name"] for row in found["rows"]] == names[:20]
    assert found["rows"][0] == {
        "name": "layer0", "estimate": 0.4, "x": 49.5, "x_low": 24.75, "x_high": 99.0,
    }  # fmt: skip
    assert charts.layer_bars(None) is None


def test_bit_widths_lie_at_their_bytes_with_the_limits_that_are_on_the_scale():
    levels = rates("bits", [8, 4], flip_rate=[0.0, 0.1], band_flip_rate=[0.1, 0.4], bytes=[200, 100])
    levels = levels.expand_dims(split=["heldout"]).assign(bytes=levels.bytes)
    judged = [Judged("flip_rate", 0, 0, 0, 0.4, "kept"), Judged("band_flip_rate", 0, 0, 0, 0.9, "kept")]
    found = charts.front(levels, judged, 8)
    middle = (charts.LEFT + charts.RIGHT) / 2
    assert [(one["bits"], one["x"], one["passes"]) for one in found["bits"]] == [
        (4, middle, False),
        (8, charts.RIGHT, True),
    ]
    flips, band = found["lines"]
    assert [point["y"] for point in band["points"]] == [(charts.TOP + charts.BOTTOM) / 2, 168.0]
    assert flips["limit"] == band["points"][0]["y"] and band["limit"] is None
    assert charts.front(None, judged, None) is None
