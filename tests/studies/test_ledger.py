"""The ledger: every claim of the abstract with its number, what is refused, and what the command shows."""

import csv
import io
import json
import shutil
from functools import cache

import pytest
import yaml

from bqcore import _store
from studies import __main__, explanations, ledger, published, specs, verdicts
from tests.helpers import ROOT
from tests.helpers.claims import (
    ADDED,
    KEYS,
    RAMP,
    REPORTED,
    RULE,
    TOGETHER,
    by_bits,
    judge,
    judge_file,
    judge_many,
    published_rows,
    value,
)

DATASETS = {
    "D": {"digits"}, "J": {"digits"}, "S": {"digits", "MNIST", "Fashion-MNIST"}, "C": {"CIFAR-10 subset"},
    "F": {"full CIFAR-10"}, "R": {"full CIFAR-10"}, "K": {"all data sets"},
}  # fmt: skip


def test_every_claim_of_the_abstract_is_there_with_its_number(clone):
    rule, stated = ledger.load_claims()
    assert {claim["id"]: claim["reported"] for claim in stated} == REPORTED | ADDED | dict.fromkeys(TOGETHER, "joint")
    assert rule == RULE
    for claim in stated:
        assert claim["dataset"] in DATASETS[claim["id"][0]], claim["id"]
        assert claim["where"] == "abstract"
        numbered = claim["kind"] in ("value", "reduction", "correlation")
        assert numbered == (not isinstance(claim["reported"], str)), claim["id"]
        assert ("from" in claim) != bool(claim.get("not_attempted")), claim["id"]  # judged, or with a reason why not
        assert (claim.get("first_rule", {}) is None) == (claim["id"] not in REPORTED), claim["id"]
    assert {claim["id"] for claim in stated if "from" in claim} == {*REPORTED, *ADDED, *TOGETHER}
    parts = [f"R6-{measure}" for measure in ("jaccard", "flips", "band", "accuracy")]
    together = {claim["id"]: claim["together"] for claim in stated if "together" in claim}
    assert together == TOGETHER | {"R6": parts}


SIDES = (("first", "logits"), ("second", "gap"))


def test_the_claims_pick_the_baselines_measures(clone):
    judged = {claim["id"]: claim for claim in ledger.load_claims()[1] if "from" in claim}
    nodes, subset = specs.Levels().nodes[0], specs.baseline("stopping", "cifar-10").nodes[0]
    held_out, by_accuracy = {"split": "held-out"}, {"rule": "accuracy", "limit": 0.0}
    at_4, full = held_out | {"bits": 4}, specs.baseline("rounding", "full-cifar-10").nodes[0]
    flips, chosen = {"measure": "flip_rate"} | held_out, {"measure": "chosen_bits"}
    aware = {"rule": "jaccard", "limit": "usual"}
    jaccard = {"measure": "boundary_jaccard"} | held_out
    assert {name: claim.get("select") for name, claim in judged.items()} == {
        "D1": {"measure": "flip_rate", "bits": 8},
        "D2": {"measure": "boundary_jaccard", "bits": 8, "nodes": nodes},
        "D3": {"measure": "accuracy", "bits": 4},
        "D4": {"measure": "boundary_jaccard", "bits": 4, "nodes": nodes},
        "D5": {"measure": "displacement", "bits": 4, "quantile": 0.5},
        "J1": None,
        **dict.fromkeys(("J2", "J3", "J4"), {"measure": "junction_union"}),
        "S1": flips | by_accuracy, "S2": flips | aware, "S3": jaccard | by_accuracy | {"nodes": nodes},
        "S4": jaccard | aware | {"nodes": nodes}, "S5": None, "S6": None,
        "C1": chosen | by_accuracy, "C2": flips | by_accuracy, "C3": jaccard | by_accuracy | {"nodes": subset},
        "C4": chosen | aware, "C5": flips | aware, "C6": jaccard | aware | {"nodes": subset},
        "F1": {"measure": "accuracy", "bits": 32, "less_bits": 6} | held_out, "F2": flips | {"bits": 6},
        "F3": {"measure": "band_flip_rate", "bits": 6} | held_out,
        "R1": at_4 | {"measure": "boundary_jaccard", "nodes": full, "method": "logits"},
        "R2": at_4 | {"measure": "boundary_jaccard", "nodes": full, "method": "gap"},
        "R3": at_4 | {"measure": "band_pair_order_flip_rate", "method": "logits"},
        "R4": at_4 | {"measure": "band_pair_order_flip_rate", "method": "gap"},
        **dict.fromkeys(("R5", "R6", "K1", "K2", *ADDED, *TOGETHER)),
    }  # fmt: skip
    assert judged["R5"]["second"]["bits"] == judged["R7"]["second"]["bits"] == judged["R8"]["second"]["bits"] == 4
    parts = [f"R6-{measure}" for measure in ("jaccard", "flips", "band", "accuracy")]
    assert all(judged[name][side]["bits"] == 3 for name in parts for side in ("first", "second"))
    for name in ("R5", "R7", "R8", *parts):
        sides = (
            SIDES if name != "R6-accuracy" else [(side, method) for (side, _), (_, method) in zip(SIDES, SIDES[::-1])]
        )
        assert all(judged[name][side]["method"] == method for side, method in sides)
        assert (
            len({tuple(item for item in judged[name][side].items() if item[0] != "method") for side, _ in SIDES}) == 1
        )
    # 17/1800 and 4/1800 are means of four runs of 450, full CIFAR-10 has three seeds; the other numbers are of single runs.
    means = {name: claim.get("means_of", 1) for name, claim in judged.items()}
    three = [name for name, claim in judged.items() if name[0] in "FR" and claim["kind"] in ("value", "reduction")]
    assert means == dict.fromkeys(judged, 1) | dict.fromkeys(("S1", "S2", "S3", "S4"), 4) | dict.fromkeys(three, 3)
    for name in ("S5", "S6"):  # by the protocol of S2: calibration data of the same set pick the limit
        assert judged[name]["first"] == flips | by_accuracy
        assert judged[name]["second"] == flips | aware == judged["S2"]["select"]
        assert judged[name]["first_rule"] == {"limit_from": "digits_stopping.nc"}
    assert judged["K1"]["from"] == judged["K2"]["from"] and len(judged["K1"]["from"]) > 5
    assert judged["K1"]["bits"] == judged["K2"]["bits"] == list(specs.baseline("rounding", "digits").bits) == [4, 3]
    for claim in [claim for claim in judged.values() if claim["kind"] != "correlation"]:
        spec = next(spec for spec in specs.BASELINES if published.name_of(spec) == claim["from"])
        assert spec.dataset == claim["dataset"].lower().removesuffix(" subset").replace("full ", "full-")
    expected = {("flip_rate", 8): 0, ("boundary_jaccard", 8): 0.428, ("accuracy", 4): 0.9733}
    assert ledger.reported_values() == expected | {("boundary_jaccard", 4): 0.97, ("displacement", 4): 0.029}


def test_what_the_paper_reports_is_there_by_claim():
    claims = yaml.safe_load(ledger.CLAIMS.read_text(encoding="utf-8"))["claims"]
    assert ledger.reported() == {claim["id"]: claim["reported"] for claim in claims}


def test_a_claim_not_attempted_has_no_numbers(tmp_path):
    row = judge_file(tmp_path, [{"id": "Z", "reported": 3, "kind": "value", "not_attempted": "not yet"}])[0]
    assert row == dict.fromkeys(KEYS) | {
        "id": "Z", "dataset": "d", "says": "s", "kind": "value", "reported": 3, "where": "w", "short": "s", "verdict": "not attempted",
        "explanation": "",
    }  # fmt: skip
    assert (
        "| Z (d): s | 3     |                     | not attempted |                     |            |               |"
        in (ledger.table([row]))
    )


MEASURE = {"measure": "x"}
UNBOUNDED = {"kind": "no gain", "first": MEASURE, "second": MEASURE, "bound": 0.1, "because": "so"}
GOOD = {"id": "A", "dataset": "d", "says": "s", "where": "w", "from": "x.nc"} | value(0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"kind": "sort"},
            r"c\.yml: claim B: kind: 'sort' is not one of \['value', .+; the file's first lines say what is needed\.$",
        ),
        ({"reported": "0.9 or so"}, r"c\.yml: claim B: reported: '0\.9 or so' is not of type 'number'; the file's"),
        ({"reported": None}, r"claim B: reported: None is not of type 'number'"),
        ({"means_of": 1.5}, r"claim B: means_of: 1\.5 is not of type 'integer'"),
        ({"select": {"bits": 8}}, r"claim B: select: 'measure' is a required property"),
        ({"pol": "seed"}, r"claim B: .*'pol' was unexpected"),
        ({"kind": "joint", "reported": "joint"}, r"claim B: 'together' is a required property"),
        ({"kind": "joint", "reported": "joint", "together": ["A"]}, r"claim B: together: \['A'\] is too short"),
        (
            {"kind": "joint", "reported": "joint", "together": ["A", "C"]},
            r"c\.yml: claim B: together names C, which is no claim\.$",
        ),
        ({"first_rule": {"kind": "value"}}, r"claim B: first_rule: kind: 'value' is not one of \['stopping', "),
        ({"id": "A"}, r"c\.yml: a claim's id stands twice: \['A'\]\."),
        *(
            ({missing: ...}, rf"c\.yml: claim B: '{missing}' is a required property; the file's first")
            for missing in ("dataset", "says", "reported", "kind", "where", "from", "select", "span", "means_of")
        ),
        ({"kind": "direction"}, r"claim B: 'first' is a required property"),
        ({"kind": "direction", "first": MEASURE, "second": MEASURE}, r"claim B: 'bound' is a required property"),
        (UNBOUNDED | {"because": ...}, r"claim B: 'because' is a required property"),
        (UNBOUNDED | {"bound": 0}, r"claim B: bound: 0 is less than or equal to the minimum of 0"),
        (UNBOUNDED | {"than": 1.0}, r"claim B: .* is valid under each of"),
        (UNBOUNDED | {"kind": "reduction", "second": ...}, r"claim B: 'second' is a required property"),
        ({"kind": "correlation"}, r"claim B: 'of' is a required property"),
        ({"kind": "correlation", "of": "lowest"}, r"claim B: 'bits' is a required property"),
        ({"id": ...}, r"c\.yml: claim number 2: 'id' is a required property"),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, wrong, message):
    second = {key: value for key, value in (GOOD | {"id": "B"} | wrong).items() if value is not ...}
    content = {"rule": RULE, "claims": [GOOD, second]}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        ledger.load_claims(tmp_path / "c.yml")
    content["claims"][1] = GOOD | {"id": "B"}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    assert len(ledger.load_claims(tmp_path / "c.yml")[1]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"c\.yml: None is not of type 'object'; the file's first lines say"),
        ("claims: []", r"c\.yml: 'rule' is a required property"),
        ("rule: {level: 0.95}\nclaims: []", r"c\.yml: rule: 'power' is a required property"),
        (
            "rule: {level: 0.95, power: 0.8, too_wide: 1, spare: 1}\nclaims: 3",
            r"c\.yml: claims: 3 is not of type 'array'",
        ),
        (
            "rule: {level: 0.95, power: 0.8, too_wide: 1, spare: 1}\nclaims: [D1]",
            r"c\.yml: claim number 1: 'D1' is not of type 'object'",
        ),
        ("rule: [", r"c\.yml is not YAML: while parsing .*line 1"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        ledger.load_claims(tmp_path / "c.yml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"select": {"measure": "n", "bits": 8}}, "No variable named 'n'"),
        ({"select": {"measure": "m", "bits": 5}}, "not all values found in index 'bits'"),
        ({"select": {"measure": "m", "bits": 8, "level": 8}}, "level"),
        ({"select": {"measure": "m"}}, "its select names no bits, along which its neighbours lie"),
        ({"select": {"measure": "m"}, "at_any": "seed"}, r"its select leaves bits open: name one, or give at_any\."),
        ({"means_of": 0}, "Runs a mean is 0"),
    ],
)
def test_what_a_claim_picks_must_be_in_the_results(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=rf"claims\.yml: claim X1 cannot be judged from x\.nc: .*{message}"):
        judge(tmp_path, value(0.5) | wrong, by_bits(RAMP, 9))


def test_results_that_are_not_of_the_baseline_are_refused(tmp_path):
    judge(tmp_path, value(0.5), by_bits(RAMP, 9))
    dataset = _store.load_dataset(tmp_path / "x.nc")
    for spec, fits in ((specs.Levels(seed=100), True), (specs.Levels(width=65), False)):
        dataset.attrs |= {"spec": spec.text(), "command": spec.command(39)}
        _store.save_dataset(dataset, tmp_path / "x.nc")
        if fits:
            assert ledger.ledger(tmp_path / "claims.yml", tmp_path)[0]["verdict"] == "reproduced"
        else:
            with pytest.raises(
                ValueError, match=r"x\.nc is not of the baseline: python -m studies .* width=65 .*made it"
            ):
                ledger.ledger(tmp_path / "claims.yml", tmp_path)


def test_results_that_the_manifest_does_not_describe_are_refused(tmp_path):
    judge(tmp_path, value(0.5), by_bits(RAMP, 9))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"x.nc": {"sha256": _store.digest(tmp_path / "x.nc")}}))
    assert ledger.ledger(tmp_path / "claims.yml", tmp_path)[0]["verdict"] == "reproduced"
    for content in ({"x.nc": {"sha256": "0" * 64}}, {"y.nc": {}}):
        manifest.write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=r"x\.nc is not the file that .*manifest\.json describes: restore it from git"
        ):
            ledger.ledger(tmp_path / "claims.yml", tmp_path)


def made_up(folder) -> list[dict]:
    """Judge three claims: one reproduced, one compatible, one not."""
    stated = [
        value(0.7) | {"id": "A"},
        value(0.7, select={"measure": "m", "bits": 4}) | {"id": "B"},
        value(7.0) | {"id": "C"},
    ]
    return judge_many(folder, stated, by_bits(RAMP, RAMP * 9 + 0.4))


def test_what_is_neither_reproduced_nor_explained_says_so(tmp_path, monkeypatch):
    rows = made_up(tmp_path)
    assert [row["verdict"] for row in rows] == ["reproduced", "compatible", "not reproduced"]
    assert [row["explanation"] for row in rows] == ["", "unexplained", "unexplained"]
    monkeypatch.setattr(explanations, "testable", lambda *_: True)
    monkeypatch.setattr(explanations, "tested", lambda *_: [])
    monkeypatch.setattr(explanations, "of_claims", lambda _: {"C": "folding", "A": "ruler"})
    assert [row["explanation"] for row in made_up(tmp_path)] == ["ruler", "unexplained", "folding"]
    # The predictions are those of the file that is given.
    monkeypatch.setattr(explanations, "tested", lambda *given: given[2])
    monkeypatch.setattr(explanations, "of_claims", lambda file: {"C": file})
    assert ledger.ledger(tmp_path / "claims.yml", tmp_path, "mine.yml")[2]["explanation"] == "mine.yml"


def test_a_joint_claim_is_explained_by_its_parts_if_all_of_them_are(monkeypatch):
    of_parts = {"A": "ruler", "B": "ruler", "C": "folding"}
    monkeypatch.setattr(explanations, "testable", lambda *_: True)
    monkeypatch.setattr(explanations, "tested", lambda *_: [])
    monkeypatch.setattr(explanations, "of_claims", lambda _: of_parts)
    for parts, expected in (("AB", "ruler"), ("AC", "ruler, folding"), ("AD", "unexplained"), ("DE", "unexplained")):
        row = {"id": parts, "together": dict.fromkeys(parts), "verdict": "compatible"}
        assert ledger._explained([row], "", "", "")[0]["explanation"] == expected


def test_neighbours_are_listed_and_very_many_counted():
    row = dict.fromkeys(KEYS) | {"held": dict.fromkeys(["8 bits", "7 bits", "by accuracy"]), "excluded": {"5 bits": 0}}
    assert ledger.told_apart(row) == "not from 8, 7 bits, by accuracy; from 5 bits"
    many = row | {"held": {}, "excluded": dict.fromkeys(f"variant {i}" for i in range(11))}
    assert ledger.told_apart(many).endswith("variant 5 and 5 more")
    seen = {"detectable": 0.00212, "bound": 0.5, "equivalent": False}
    assert ledger.told_apart(dict.fromkeys(KEYS) | seen) == "sees 0.0021 or more; not shown to be within ±0.5"
    assert ledger.told_apart(row | seen | {"equivalent": True}).endswith(
        "; from 5 bits; sees 0.0021 or more; within ±0.5"
    )


def test_a_table_has_seven_columns_and_joint_rows_show_their_parts(tmp_path):
    rows = made_up(tmp_path)
    both = rows[0] | {
        "id": "A+B",
        "kind": "joint",
        "reported": "joint",
        "together": {"A": 0.5, "B": 4.9},
        "note": "at once",
    }
    both |= dict.fromkeys(("estimate", "low", "high"))
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in ledger.table([*rows, both], padded=False).splitlines()
    ]
    assert {len(line) for line in lines} == {7}
    assert lines[2][:4] == ["A (digits): test", "0.7", "0.5 [0, 1]", "reproduced"]
    assert lines[3][3:5] == ["compatible", "not from 8 bits"]  # inside: no explanation is needed
    assert lines[4][3] == "not reproduced (unexplained)"
    assert lines[5][:3] == ["A+B (digits): test (ours at once)", "0.7, 0.7", "0.5, 4.9"]
    direction = rows[0] | {"kind": "direction", "estimate": 0.5, "low": -0.25, "high": 1.25, "multiverse": 0.123}
    cells = [cell.strip() for cell in ledger.table([direction]).splitlines()[2].strip("|").split("|")]
    assert cells[2] == "+0.5 [-0.25, +1.25]" and cells[5] == "12.3%"


def test_every_run_is_named_and_every_verdict_counted(tmp_path):
    rows = made_up(tmp_path)
    assert ledger.runs_table(rows).splitlines()[2:] == ["| `python -m studies run levels digits` | A, B, C |"]
    lines = ledger.counts_table(rows).splitlines()
    assert lines[2:] == [
        "| reproduced | 1 | 1 |",
        "| compatible | 1 |  |",
        "| not reproduced | 1 | 1 |",
        "| inconclusive |  | 1 |",
    ]


def test_how_many_fail_by_chance_is_a_binomial_count():
    rows = [{"kind": "value", "verdict": "compatible"}] * 18 + [{"kind": "reduction", "verdict": "not reproduced"}] * 2
    rows += [{"kind": "joint", "verdict": "not reproduced"}, {"kind": "value", "verdict": "not attempted"}]
    found = ledger.by_chance(rows)
    assert found == (20, pytest.approx(1.0), 3, 2)  # of 20 at 5 %, at most 3 with 98.4 %, at most 2 with 92.5 %
    assert ledger.chance_line(rows) == (
        "Of 20 single numbers, 1 would be outside by chance if all were of runs like ours, and with a probability of 95 % "
        "at most 3; 2 are."
    )


def test_the_ledger_in_full_is_a_table_too(tmp_path):
    rows = made_up(tmp_path)
    lines = list(csv.DictReader(io.StringIO(ledger.as_csv(rows))))
    assert list(lines[0]) == KEYS and [line["id"] for line in lines] == ["A", "B", "C"]
    for line, row in zip(lines, rows):
        assert (
            float(line["low"]) == row["low"] and json.loads(line["held"]) == row["held"] and line["note"] == row["note"]
        )


@pytest.mark.slow
def test_the_ledger_of_what_is_published(clone, capsys, monkeypatch):
    monkeypatch.setattr(ledger, "ledger", cache(ledger.ledger))  # of three commands
    assert __main__.main(["ledger", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [KEYS] * len(REPORTED | ADDED | TOGETHER)
    assert {row["id"]: row["reported"] for row in rows} == REPORTED | ADDED | dict.fromkeys(TOGETHER, "joint")
    for row in rows:
        numbered = row["kind"] in ("value", "reduction", "correlation")
        assert row["verdict"] in (verdicts.NUMBERS if numbered or row["id"] in TOGETHER else verdicts.DIRECTIONS)
        if row["kind"] != "joint":
            assert all(isinstance(row[key], float) for key in ("estimate", "low", "high"))
            assert row["low"] <= row["estimate"] <= row["high"]
        # What it tells apart: the neighbours of numbers, what could be seen of directions; its parts have a joint row's.
        assert (row["held"] is not None and bool(row["held"] | row["excluded"])) or row["detectable"] is not None or row["id"] == "R6"  # fmt: skip
        assert row["explanation"] if row["verdict"] not in ("reproduced",) else isinstance(row["explanation"], str)
        assert (row["first_verdict"] is None) == (row["id"] not in REPORTED)
        assert row["runs"] >= (3 if row["id"][0] in "FRK" else 10)
        assert row["command"].startswith("python -m studies run ")
        crossed = row["dataset"] in ("digits", "MNIST", "Fashion-MNIST") and row["id"] in REPORTED
        assert isinstance(row["multiverse"], float) if crossed else True
    assert __main__.main(["ledger"]) == 0
    *lines, empty, line = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(rows) and len({len(line) for line in lines}) == 1
    assert not empty and line == ledger.chance_line(rows)
    assert __main__.main(["ledger", "--csv"]) == 0
    assert capsys.readouterr().out == ledger.as_csv(published_rows())


@pytest.mark.slow
def test_verdicts_depend_on_neither_the_multiverse_nor_explanations(clone, tmp_path):
    rows = published_rows()
    names = (*published.MULTIVERSES.values(), *published.READINGS)
    shutil.copytree(published.PUBLISHED, tmp_path / "results", ignore=shutil.ignore_patterns(*names))
    alone = ledger.ledger(results=tmp_path / "results", predictions=tmp_path / "none.yml")
    assert {row["multiverse"] for row in alone} == {None} and any(row["multiverse"] is not None for row in rows)
    assert {row["explanation"] for row in alone} == {"", "unexplained"}
    left_out = ("multiverse", "explanation")
    for row, other in zip(rows, alone, strict=True):
        assert {key: value for key, value in row.items() if key not in left_out} == {
            key: value for key, value in other.items() if key not in left_out
        }


@pytest.mark.slow
def test_the_ledger_is_kept_until_a_file_that_it_follows_from_changes(clone, tmp_path, monkeypatch):
    results = shutil.copytree(ROOT / published.PUBLISHED, tmp_path / "results")
    rows = ledger.kept(results, tmp_path)
    assert rows == published_rows()
    assert next(row for row in rows if row["id"] == "D2")["values"].__len__() == 100
    judged = []
    monkeypatch.setattr(ledger, "ledger", lambda results: judged.append(results) or rows)
    assert ledger.kept(results, tmp_path) == rows and not judged
    (results / "readme").write_text("another file", encoding="utf-8")
    assert ledger.kept(results, tmp_path) == ledger.kept(results, tmp_path) == rows and judged == [results]
    whole, digest = (tmp_path / "ledger.json").read_bytes(), ledger.digest
    for name in ("claims.yml", "claims.schema.yml", "predictions.yml", "verdicts.py", "masks.py", "digits_levels.nc"):
        (tmp_path / "ledger.json").write_bytes(whole)
        monkeypatch.setattr(ledger, "digest", lambda path, name=name: "another" if path.name == name else digest(path))
        ledger.kept(results, tmp_path)
        assert len(judged) == 2, name
        judged.pop()
    monkeypatch.setattr(ledger, "digest", digest)
    (tmp_path / "ledger.json").write_bytes(whole)
    with monkeypatch.context() as other:
        other.setattr(ledger, "package_versions", lambda: {"scipy": "0.1"})
        ledger.kept(results, tmp_path)
    (tmp_path / "ledger.json").write_text("{damaged", encoding="utf-8")
    assert ledger.kept(results, tmp_path) == rows and len(judged) == 3
