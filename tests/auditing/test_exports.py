"""An audit in other programs' forms: each holds the audit's numbers, and hostile names stay text."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import bqcore
from bqcore.auditing.streaming import RATES
from tests.auditing.test_report import parsed
from tests.helpers.audits import of_logits, pairs_of_logits

N = 400
Z = np.stack([np.linspace(0.1, 4, N), np.zeros(N)], axis=1)


def audited(flips: int, limits=None, ids=None, y=None):
    """Audit a candidate that flips the samples of lowest margin."""
    q = Z.copy()
    q[:flips] = q[:flips, ::-1]
    return of_logits(Z, q, y, nodes=0, gradient_samples=0, limits=limits, ids=ids)


def test_the_table_of_rates_is_that_of_the_audit():
    found = audited(6, y=np.zeros(N, int))
    table = found.to_dataframe()
    assert isinstance(table, pd.DataFrame) and list(table.columns) == ["rate", "count", "low", "high"]
    held = found.dataset.sel(split="heldout")
    assert set(table.loc["heldout"].index) == set(RATES)
    for name, row in table.loc["heldout"].iterrows():
        assert row.tolist() == [float(held[f"{name}{end}"]) for end in ("", "_events", "_low", "_high")]
    assert table.loc[("heldout", "flip_rate"), "rate"] == 6 / N
    assert "accuracy" not in audited(6).to_dataframe().loc["heldout"].index
    flips = found.to_dataframe("flips")
    assert flips["sample"].tolist() == list(range(6)) and flips.margin.tolist() == pytest.approx(Z[:6, 0])
    assert found.to_dataframe("pairs").values.tolist() == [[0, 1, 6]] and audited(0).to_dataframe("flips").empty
    with pytest.raises(ValueError, match="Table is 'rows': choose one of 'rates', 'flips', 'pairs'."):
        found.to_dataframe("rows")


def test_classes_have_the_names_that_an_estimator_knows():
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = np.array(["a|b", "cat"])[(x[:, 0] > 0).astype(int)]
    model, other = (LogisticRegression().fit(x, y) for _ in range(2))
    other.intercept_ = model.intercept_ - 0.5
    found = bqcore.audit(model, other, None, (x, y), nodes=0)
    flips, held = found.to_dataframe("flips"), found.dataset.sel(split="heldout")
    assert len(flips) == int(held.flip_rate_events) > 0 and held.class_name.values.tolist() == ["a|b", "cat"]
    assert flips["from"].tolist() == model.predict(x[flips["sample"]]).tolist()
    assert flips["to"].tolist() == other.predict(x[flips["sample"]]).tolist()
    assert flips.target.tolist() == y[flips["sample"]].tolist()
    assert set(found.to_dataframe("pairs")["from"]) == set(flips["from"]) and "| cat | a\\|b |" in found.to_markdown()
    bare = bqcore.audit(model, other, None, x, nodes=0).to_dataframe("flips")
    assert bare.target.isna().all() and bare["to"].tolist() == flips["to"].tolist()


@pytest.mark.parametrize(
    ("flips", "limit", "outcome"),
    [(0, 0.02, "passed"), (4, 0.015, "skipped"), (4, 0.008, "failure"), (100, 0.02, "failure")],
)
def test_a_limit_is_a_test_that_passes_fails_or_is_skipped_and_is_annotated_so(flips, limit, outcome):
    found = audited(flips, {"flip_rate": limit})
    suite = ET.fromstring(found.to_junit())
    assert found.to_junit().startswith("<?xml version='1.0' encoding='utf-8'?>")
    (case,) = suite.iter("testcase")
    assert case.get("name") == f"flip rate at most {100 * limit:.3g} %"
    assert [child.tag for child in case] == ([] if outcome == "passed" else [outcome])
    assert suite.get("failures") == str(int(outcome == "failure")) and suite.get("tests") == "1"
    kinds = re.findall(r"^::(\w+) title=Audit::", found.to_annotations(), flags=re.M)
    assert kinds == {"passed": [], "skipped": ["warning"], "failure": ["error"]}[outcome] + ["notice"]
    assert "%25" in found.to_annotations() and not re.search("%(?!25|0A|0D)", found.to_annotations())


def test_markdown_has_verdict_limits_steps_and_samples():
    text = audited(6, {"flip_rate": 0.1, "band_flip_rate": 0.05}).to_markdown()
    assert text.startswith("## ⚠️ Look: the limit of band flips is neither")
    assert "| flip rate | 1.5 % | " in text and "| 10 % | kept |\n" in text and "| 5 % | open |\n" in text
    assert "Of 6 changed decisions" in text and text.count("\n| ") == 2 + 2 + 2 + 5
    assert "\n1. Layer: " in text and "\n3. Samples: " in text


HOSTILE = st.text(min_size=1, max_size=20).filter(str.strip) | st.sampled_from(
    ["</details><script>x</script>", "a|b", "`x`", "::error::x", "\n::error::x", "]]>", "\x00", "@everyone", "&lt;"]
)


@settings(max_examples=40)
@given(HOSTILE)
def test_hostile_names_stay_text(name):
    found = audited(3, ids=[name] * N)
    root = ET.fromstring(found.to_junit())
    assert [child.tag for child in root] == ["testsuite"]
    markdown, lines = found.to_markdown(), found.to_annotations().split("\n")
    assert all(
        line.startswith(("::error title=Audit::", "::warning title=Audit::", "::notice title=Audit::"))
        for line in lines
    )
    rows = [line for line in markdown.split("## ")[1].splitlines() if line.endswith("| 0 | 1 |")]
    assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 5 for row in rows)
    assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>)", markdown)
    html = parsed(found._repr_html_())
    assert {tag for tag, *_ in html.seen} <= set(
        "div p strong table thead tbody tr th td ol ul li details summary".split()
    )


@pytest.mark.slow
@settings(max_examples=25)
@given(pairs_of_logits())
def test_any_audit_has_all_forms(drawn):
    z, q, y = drawn
    try:
        found = of_logits(z, q, y, nodes=0, gradient_samples=0)
    except ValueError:  # logits that look like probabilities
        return
    suite = ET.fromstring(found.to_junit())
    assert int(suite.get("tests")) == len(found.verdict.judged)
    assert found.verdict.headline in " ".join("".join(parsed(found._repr_html_()).text).split())
    assert len(found.to_dataframe("flips")) == int(found.dataset.sel(split="heldout").flip_rate_events)
    assert found.to_markdown().count("\n1. ") == 1
