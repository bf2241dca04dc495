"""The ledger: every claim of the abstract with its number, what is refused, and what the command shows."""

import json

import pytest
import yaml

from bqcore import _store
from studies import __main__, ledger, published, specs
from tests.helpers import ROOT
from tests.helpers.claims import KEYS, RAMP, REPORTED, by_bits, judge, judge_file, value

DATASETS = {
    "D": {"digits"}, "J": {"digits"}, "S": {"digits", "MNIST", "Fashion-MNIST"}, "C": {"CIFAR-10 subset"},
    "F": {"full CIFAR-10"}, "R": {"full CIFAR-10"}, "K": {"all variants"},
}  # fmt: skip


def test_every_claim_of_the_abstract_is_there_with_its_number(clone):
    rule, stated = ledger.load_claims()
    assert {claim["id"]: claim["reported"] for claim in stated} == REPORTED
    assert rule == {"level": 0.95, "too_wide": 0.5, "spare": 0.5}
    for claim in stated:
        assert claim["dataset"] in DATASETS[claim["id"][0]], claim["id"]
        assert claim["where"] == "abstract"
        numbered = claim["kind"] in ("value", "stopping", "correlation")
        assert numbered == (not isinstance(claim["reported"], str)), claim["id"]
        assert numbered or claim["kind"] in (claim["reported"], "no gain")
        assert ("from" in claim) != bool(claim.get("not_attempted")), claim["id"]  # judged, or with a reason why not
    assert [claim["id"] for claim in stated if "from" in claim] == list(REPORTED)


SIDES = (("first", "logits"), ("second", "gap"))


def test_the_claims_pick_the_baselines_measures(clone):
    judged = {claim["id"]: claim for claim in ledger.load_claims()[1] if "from" in claim}
    nodes, subset = specs.Levels().nodes[0], specs.baseline("stopping", "cifar-10").nodes[0]
    held_out, by_accuracy = {"split": "held-out"}, {"rule": "accuracy", "limit": 0.0}
    at_4, full = held_out | {"bits": 4}, specs.baseline("rounding", "full-cifar-10").nodes[0]
    flips, chosen = {"measure": "flip_rate"} | held_out, {"measure": "chosen_bits"}
    jaccard = {"measure": "boundary_jaccard"} | held_out
    assert {name: claim.get("select") for name, claim in judged.items()} == {
        "D1": {"measure": "flip_rate", "bits": 8},
        "D2": {"measure": "boundary_jaccard", "bits": 8, "nodes": nodes},
        "D3": {"measure": "accuracy", "bits": 4},
        "D4": {"measure": "boundary_jaccard", "bits": 4, "nodes": nodes},
        "D5": {"measure": "displacement", "bits": 4, "quantile": 0.5},
        "J1": None,
        **dict.fromkeys(("J2", "J3", "J4"), {"measure": "junction_union"}),
        "S1": flips | by_accuracy, "S2": flips, "S3": jaccard | by_accuracy | {"nodes": nodes},
        "S4": jaccard | {"nodes": nodes}, "S5": None, "S6": None,
        "C1": chosen | by_accuracy, "C2": flips | by_accuracy, "C3": jaccard | by_accuracy | {"nodes": subset},
        "C4": chosen, "C5": flips, "C6": jaccard | {"nodes": subset},
        "F1": {"measure": "accuracy", "bits": 32, "less_bits": 6} | held_out, "F2": flips | {"bits": 6},
        "F3": {"measure": "band_flip_rate", "bits": 6} | held_out,
        "R1": at_4 | {"measure": "boundary_jaccard", "nodes": full, "method": "logits"},
        "R2": at_4 | {"measure": "boundary_jaccard", "nodes": full, "method": "gap"},
        "R3": at_4 | {"measure": "band_pair_order_flip_rate", "method": "logits"},
        "R4": at_4 | {"measure": "band_pair_order_flip_rate", "method": "gap"},
        **dict.fromkeys(("R5", "R6", "K1", "K2")),
    }  # fmt: skip
    assert (judged["R5"]["second"]["bits"], judged["R6"]["second"]["bits"]) == (4, 3)
    assert all(judged[name][side]["method"] == method for name in ("R5", "R6") for side, method in SIDES)
    # 17/1800 and 4/1800 are means of four runs of 450, full CIFAR-10 has three seeds; the other numbers are of single runs.
    means = {name: claim.get("means_of", 1) for name, claim in judged.items()}
    three = [name for name, claim in judged.items() if name[0] in "FR" and claim["kind"] == "value"]
    assert means == dict.fromkeys(judged, 1) | dict.fromkeys(("S1", "S2", "S3", "S4"), 4) | dict.fromkeys(three, 3)
    together = {name: claim["together"] for name, claim in judged.items() if claim["kind"] == "stopping"}
    expected = {"S2": ["S2", "S4"], "S4": ["S2", "S4"], **dict.fromkeys(("C4", "C5", "C6"), ["C4", "C5", "C6"])}
    assert together == expected
    for name in ("S5", "S6"):
        assert judged[name]["first"] == flips | by_accuracy
        assert judged[name]["second"] == flips | {"rule": "jaccard", "limit": "usual"}
        assert judged[name]["limit_from"] == "digits_stopping.nc"
    assert judged["K1"]["from"] == judged["K2"]["from"] and len(judged["K1"]["from"]) > 5
    for claim in [claim for claim in judged.values() if claim["kind"] != "correlation"]:
        spec = next(spec for spec in specs.BASELINES if published.name_of(spec) == claim["from"])
        assert spec.dataset == claim["dataset"].lower().removesuffix(" subset").replace("full ", "full-")
    expected = {("flip_rate", 8): 0, ("boundary_jaccard", 8): 0.428, ("accuracy", 4): 0.9733}
    assert ledger.reported_values() == expected | {("boundary_jaccard", 4): 0.97, ("displacement", 4): 0.029}


def test_a_claim_not_attempted_has_no_numbers(tmp_path):
    row = judge_file(tmp_path, [{"id": "Z", "reported": 3, "kind": "value", "not_attempted": "not yet"}])[0]
    assert row == dict.fromkeys(KEYS) | {
        "id": "Z", "dataset": "d", "says": "s", "reported": 3, "verdict": "not attempted",
    }  # fmt: skip
    assert (
        "| Z     | d        | s              | 3        |      |               |      |            | not attempted |"
        in (ledger.table([row]))
    )
    assert "1 more claims are not attempted yet" in ledger.judged_table([row])


MEASURE = {"measure": "x"}
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
        ({"kind": "stopping", "together": ["A", "B"]}, r"claim B: 'rule' is a required property"),
        ({"id": "A"}, r"c\.yml: a claim's id stands twice: \['A'\]\."),
        *(
            ({missing: ...}, rf"c\.yml: claim B: '{missing}' is a required property; the file's first")
            for missing in ("dataset", "says", "reported", "kind", "where", "from", "select", "span", "means_of")
        ),
        ({"kind": "direction"}, r"claim B: 'first' is a required property"),
        ({"kind": "qualitative", "first": MEASURE, "second": MEASURE}, r"claim B: 'most' is a required property"),
        ({"kind": "no gain", "first": MEASURE, "second": MEASURE}, r"claim B: 'less_than' is a required property"),
        ({"kind": "correlation"}, r"claim B: 'of' is a required property"),
        ({"id": ...}, r"c\.yml: claim number 2: 'id' is a required property"),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, wrong, message):
    second = {key: value for key, value in (GOOD | {"id": "B"} | wrong).items() if value is not ...}
    content = {"rule": {"level": 0.95, "too_wide": 0.5, "spare": 0.5}, "claims": [GOOD, second]}
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
        ("rule: {level: 0.95}\nclaims: []", r"c\.yml: rule: 'too_wide' is a required property"),
        ("rule: {level: 0.95, too_wide: 1, spare: 1}\nclaims: 3", r"c\.yml: claims: 3 is not of type 'array'"),
        (
            "rule: {level: 0.95, too_wide: 1, spare: 1}\nclaims: [D1]",
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
        ({"select": {"measure": "m", "level": 8}}, "level"),
        ({"select": {"measure": "m"}}, "its select leaves bits open: name one, or pool it"),
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


@pytest.mark.slow
def test_the_ledger_of_what_is_published(clone, capsys):
    assert __main__.main(["ledger", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [KEYS] * len(REPORTED)
    assert {row["id"]: row["reported"] for row in rows} == REPORTED
    for row in rows:
        assert row["verdict"] in ledger.VERDICTS[:3]
        assert all(isinstance(row[key], float) for key in ("estimate", "low", "high", "percentile"))
        assert row["low"] <= row["estimate"] <= row["high"] and 0 <= row["percentile"] <= 100
        assert row["runs"] >= (3 if row["id"][0] in "FRK" else 10)
        assert row["command"].startswith("python -m studies run ")
        crossed = row["dataset"] in ("digits", "MNIST", "Fashion-MNIST")
        assert isinstance(row["multiverse"], float) if crossed else row["multiverse"] is None
    assert __main__.main(["ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(REPORTED) and len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_readme_s_table_is_the_generated_one(clone):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == ledger.readme_with(ledger.judged_table(ledger.ledger()))
    assert readme.count("| D1 ") == 1
