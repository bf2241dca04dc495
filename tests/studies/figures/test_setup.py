"""The setup tables, held to the plan and to what is run; and the log of deviations, held to the history."""

import re
import subprocess
from dataclasses import fields
from types import SimpleNamespace

import pytest
import yaml

from studies import ledger, specs, sweeps, training
from studies.figures import setup
from tests.helpers import ROOT

DATASETS = list(dict.fromkeys(spec.dataset for spec in specs.BASELINES))
# What was fixed before the first run: of each data set, the fields of its baselines by study and model.
IMAGES = {"width": 128, "epochs": 10, "batch_size": 128, "sizes": (50_000, 10_000, 10_000), "seeds": 20}
PLAN = {
    "digits": {("stopping", "mlp"): {"width": 64, "epochs": 60, "batch_size": 64, "sizes": (898, 449, 450), "seeds": 100},
               ("levels", "mlp"): {"width": 64, "epochs": 60, "batch_size": 64, "seeds": 100}},
    **{name: {("stopping", "mlp"): IMAGES, ("stopping", "cnn"): {"epochs": 10, "batch_size": 128, "seeds": 20}}
       for name in ("mnist", "fashion-mnist")},
    "cifar-10": {("stopping", "cnn"): {"epochs": 15, "batch_size": 64, "sizes": (5_000, 600, 600), "seeds": 10}},
    "full-cifar-10": {("stopping", "resnet"): {"width": 16, "sizes": (45_000, 5_000, 10_000), "seeds": 10}},
}  # fmt: skip
EVERYWHERE = {"scheme": "narrow", "granularity": "tensor", "share": 0.2, "bits": (8, 7, 6, 5, 4, 3, 2)}
FIRST_NODES = {"digits": 201, "mnist": 201, "fashion-mnist": 201, "cifar-10": 81, "full-cifar-10": 81}
CHOICE_OF = {
    "width": "model", "model": "model", "epochs": "training", "batch_size": "training", "sizes": "splits", "seeds": "seeds",
    "scheme": "quantizer", "granularity": "quantizer", "share": "band", "bits": "bits", "nodes": "nodes", "gaps": "gaps",
}  # fmt: skip


def changed_choices(dataset: str) -> set[str]:
    """Return the choices in which the baselines of a data set are not those of the plan."""
    out = set()
    for (study, model), planned in PLAN[dataset].items():
        found = [one for one in specs.BASELINES if (one.study, one.dataset, one.model) == (study, dataset, model)]
        out |= set() if found else {"model"}
        spec = found[0] if found else specs.baseline(study, dataset)
        ours = {field.name: getattr(spec, field.name) for field in fields(spec)} | {"seeds": specs.BASELINES[spec]}
        out |= {CHOICE_OF[name] for name, value in (EVERYWHERE | planned).items() if ours[name] != value}
    out |= {"nodes"} if specs.baseline("stopping", dataset).nodes[0] != FIRST_NODES[dataset] else set()
    gaps = specs.baseline("rounding", dataset).gaps
    return out | ({"gaps"} if gaps != (0.0, 0.01, 0.1, 1.0, 10.0) else set())


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_said_to_be_changed_is_what_differs_from_the_plan(clone, dataset):
    stated = yaml.safe_load(setup.STATED.read_text(encoding="utf-8"))
    merged = {name: stated["every data set"][name] | stated[dataset].get(name, {}) for name in stated["every data set"]}
    named = {name for name, said in merged.items() if said.get("changed")}
    epochs, seeds = (
        "training",
        "seeds",
    )  # of full CIFAR-10 the plan has no epochs, and its seeds came one after the other
    assert named - ({epochs, seeds} if dataset == "full-cifar-10" else set()) == changed_choices(dataset)
    known = {one["id"] for one in setup.deviations()}
    assert {one for said in merged.values() for one in said.get("changed", [])} <= known
    assert stated[dataset].keys() <= stated["every data set"].keys()


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_choice_is_stated_and_written(clone, dataset):
    rows = setup.rows(dataset)
    assert all(all(row) for row in rows) and len({row[0] for row in rows}) == len(rows)
    assert {"inputs", "model", "training", "seeds", "optimized rounding"} <= {row[0] for row in rows}
    assert ("transitions" in {row[0] for row in rows}) == (dataset == "digits")
    lines = setup.text(dataset).splitlines()
    assert len(lines) == 2 + len(rows) and {line.count("|") for line in lines} == {5}


@pytest.mark.parametrize(
    ("dataset", "choice", "parts"),
    [
        ("digits", "model", ["4,810 parameters"]),  # 64·64 + 64 + 64·10 + 10
        ("digits", "split", ["levels: 1,347 to train on, 450 to test on", "898 to train on, 449 to calibrate on, 450 held out"]),
        ("digits", "training", ["Adam at a rate of 0.001; 60 epochs in batches of 64"]),
        ("mnist", "model", ["101,770 parameters", "stopping (cnn): small CNN"]),  # 784·128 + 128 + 128·10 + 10
        ("cifar-10", "model", ["78,042 parameters"]),
        ("cifar-10", "quantizer", ["batch norms in float"]),
        ("full-cifar-10", "training", ["SGD, Nesterov momentum 0.9", "one cycle of the rate up to 0.3", "30 epochs"]),
        ("full-cifar-10", "quantizer", ["stopping by channel: narrow range, one step for each output channel", "folded first"]),
    ],
)  # fmt: skip
def test_known_answers(clone, dataset, choice, parts):
    ours = dict((row[0], row[2]) for row in setup.rows(dataset))[choice]
    assert [part for part in parts if part not in ours] == []


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_optimizer_shown_is_the_one_that_trains(clone, monkeypatch, dataset):
    called = []
    for name in ("fit", "fit_cifar"):
        monkeypatch.setattr(training, name, lambda *_, name=name, **how: called.append(name))
    split = SimpleNamespace(train_inputs=None, train_classes=None)
    sweeps.trained(specs.baseline("stopping", dataset), split, None)
    monkeypatch.undo()
    shown = dict((row[0], row[2]) for row in setup.rows(dataset))["training"]
    assert called == ["fit_cifar" if "SGD" in shown else "fit"]


def test_a_chapter_shows_its_data_sets_folded(clone):
    shown = setup.table("mnist", "full-cifar-10").data
    assert shown.startswith("<details><summary>") and shown.endswith("</details>")
    assert [shown.count(setup.text(name)) for name in ("mnist", "full-cifar-10", "digits")] == [1, 1, 0]
    assert "**MNIST**" in shown and "**full CIFAR-10**" in shown


@pytest.mark.parametrize("chapter", sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")))
def test_the_setup_is_reached_from_every_chapter_with_networks_of_the_paper(chapter):
    text = (ROOT / "notebooks" / f"{chapter}.py").read_text(encoding="utf-8")
    without = ("00_definitions", "07_audit")  # formulas, networks as a user's own
    assert bool(re.search(r"setup\.table\(|\]\((the-)?setup", text)) != (chapter in without)


def test_dates_of_deviations_are_those_of_their_commits(clone):
    log = subprocess.run(
        ["git", "log", "--format=%h %as", "--abbrev=7"], capture_output=True, text=True, cwd=ROOT
    ).stdout
    dates = dict(line.split() for line in log.splitlines())  # none in a copy without a history
    found = {one["commit"]: str(one["date"]) for one in setup.deviations() if "commit" in one}
    assert len(found) > 10
    assert {commit: day for commit, day in found.items() if dates.get(commit, day) != day} == {}
    assert not dates or len(dates) < 50 or found.keys() <= dates.keys()


GOOD = {"id": "V1", "date": "2026-11-23", "what": "w", "why": "y", "bias": "b", "claims": ["D1"]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": "V3"}, r"entry 2 has the id V3: write V2\.$"),
        ({"date": "2026-11-22"}, r"V2: date is 2026-11-22: write a day, not before that of the entry above\.$"),
        ({"date": "yesterday"}, r"V2: date is yesterday: write a day"),
        ({"claims": ["D9"]}, r"V2: there is no claim D9: give ids of the ledger, or all\.$"),
        ({"claims": "some"}, r"entry 2: claims: .*the file's first lines say what is needed\.$"),
        ({"wy": "x"}, r"entry 2: .*'wy' was unexpected"),
        ({"bias": ""}, r"entry 2: bias: '' "),
        ({"why": None}, r"entry 2: why: None is not of type 'string'"),
        ({"commit": "main"}, r"entry 2: commit: 'main' does not match"),
    ],
)
def test_a_wrong_entry_of_the_log_is_named(clone, tmp_path, wrong, message):
    def write(*entries):
        lines = yaml.safe_dump(list(entries), sort_keys=False)
        (tmp_path / "d.yml").write_text(re.sub(r"'(\d{4}-\d\d-\d\d)'", r"\1", lines))

    write(GOOD, GOOD | {"id": "V2"} | wrong)
    with pytest.raises(ValueError, match=rf"d\.yml: {message}"):
        setup.deviations(tmp_path / "d.yml")
    write(GOOD, GOOD | {"id": "V2"})
    assert [one["id"] for one in setup.deviations(tmp_path / "d.yml")] == ["V1", "V2"]


def test_the_log_as_a_table(clone):
    lines = setup.deviations_text().splitlines()
    assert len(lines) == 2 + len(setup.deviations()) and {line.count("|") for line in lines} == {6}
    assert (
        "| F1 to F3, R1 to R6, K1, K2 |" in lines[5]
        and "| none |" in lines[4]
        and any(line.endswith("| all |") for line in lines)
    )
    assert all(claim in setup.deviations_text() for claim in ("J1", *list(ledger.reported())[:1]))


def test_a_chapter_states_the_setup_of_the_runs_that_it_shows():
    one = setup.stated(specs.Levels(width=32, epochs=7, nodes=(31,))).data
    assert "one hidden layer of 32 units" in one and "7 epochs" in one and "Adam" in one and "31 is judged" in one
    assert "1,347 to train on" in one and "principal components" in one and one.count("\n- ") == 5
    two = setup.stated(*(specs.baseline("stopping", name) for name in ("digits", "mnist"))).data.splitlines()
    assert two[0] == "|  | digits | MNIST |" and len(two) == 8 and all(line.count("|") == 4 for line in two)
