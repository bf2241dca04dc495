"""The chapter on why the numbers differ shows what the tests of explanations found."""

import pytest

from studies import explanations, published
from studies.figures import gaps
from tests.helpers import ROOT
from tests.helpers.claims import published_rows


@pytest.fixture(scope="module")
def tested():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        claims = published_rows()
        yield claims, explanations.tested(claims)


def test_every_prediction_has_a_mark_of_its_outcome(tested):
    _, found = tested
    (axes,) = gaps.overview_figure(found).axes
    marks = [line for line in axes.lines if len(line.get_xdata())]
    tests = [test for entry in found for test in entry["tests"]]
    assert [line.get_color() for line in marks] == [gaps.OUTCOME_COLOURS[test["outcome"]] for test in tests]
    assert [text.get_text() for text in axes.texts] == [test["against"] for test in tests]


def test_the_table_names_each_claim_once_as_explained_or_not(tested):
    claims, found = tested
    table = gaps.gaps_table(claims, found)
    assert len(table.text.columns) == 3
    left = ", ".join(table.text["unexplained"])
    assert all((row["id"] in left.split(", ")) == (row["explanation"] == "unexplained") for row in claims
               if row["verdict"] != "not attempted")  # fmt: skip


def test_gains_beyond_chance_are_counted(monkeypatch):
    monkeypatch.chdir(ROOT)
    many = published.load_published(explanations.FILES["roundings"])
    table, found = gaps.gain_table(many).data, gaps.gains(many)
    flips = found.sel(measure="band_flip_rate", bits=4)
    assert int(table["4_bits_lower"][2]) == int((flips.high < 0).sum())
    assert int(table["4_bits_of"][2]) == int(flips.estimate.notnull().sum()) > 0
