"""The chapter that measures an audit: marks and differences worked out by hand, and that the published tables are full."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bqcore
from bqcore.auditing import limits, vendors
from bqcore.metrics import statistics
from studies import published, specs
from studies.figures import audit, quantizers
from studies.figures.audit import Case
from studies.figures.quantizers import RULER, at_equal_bytes

CHANNEL, TENSOR, OTHER, FOUR = RULER.format(8), "PTQ-W, 8 bits, a step per tensor", "other, int8", RULER.format(4)
NAMES = [CHANNEL, TENSOR, OTHER, FOUR]
SAMPLES = 20


def flips(*where: int) -> np.ndarray:
    """Flip the decisions on some of the inputs."""
    return np.isin(np.arange(SAMPLES), where).astype(np.int8)


@pytest.fixture
def kept() -> xr.Dataset:
    """
    Make results of two networks, a and b.

    On a, six inputs that only the step per tensor flips are told from none (2 / 2^6 = 0.03), five that only the other
    one flips are not (2 / 2^5 = 0.06). On b, which has fewer held-out inputs, the step per tensor flips none but takes
    a byte more than a tenth over, and the other is missing. Plans by noise flip six fewer on a and are uniform on b.
    """
    short = np.where(np.arange(SAMPLES) < 10, flips(1, 2), -1).astype(np.int8)
    none = np.full(SAMPLES, -1, np.int8)
    zero = np.where(short < 0, short, 0).astype(np.int8)
    moved = np.array([
        [flips(), flips(*range(6)), flips(*range(5)), flips(1)],
        [short, zero, none, short],
    ])  # fmt: skip
    planned = np.array([[[flips(*range(6)), flips(), none]], [[short, short, none]]])
    sizes = [[1000, 1100, 1000, 500], [1000, 1101, 0, 500]]

    def rates(flipped: np.ndarray) -> np.ndarray:
        seen = (flipped >= 0).sum(-1)
        return np.where(seen, (flipped == 1).sum(-1) / np.maximum(seen, 1), np.nan)

    by = ("network", "quantizer")
    plan = ("network", "budget", "ranking")
    return xr.Dataset(
        {
            "bytes": (by, sizes), "stored": (by, np.multiply(sizes, 2)),
            "flip_rate": (by, rates(moved)), "band_flip_rate": (by, rates(moved) / 2),
            "flipped": ((*by, "sample"), moved), "weight_bits": (by, [[8, 8, 8, 4]] * 2),
            "missing": (by, [[""] * 4, ["", "", "It has no such layer.", ""]]), "float_bytes": ("network", [4000, 4040]),
            "plan_flipped": ((*plan, "sample"), planned), "plan_band_flip_rate": (plan, rates(planned) / 2),
            "plan_bits": (plan, [[["first: 4", "first: 5", ""]], [["first: 4", "first: 4", ""]]]),
            "plan_missing": (("network", "ranking"), [["", "", "A package is missing."]] * 2),
        },
        {"network": ["a", "b"], "quantizer": NAMES, "budget": [4], "ranking": ["uniform", "margin noise", "none such"]},
        {"command": "python -m studies run vendors all", "spec": '{"study": "made up"}', "versions": '{"numpy": "2.0", "nncf": null}'},
    )  # fmt: skip


def test_equal_bytes_and_what_mcnemar_cannot_tell_by_hand(kept):
    marks = at_equal_bytes(kept).transpose("network", "quantizer")
    assert marks.equal.values.tolist() == [[True, True, True, True], [True, False, False, True]]
    assert marks.fewest.values.tolist() == [[True, False, True, True], [True, False, False, True]]
    assert statistics.mcnemar(*(kept.flipped.sel(network="a", quantizer=n).values == 1 for n in (OTHER, CHANNEL))) == (
        5, 0, 0.0625
    )  # fmt: skip


def test_table_figure_and_summary_say_the_same_of_them(kept):
    table = quantizers.quantizers_table(kept).text
    # Of each: networks at equal bytes, among the fewest, medians of flips, band flips, and bytes of 4000 and 4040.
    assert table.loc[CHANNEL].tolist() == ["2", "2", "0.1000", "0.050", "0.249", "0.498"]
    assert table.loc[TENSOR].tolist() == ["1", "0", "0.1500", "0.075", "0.274", "0.548"]
    assert table.loc[OTHER].tolist() == ["1", "1", "0.2500", "0.125", "0.250", "0.500"]  # on a alone
    assert table.index.tolist() == NAMES
    figure = quantizers.flips_figure(kept)
    eight, four = figure.axes
    assert [text.get_text() for text in eight.get_yticklabels()] == NAMES[:3]
    assert [text.get_text() for text in four.get_yticklabels()] == NAMES[3:]
    drawn = [(line.get_label(), line.get_xdata().tolist()) for line in eight.lines if line.get_marker() in "os"]
    hollow = [values for label, values in drawn if label.startswith("_")]
    assert [values for label, values in drawn if label == "a"] == [[0, 0.15, 0.125]] and hollow[0] == []
    assert [values for label, values in drawn if label == "b"] == [[0.1]]
    assert hollow[1][0] == 0 and np.isnan(hollow[1][1])  # what is missing has no place
    eight, four = quantizers._fewest_lines(kept)
    assert eight.endswith(f"at equal bytes: {CHANNEL}: 2 of 2; {OTHER}: 1 of 1; {TENSOR}: 0 of 1.")
    assert four.endswith(f"at equal bytes: {FOUR}: 2 of 2.")


def test_rankings_by_hand(kept):
    table = quantizers.rankings_table(kept).text
    assert table.loc["a, 4 bits"].tolist() == ["0.1500", "0.0000", "–"]
    assert table.loc["b, 4 bits"].tolist() == ["0.1000", "0.1000", "–"]
    says = (
        "differ from uniform ones at {} of 2 budgets of published networks; beyond chance (McNemar), they flip fewer "
    )
    line = quantizers._ranking_line(kept, "margin noise")
    assert line == "Bits by margin noise " + says.format(1) + "decisions at 1 and more at 0."
    worse = kept.assign_coords(ranking=["margin noise", "uniform", "none such"])
    assert quantizers._ranking_line(worse, "margin noise").endswith("decisions at 0 and more at 1.")
    assert quantizers._ranking_line(kept, "none such").endswith(
        says.format(0) + "decisions at 0 and more at 0."
    )  # there is none
    assert quantizers.source(kept).data.splitlines() == [
        "Fresh, by `python -m studies run vendors all`, in `data/runs`. Nothing is published yet.", "", "Packages: numpy 2.0.", "",
        f"- Left out on b: {OTHER}. It has no such layer.", "- Left out everywhere: none such. A package is missing.",
    ]  # fmt: skip


def test_the_published_tables_are_full():
    found = published.load_published(published.QUANTIZERS)
    assert quantizers.source(found).data.startswith(
        "Published: `data/results/quantizers.nc`, by `python -m studies run vendors all`.\n"
    )
    quantizer, network, budget, ranking = (found.sizes[dim] for dim in ("quantizer", "network", "budget", "ranking"))
    tables = {quantizers.quantizers_table: (quantizer, 6), quantizers.rankings_table: (network * budget, ranking)}
    for make, shape in tables.items():
        table = make(found).text
        cells = table.to_numpy().ravel()
        assert table.shape == shape and not [cell for cell in cells if "nan" in cell or not cell.strip(" *()")]
    assert list(found.quantizer.values) == list(vendors.QUANTIZERS) and network == len(specs.Vendors().networks)
    assert at_equal_bytes(found).fewest.any("quantizer").all()  # the fewest is always marked
    marks = sum(line.get_xdata().size for axes in quantizers.flips_figure(found).axes for line in axes.lines
                if line.get_linestyle() == "None")  # fmt: skip
    assert marks == quantizer * network


@pytest.fixture(scope="module")
def swept(trained):
    split = trained.split
    calibration, heldout = (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)
    return bqcore.sweep(trained.model, calibration, heldout, bits=(8, 4, 2))


STATED = {"flip_rate": 0.02, "accuracy_loss": 0.05}


def test_the_verdict_of_each_bit_width_is_drawn_with_what_it_goes_by(swept):
    figure = audit.verdict_figure(swept, STATED)
    flips, loss = figure.axes
    held = swept.dataset.sel(split="heldout")
    dots = [float(line.get_xdata()[0]) for line in flips.lines if line.get_marker() in "osD"]
    assert dots == held.flip_rate.values.tolist() and len(dots) == 3
    judged = [limits.judge(held.sel(bits=b), STATED) for b in (8, 4, 2)]
    words = [f"{b} bits: {limits.word_of(one)}" for b, one in zip((8, 4, 2), judged)]
    assert [text.get_text() for text in flips.get_yticklabels()] == words and words[0].endswith(": ship") != words[
        2
    ].endswith(": ship")
    bars = [line.get_xdata() for line in loss.lines if line.get_marker() == "None" and line.get_linestyle() == "-"]
    assert [tuple(bar) for bar in bars] == [(one[1].low, one[1].high) for one in judged]
    assert loss.get_title("left") == "loss of accuracy\nlimit 5.0%"
    said = audit.answer(swept, STATED, published.load_published(published.QUANTIZERS)).data
    assert f"*{limits.word_of(judged[2])}* at " in said and "2 bits. Of the " in said


def test_layers_are_bars_with_their_intervals(trained):
    found = bqcore.blame_layers(trained.model, (trained.split.test_inputs, trained.split.test_classes), bits=2)
    (axes,) = audit.layers_figure(found).axes
    assert [bar.get_width() for bar in axes.patches] == found.band_flip_rate.values.tolist()
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"layer '{name}'" for name in found.layer.values]


def rates(*networks) -> xr.DataArray:
    """Return band flips of plan and uniform bits by network, at 4 bits and, all equal, at 3."""
    values = [networks, [(0.3, 0.3)] * len(networks)]
    coords = {"bits": [4, 3], "way": ["plan", "uniform"]}
    return xr.DataArray(values, coords, ("bits", "network", "way"), "band_flip_rate")


def test_plans_are_compared_network_by_network_and_one_has_no_interval():
    several = rates((0.10, 0.20), (0.20, 0.32), (0.10, 0.18))
    # Differences 0.10, 0.12, 0.08: deviation 0.02; Student 4.3027 of two degrees of freedom · 0.02 / √3 = 0.0497.
    gaps = audit.plan_gaps(several)
    assert gaps[4] == pytest.approx((0.1, 0.0503, 0.1497), abs=1e-4) and gaps[3] == pytest.approx((0, 0, 0))
    (axes,) = audit.plans_figure(several).axes
    dots = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert np.allclose(dots, [[0.10, 0.12, 0.08], [0, 0, 0]])
    squares = [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "s"]
    assert squares == pytest.approx([0.1, 0.0])
    assert audit._plan_lines(audit.plan_gaps(several)) == [
        "Bits by layer keep more of the band than uniform bits do at 4 bits."
    ]
    unsure = audit._plan_lines(audit.plan_gaps(rates((0.1, 0.2), (0.2, 0.1))))
    assert unsure[0].endswith("every interval holds 0.")
    one = rates((0.10, 0.22))
    (axes,) = audit.plans_figure(one).axes
    assert [line.get_marker() for line in axes.lines if line.get_marker() in "os"] == ["o", "o"]
    assert audit.plan_gaps(one) == {} and audit._plan_lines({}) == []


def shelves(*bands) -> pd.DataFrame:
    """Return a row for each network and quantizer; band flips are stated."""
    rows = [
        {"network": i, "quantizer": name, "bytes": size, "loss": 0.01, "flips": 0.02, "band": b, "displacement": 0.003}
        for i, pair in enumerate(bands)
        for (name, size), b in zip((("ONNX Runtime static, int8", 1200), (TENSOR, 1000)), pair)
    ]
    return pd.DataFrame(rows)


def test_the_shelf_is_told_in_means_and_only_pairs_that_are_there_are_compared():
    table = audit.shelf_table(shelves((0.2, 0.1), (0.32, 0.2), (0.18, 0.1))).text
    assert table.index.tolist() == [TENSOR, "ONNX Runtime static, int8"]
    assert table.loc[TENSOR].tolist() == ["1000", "0.0100", "0.0200", "0.1333", "0.0030"]
    assert table.columns.tolist()[3:] == ["band flips", "displacement, median"]
    assert audit._shelf_lines(shelves((0.2, 0.1), (0.32, 0.2), (0.18, 0.1))) == [
        f"ONNX Runtime static, int8, changes 0.2333 of the band in 1200 bytes, {TENSOR}, 0.1333 in 1000: a difference "
        "of 0.1000 [0.0503, 0.1497] over 3 networks."
    ]
    assert audit._shelf_lines(shelves((0.2, 0.1))) == []
    assert audit.absent_lines({}).data == "None is left out."
    assert audit.absent_lines({"x": "It is missing.", "y": "So is it."}).data == (
        "- Left out: x. It is missing.\n- Left out: y. So is it."
    )


def test_what_is_run_is_what_an_audit_alone_says(monkeypatch):
    of = audit.cases("", "", "", "", seed=3, seeds=2, width=8, epochs=2)
    (x, y), (u, v) = of[0].calibration, of[0].heldout
    assert len(of) == 2 and isinstance(of[0], Case) and not of[0].model.training
    assert x.shape == (449, 64) and u.shape == (450, 64) and len(y) == 449 and len(v) == 450
    many = audit.plans(of, (4,), share=0.2)
    assert many.dims == ("bits", "network", "way") and many.shape == (1, 2, 2)

    alone = bqcore.audit(of[1].model, vendors.ptq_w(of[1].model, 4).model, None, of[1].heldout, nodes=0).dataset
    band = float(alone.band_flip_rate.sel(split="heldout"))
    assert float(many.sel(bits=4, way="uniform")[1]) == band
    few = {
        "ours": (4, lambda m, x, y: vendors.ptq_w(m, 4)),
        "none": (8, lambda m, x, y: vendors.torchao_weights(m, 6)),
    }
    monkeypatch.setattr(vendors, "QUANTIZERS", few)
    found, absent = audit.shelf(of, share=0.2)
    assert absent == {"none": "Bit-width is 6: choose one of 8, 4."} and found.network.tolist() == [0, 1]
    assert found.band[1] == band and found.quantizer.tolist() == ["ours", "ours"]
    assert found.bytes[0] == bqcore.model_bytes(of[0].model, 4)
    with pytest.raises(ValueError, match="Seeds is 0: give an integer of at least 1"):
        audit.cases("", "", "", "", seed=3, seeds=0, width=8, epochs=2)
