"""The paper's own tables, with invented numbers: what is read, what is judged, and what is refused and where."""

import csv

import jsonschema
import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bqcore import _store
from studies import ledger, paper_tables, published, specs, verdicts
from tests.helpers import ROOT

ABSTRACT = yaml.safe_load((ROOT / "data" / "claims.yml").read_text(encoding="utf-8"))
TEMPLATES = ROOT / "data" / "paper" / "templates"


def read(folder, number: int, *lines: str) -> list[dict]:
    """Return the claims of one table, which is written into an empty folder."""
    folder.mkdir(exist_ok=True)
    (folder / f"table-{number}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paper_tables.claims(folder, ABSTRACT["claims"])


def filled(name: str, folder) -> list[dict]:
    """Write a template with an invented value in each of its rows into a folder; return the rows."""
    folder.mkdir(exist_ok=True)
    with (TEMPLATES / name).open(newline="") as file:
        rows = [row | {"value": 0.5, "seeds": 2} for row in csv.DictReader(file)]
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_without_tables_and_with_empty_ones_there_are_no_claims(tmp_path):
    assert paper_tables.claims(tmp_path / "nowhere", ABSTRACT["claims"]) == []
    assert paper_tables.claims(TEMPLATES, ABSTRACT["claims"]) == []


def test_a_table_of_each_kind(tmp_path):
    first = read(
        tmp_path, 1, "bits,measure,value,seeds", "7,flip_rate,0.002,1", "", "float,accuracy,,", "4,radius_95,1.5,2"
    )
    common = {
        "dataset": "digits",
        "kind": "value",
        "from": "digits_levels.nc",
        "span": "bits",
        "where": "Table 1",
        "first_rule": None,
    }
    assert first == [
        common | {"id": "T1.2", "says": "flip rate, 7 bits", "reported": 0.002, "means_of": 1,
                  "select": {"measure": "flip_rate", "bits": 7}},
        common | {"id": "T1.5", "says": "local logit-margin radius, 95th percentile, 4 bits", "reported": 1.5, "means_of": 2,
                  "select": {"measure": "radius", "quantile": 0.95, "bits": 4}},
    ]  # fmt: skip
    (tmp_path / "table-1.csv").unlink()
    second = read(
        tmp_path, 2, "transition,measure,value,seeds", "8-7,junction_union,12,1", *[",junction_union,34,1"] * 2
    )
    assert [claim["select"] for claim in second] == [
        {"measure": "junction_union", "transition": "8→7"}, *[{"measure": "junction_union"}] * 2
    ]  # fmt: skip
    assert [claim.get("at_any") for claim in second] == [None, "transition", "transition"]
    assert {claim["span"] for claim in second} == {"transition"}
    (tmp_path / "table-2.csv").unlink()
    fifth = read(tmp_path, 5, "value,measure,bits,seeds", "0.003,accuracy_lost,6,3", "0.2,boundary_jaccard,4,3")
    nodes = specs.baseline("stopping", "full-cifar-10").nodes[0]
    assert [claim["select"] for claim in fifth] == [
        {"measure": "accuracy", "split": "held-out", "bits": 32, "less_bits": 6},
        {"measure": "boundary_jaccard", "nodes": nodes, "split": "held-out", "bits": 4},
    ]
    assert [claim["says"] for claim in fifth] == [
        "accuracy lost, 6 bits, held-out inputs", "boundary-mask Jaccard distance, 4 bits, held-out inputs"
    ]  # fmt: skip
    assert [claim["id"] for claim in fifth] == ["T5.2", "T5.3"]


def test_numbers_at_a_limit_that_is_not_said_are_judged_together_too(tmp_path):
    *found, joint = read(
        tmp_path, 3, "dataset,rule,limit,split,measure,value,seeds",
        "digits,boundary-aware,,,flip_rate,0.002,4", "digits,boundary-aware,,held-out,boundary_jaccard,0.5,4",
        "mnist,boundary-aware,,,chosen_bits,7,1", "digits,accuracy,,calibration,flip_rate,0.01,4",
        "digits,jaccard,0.3,,flip_rate,0.01,4",
    )  # fmt: skip
    held_out = {"measure": "flip_rate", "split": "held-out"}
    assert found[0]["select"] == held_out | {"rule": "jaccard", "limit": "usual"}
    assert found[2]["select"] == {"measure": "chosen_bits", "rule": "jaccard", "limit": "usual"}
    assert found[3]["select"] == {"measure": "flip_rate", "split": "calibration", "rule": "accuracy", "limit": 0.0}
    assert found[4]["select"] == held_out | {"rule": "jaccard", "limit": 0.3}
    assert [claim["says"].partition(", ")[2] for claim in found] == [
        *["after boundary-aware stopping, held-out inputs"] * 2, "after boundary-aware stopping",
        "chosen by accuracy, calibration inputs", "after boundary-aware stopping at 0.3, held-out inputs",
    ]  # fmt: skip
    assert (joint["id"], joint["together"], joint["kind"], joint["over"]) == (
        "T3.2+T3.3",
        ["T3.2", "T3.3"],
        "joint",
        "limits",
    )
    assert (joint["dataset"], joint["from"], joint["where"]) == ("digits", "digits_stopping.nc", "Table 3")


def test_an_id_takes_all_but_the_number_from_the_abstract(tmp_path):
    known = {claim["id"]: claim for claim in ABSTRACT["claims"]}
    found = read(tmp_path, 6, "id,measure,value,seeds", "K1,,0.9467,", "R3,,0.36,3")
    assert found == [
        known["K1"] | {"id": "T6.2", "where": "Table 6", "reported": 0.9467, "first_rule": None},
        known["R3"] | {"id": "T6.3", "where": "Table 6", "reported": 0.36, "means_of": 3, "first_rule": None},
    ]
    with pytest.raises(
        ValueError, match=r"line 2, column measure: 'accuracy' is too much, since K1 says what the value"
    ):
        read(tmp_path, 6, "id,measure,value,seeds", "K1,accuracy,0.9,")
    with pytest.raises(ValueError, match=r"line 2, column id: 'S5' is none of D1, D2, .*K2\.$"):
        read(tmp_path, 6, "id,measure,value,seeds", "S5,,0.9,")


@pytest.mark.parametrize("number", paper_tables.FORMS)
def test_every_row_of_a_template_makes_a_claim_of_the_form_of_the_abstract_s(tmp_path, number):
    rows = filled(f"table-{number}.csv", tmp_path)
    found = paper_tables.claims(tmp_path, ABSTRACT["claims"])
    assert [claim["id"] for claim in found if "+" not in claim["id"]] == [
        f"T{number}.{line}" for line in range(2, len(rows) + 2)
    ]
    schema = yaml.safe_load((ROOT / "data" / "claims.schema.yml").read_text(encoding="utf-8"))
    jsonschema.validate(ABSTRACT | {"claims": found}, schema)
    names = {published.name_of(spec) for spec in specs.BASELINES}
    assert {
        name for claim in found for name in ([claim["from"]] if isinstance(claim["from"], str) else claim["from"])
    } <= names


TABLES = [
    (
        1,
        "bits,mesure,value,seeds",
        r"line 1, column 'mesure' is not known: the columns are bits, measure, value, seeds and",
    ),
    (1, "bits,bits,measure,value,seeds", r"line 1, column 'bits' stands twice: the columns are"),
    (1, "bits,measure,value", r"line 1, column 'seeds' is missing: the columns are"),
    (1, "bits;measure;value;seeds", r"column 'bits;measure;value;seeds' is not known: .*, with commas between them\.$"),
    (1, "", r"line 1, column 'measure' is missing"),
    (5, "bits,method,measure,value,seeds", r"column 'method' is not known: the columns are bits, split, measure, "),
]


@pytest.mark.parametrize(("number", "head", "message"), TABLES)
def test_a_wrong_head_is_named(tmp_path, number, head, message):
    with pytest.raises(ValueError, match=rf"table-{number}\.csv: {message}" if "line" in message else message):
        read(tmp_path, number, head)


THREE = "dataset,rule,limit,bits,measure,value,seeds"
ROWS = [
    (1, "bits,measure,value,seeds", "9,accuracy,0.9,1", r"column bits: '9' is none of 8, 7, 6, 5, 4, 3, 2, float\.$"),
    (1, "bits,measure,value,seeds", "8,accuracy,97.33,1", r"column value: 97\.33 cannot be: accuracy is from 0 to 1, percent"),
    (1, "bits,measure,value,seeds", "8,accuracy,nan,1", r"column value: nan cannot be"),
    (1, "bits,measure,value,seeds", "8,radius,inf,1", r"column value: inf cannot be: local logit-margin radius is a finite"),
    (1, "bits,measure,value,seeds", "8,accuracy,high,1", r"column value: 'high' is no number: write it as 0\.0290"),
    (1, "bits,measure,value,seeds", "8,accuracy,0.9,", r"column seeds: '' is no count: write how many runs"),
    (1, "bits,measure,value,seeds", "8,accuracy,0.9,0", r"column seeds: '0' is no count"),
    (1, "bits,measure,value,seeds", "8,accuracy,0,9733,1", r"has 5 cells for 4 columns: separate cells by commas, and dec"),
    (1, "bits,measure,value,seeds", ",accuracy,0.9,1", r"column bits is empty: write one of 8, 7"),
    (1, "bits,measure,value,seeds", "8,flips,0.9,1", r"column measure: 'flips' is none of accuracy, flip_rate, .*variation_95\."),
    (1, "bits,measure,value,seeds", "float,accuracy_lost,0.1,1", r"column bits: 'float' is none of 8, 7, 6, 5, 4, 3, 2\.$"),
    (2, "transition,measure,value,seeds", "8→6,changed_cells,9,1", r"column transition: '8→6' is none of 8-7, 7-6, .*, 3-2\."),
    (3, THREE, "cifar,accuracy,,,accuracy,0.9,1", r"column dataset: 'cifar' is none of digits, mnist, fashion-mnist\.$"),
    (3, THREE, "digits,loss,,,accuracy,0.9,1", r"column rule: 'loss' is none of accuracy, boundary-aware, jaccard\."),
    (3, THREE, "digits,jaccard,,,accuracy,0.9,1", r"column limit is empty: write one of 0\.1, 0\.2, .*, 0\.7\.$"),
    (3, THREE, "digits,jaccard,0.15,,accuracy,0.9,1", r"column limit: '0\.15' is none of 0\.1, 0\.2"),
    (3, THREE, "digits,boundary-aware,0.3,,accuracy,0.9,1", r"column limit: '0\.3' is too much, since the rule with a limit is jaccard"),
    (3, THREE, "digits,accuracy,,8,accuracy,0.9,1", r"column bits: '8' is too much, since the rule chooses them"),
    (3, THREE, "digits,accuracy,,,accuracy_lost,0.9,1", r"column rule: 'accuracy' is too much, since accuracy is lost at"),
    (3, THREE, "digits,,,8,chosen_bits,8,1", r"column rule is empty: write one of accuracy, boundary-aware"),
    (3, THREE, "digits,,0.3,8,accuracy,0.9,1", r"column limit: '0\.3' is too much, since a limit belongs to a rule"),
    (6, "dataset,bits,method,measure,value,seeds", "digits,6,gap,accuracy,0.9,1", r"column bits: '6' is none of 4, 3\.$"),
    (6, "dataset,bits,method,measure,value,seeds", "digits,4,hinge,accuracy,0.9,1", r"column method: 'hinge' is none of float, "),
]  # fmt: skip


@pytest.mark.parametrize(("number", "head", "row", "message"), ROWS)
def test_a_wrong_cell_is_named_with_file_line_and_column(tmp_path, number, head, row, message):
    with pytest.raises(ValueError, match=rf"table-{number}\.csv: line 3,? {message}") as refused:
        read(tmp_path, number, head, "," * head.count(","), row)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("number", "head", "row", "message"), [case for case in ROWS if ",0.9," in case[2]])
def test_a_row_that_is_not_filled_in_is_held_to_the_same(tmp_path, number, head, row, message):
    if "column seeds" in message:  # which belongs to the value
        assert read(tmp_path, number, head, row.replace(",0.9,", ",,")) == []
    else:
        with pytest.raises(ValueError, match=rf"line 2, {message}"):
            read(tmp_path, number, head, row.replace(",0.9,", ",,"))


def test_what_is_said_twice_and_a_file_of_another_name_are_refused(tmp_path):
    lines = ["bits,measure,value,seeds", "8,accuracy,0.9,1", "7,accuracy,0.9,1", "8,accuracy,,1"]
    with pytest.raises(
        ValueError, match=r"table-1\.csv: line 4, it says again what line 2 says: leave one of them out\.$"
    ):
        read(tmp_path, 1, *lines)
    (tmp_path / "table-1.csv").rename(tmp_path / "table1.csv")
    with pytest.raises(
        ValueError, match=r"table1\.csv is no table of the paper: name it one of table-1\.csv, .*table-6\.csv\.$"
    ):
        paper_tables.claims(tmp_path, [])


def test_a_spreadsheet_s_mark_and_blanks_are_no_matter(tmp_path):
    (tmp_path / "table-1.csv").write_text(
        "\ufeffbits , measure,value,seeds\r\n 8,accuracy , 0.5,1\r\n,,,\r\n", newline=""
    )
    assert [claim["reported"] for claim in paper_tables.claims(tmp_path, [])] == [0.5]
    (tmp_path / "table-1.csv").write_bytes(b"bits,measure,value,seeds\n8,accuracy,0\xff5,1\n")
    with pytest.raises(ValueError, match=r"line 2, column value: .* is no number"):
        paper_tables.claims(tmp_path, [])


@given(
    st.lists(st.tuples(st.sampled_from(specs.Levels().bits), st.floats(0, 1)), unique_by=lambda row: row[0]),
    st.randoms(),
)
def test_numbers_are_read_as_written_whatever_the_order_of_columns(tmp_path_factory, rows, random):
    head = ["bits", "measure", "value", "seeds"]
    random.shuffle(head)
    lines = [dict(bits=bits, measure="accuracy", value=repr(value), seeds=1) for bits, value in rows]
    text = [",".join(head), *(",".join(str(line[name]) for name in head) for line in lines)]
    found = read(tmp_path_factory.mktemp("t"), 1, *text)
    assert [(claim["select"]["bits"], claim["reported"]) for claim in found] == rows


def test_an_invented_table_is_judged_and_shown_beside_invented_runs(tmp_path):
    runs = np.linspace(0, 1, 39)  # the interval of the next run is from the least to the greatest
    values = np.stack([np.full(39, 9.0), runs, runs + 3], axis=1)
    made_by = {"spec": specs.Levels().text(), "command": specs.Levels().command(39)}
    many = xr.Dataset({"radius": (("seed", "bits", "quantile"), np.stack([values, 2 * values], axis=-1))},
                      {"seed": np.arange(39), "bits": [32, 8, 4], "quantile": [0.5, 0.95]}, made_by)  # fmt: skip
    _store.save_dataset(many, tmp_path / "digits_levels.nc")
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(ABSTRACT | {"claims": []}))
    assert ledger.ledger(tmp_path / "claims.yml", tmp_path) == []
    read(tmp_path / "paper", 1, "bits,measure,value,seeds", "8,radius,0.25,1", "4,radius_95,6.5,1", "4,radius,0.25,1")
    rows = {row["id"]: row for row in ledger.ledger(tmp_path / "claims.yml", tmp_path)}
    assert {name: (row["reported"], row["estimate"], row["verdict"]) for name, row in rows.items()} == {
        "T1.2": (0.25, 0.5, "reproduced"), "T1.3": (6.5, 7.0, "reproduced"), "T1.4": (0.25, 3.5, "not reproduced")
    }  # fmt: skip
    assert "T1.4 (digits): local logit-margin radius, median, 4 bits" in ledger.table(list(rows.values()))
    (tmp_path / "paper" / "table-1.csv").write_text("bits,measure,value,seeds\n8,radius,many,1\n")
    with pytest.raises(ValueError, match=r"paper.table-1\.csv: line 2, column value: 'many' is no number"):
        ledger.ledger(tmp_path / "claims.yml", tmp_path)


@pytest.mark.slow
def test_every_number_that_a_template_asks_for_is_judged_on_the_published_runs(tmp_path):
    names = [path.name for path in TEMPLATES.glob("*.csv")]
    for name in names:
        filled(name, tmp_path / "paper")
    abstract = [claim for claim in ABSTRACT["claims"] if claim["id"] in ("K1", "K2")]
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(ABSTRACT | {"claims": abstract}))
    rows = ledger.ledger(tmp_path / "claims.yml", ROOT / published.PUBLISHED)
    assert len(rows) == 2 + 130 + 4 and {row["verdict"] for row in rows} <= set(verdicts.VERDICTS[:3])
    assert all(row["runs"] and row["command"] for row in rows)
