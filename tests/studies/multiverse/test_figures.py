"""The figures, tables and sentences of the multiverse's chapter show what is judged."""

import pytest

from studies.figures import multiverse
from studies.multiverse import judging
from studies.published import origin
from tests.helpers import ROOT


def test_figures_and_tables_show_what_is_judged(tiny, stated):
    rule, rows = stated
    judged, splits = judging.judge(tiny, rows, rule), multiverse.variance_splits(tiny)
    table = multiverse.claims_table(judged, rows, splits)
    assert list(table.index) == list(judged) and table.loc["D2", "specifications"] == f"{judged['D2'].holds.size:,}"
    for name, row in table.iterrows():
        parts = [float(row[column].rstrip("%")) for column in ("holds", "inconclusive", "fails")]
        assert sum(parts) == pytest.approx(100, abs=0.11), name
    assert list(multiverse.region_table(judged).index) == [
        "all",
        *(f"all but {n}" for n in judging.NUMBERS),
    ]
    curves = multiverse.curve_figure(judged, rows, ["D2", "J1"])
    assert [axes.get_title() for axes in curves.axes[:2]] == [
        f"{name}: {judged[name].holds.size:,} specifications" for name in ("D2", "J1")
    ]
    assert multiverse.variance_figure(splits).axes[0].texts
    text = multiverse.summary(tiny, judged, splits, rule).data
    size = judging.region_size(judging.region(judged))
    assert f"agree in {size['cells']} of {size['of']} cells" in text
    with pytest.raises(ValueError, match=r"^results is 'old': choose one of 'published', 'fresh'\.$"):
        multiverse.load("old", 2)


def test_elsewhere_the_page_tells_what_is_published(published_sets, stated, monkeypatch):
    monkeypatch.chdir(ROOT)
    rule, rows = stated
    sets = [published_sets[dataset] for dataset in ("mnist", "fashion-mnist")]
    judged, splits = {}, {}
    for many in sets:
        judged |= judging.judge(many, rows, rule)
        splits |= multiverse.variance_splits(many)
    assert list(judged) == list(splits) == ["S5", "S6"]
    shares, text = judging.shares(judged), multiverse.elsewhere_summary(judged, splits).data
    table = multiverse.claims_table(judged, rows, splits)
    for name, line in zip(judged, text.splitlines(), strict=True):
        axis, _ = multiverse.largest(splits[name])
        assert line.startswith(f"- **{name}** holds in {shares[name]:.1%} of its specifications and agrees in ")
        assert f"*{multiverse.AXES[axis]}*" in line and "that hold (" in line
        assert table.loc[name, "reported"] == "direction" and table.loc[name, "holds"] == f"{shares[name]:.1%}"
    assert "input scale" not in multiverse.readings_table(judged).index  # it is not crossed here
    assert multiverse.choices_figure(judged, "holds").axes[0].get_title() == "share that holds, %"
    for many, (dataset, name) in zip(
        multiverse.load_elsewhere(), (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")), strict=True
    ):
        made = f"by `python -m studies run multiverse {dataset}`, from {name}"
        assert origin(many) == f"Published: `data/results/{dataset}_multiverse.nc`, {made}."
