"""The figures, tables and sentences of the multiverse's chapter show what is judged."""

import pytest

from studies.figures import multiverse
from studies.multiverse import judging
from studies.published import origin
from tests.helpers import ROOT


def test_figures_and_tables_show_what_is_judged(tiny, stated):
    rule, rows = stated
    judged, splits = judging.judge(tiny, rows, rule), multiverse.variance_splits(tiny)
    table = multiverse.claims_table(judged, rows, splits).text
    assert list(table.index) == list(judged) and table.loc["D2", "specifications"] == f"{judged['D2'].holds.size:,}"
    found = multiverse.outcomes({"digits": (judged, splits)}).set_index("claim")
    for name, row in table.iterrows():
        parts = [found.loc[name, column] for column in multiverse.OUTCOMES]
        assert sum(parts) == pytest.approx(1) and row["holds"] == f"{parts[0]:.0%}", name
        assert name not in splits or found.loc[name, "moved_most_by"] == row["moved most by"].rpartition(" (")[0]
    drawn = multiverse.outcomes_figure(multiverse.outcomes({"a": (judged, splits), "b": (judged, splits)}))
    assert all(len(axes.patches) == 3 * len(judged) for axes in drawn.axes)
    said = multiverse.answer(judged, multiverse.outcomes({"digits": (judged, splits)})).data
    assert f"Of {len(splits)} claims" in said
    assert list(multiverse.region_table(judged).text.index) == [
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
    shares, table = judging.shares(judged), multiverse.claims_table(judged, rows, splits).text
    for name in judged:
        axis, _ = multiverse.largest(splits[name])
        assert table.loc[name, "moved most by"].startswith(multiverse.AXES[axis])
        assert table.loc[name, "the paper"] == "direction" and table.loc[name, "holds"] == f"{shares[name]:.0%}"
    assert "input scale" not in multiverse.readings_table(judged).text.index  # it is not crossed here
    assert multiverse.choices_figure(judged, "holds").axes[0].get_title() == "share that holds, %"
    for many, (dataset, name) in zip(
        multiverse.load_elsewhere(), (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")), strict=True
    ):
        made = f"by `python -m studies run multiverse {dataset}`, from {name}"
        assert origin(many) == f"Published: `data/results/{dataset}_multiverse.nc`, {made}."
