"""The setup of each data set beside what the abstract says of it, and the log of deviations from the plan."""

import inspect
import re
from datetime import date
from itertools import groupby
from pathlib import Path

import jsonschema
from IPython.display import Markdown
from torch import nn

from .. import ledger, networks, specs, stopping, training
from ..claims import load_yaml
from ..data import splits
from ..formats import DATASETS
from ..specs import Levels, Rounding, Stopping, Trained
from ..sweeps import CLASSES

STATED, DEVIATIONS = Path("data/setup.yml"), Path("data/deviations.yml")
_WHOSE = {
    "paper": "the paper's", "plan": "ours, before the first run", "study": "ours, before its runs",
    "both": "ours, before the first run; of roundings, before theirs",
}  # fmt: skip
_MODELS = {
    "mlp": "MLP, one hidden layer of {} units", "cnn": "small CNN, {} channels at first",
    "resnet": "reduced ResNet, {} channels at first",
    "strided-resnet": "reduced ResNet on the halved image, {} channels at first",
}  # fmt: skip
_STEPS = {"tensor": "weight tensor", "channel": "output channel"}


def rows(dataset: str) -> list[tuple[str, str, str, str]]:
    """Return the choices of a data set's baselines: name, what the abstract says, what we do, whose choice it is."""
    stated = load_yaml(STATED)
    of_set = [spec for spec in specs.BASELINES if spec.dataset == dataset]
    out = []
    for name, (title, write) in _CHOICES.items():
        found: dict[str, list[str]] = {}
        for spec in of_set:
            found.setdefault(write(spec), []).append(_kind(spec))
        found.pop("", None)  # of studies without that choice
        if found:
            said = stated["every data set"][name] | stated[dataset].get(name, {})
            ours = [text if len(found) == 1 else f"{', '.join(kinds)}: {text}" for text, kinds in found.items()]
            changed = ", ".join(f"[{one}](deviations)" for one in said.get("changed", []))
            whose = _WHOSE[said["whose"]] + (f"; changed: {changed}" if changed else "")
            out.append((title, said.get("says", "not said"), "<br>".join(ours), whose))
    return out


def text(dataset: str) -> str:
    """Return a data set's choices as a Markdown table."""
    return _table(("choice", "the abstract says", "ours", "whose choice"), rows(dataset))


def table(*datasets: str) -> Markdown:
    """Return the choices of data sets for a chapter that shows their runs: folded, a table for each."""
    parts = ["<details><summary>The setup of these runs, and whose choice each part of it is</summary>"]
    for dataset in datasets:
        parts += [f"**{DATASETS.get(dataset, dataset)}**", text(dataset)]
    parts += ["[](the-setup) has all data sets, and what was changed after the first run.", "</details>"]
    return Markdown("\n\n".join(parts))


def stated(*runs: Trained) -> Markdown:
    """Say how runs were made, in a few lines: of one spec as a list, of several as a table with a column for each."""
    shown = ("splits", "model", "training", "quantizer", "slice", "nodes")
    choices = {_CHOICES[name][0]: [_CHOICES[name][1](spec) for spec in runs] for name in shown}
    if len(runs) == 1:
        return Markdown(
            "\n".join(f"- **{title[:1].upper() + title[1:]}**: {said}." for title, (said,) in choices.items())
        )
    head = ("", *(DATASETS.get(spec.dataset, spec.dataset) for spec in runs))
    return Markdown(_table(head, [(f"**{title}**", *said) for title, said in choices.items()]))


def _kind(spec: Trained) -> str:
    """Return the study of a baseline, with what tells it from the first one of that study."""
    first = specs.baseline(spec.study, spec.dataset)
    model = f" ({spec.model})" if spec.model != first.model else ""
    return spec.study + model + (f" by {spec.granularity}" if spec.granularity != first.granularity else "")


def _list(values) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _network(spec: Trained) -> nn.Module:
    return networks.build(spec.model, splits.SHAPES[spec.dataset], CLASSES, width=spec.width, seed=spec.seed)


def _inputs(spec: Trained) -> str:
    return f"{' × '.join(map(str, splits.SHAPES[spec.dataset]))} values in {spec.units}"


def _split(spec: Trained) -> str:
    if isinstance(spec, Levels):
        split = splits.digits(spec.seed)
        return f"{len(split.train_classes):,} to train on, {len(split.test_classes):,} to test on"
    return "{:,} to train on, {:,} to calibrate on, {:,} held out".format(*spec.sizes)


def _model(spec: Trained) -> str:
    count = sum(parameter.numel() for parameter in _network(spec).parameters())
    return f"{_MODELS[spec.model].format(spec.width)}: {count:,} parameters"


def _training(spec: Trained) -> str:
    full = spec.dataset == "full-cifar-10"
    usual = inspect.signature(training.fit_cifar if full else training.fit).parameters
    how = {name: parameter.default for name, parameter in usual.items()}
    by = f"Adam at a rate of {how['learning_rate']:g}"
    if full:
        by = f"SGD, Nesterov momentum {how['momentum']:g}, weight decay {how['weight_decay']:g}, one cycle of the rate "
        by += f"up to {how['learning_rate']:g}, random crops and shifts, mirrored images"
    return f"{by}; {spec.epochs} epochs in batches of {spec.batch_size}"


def _quantizer(spec: Trained) -> str:
    norms = ""
    if any(isinstance(part, nn.BatchNorm2d) for part in _network(spec).modules()):
        norms = ", batch norms " + ("folded first" if isinstance(spec, Rounding) else "in float")
    return f"{spec.scheme} range, one step for each {_STEPS[spec.granularity]}, biases in float{norms}"


def _slice(spec: Trained) -> str:
    whose = (
        "the training inputs" if isinstance(spec, Levels) else "the calibration and of the held-out inputs, each apart"
    )
    return f"first two principal components of {whose}, over the range of their scores"


def _nodes(spec: Trained) -> str:
    first, *others = spec.nodes
    return f"{first} is judged" + (f"; also {_list(others)}" if others else "")


def _rules(spec: Trained) -> str:
    if type(spec) is not Stopping:
        return ""
    limits = {"accuracy": "accuracy lost", "jaccard": "Jaccard", "band flips": "band flips"}
    return "; ".join(f"{title} ≤ {_list(stopping.LIMITS[rule])}" for rule, title in limits.items())


def _rounding(spec: Trained) -> str:
    if not isinstance(spec, Rounding):
        return ""
    return f"layer by layer, then on the logits; {spec.steps} steps each, {spec.examples:,} calibration inputs"


_CHOICES = {
    "inputs": ("inputs", _inputs),
    "splits": ("split", _split),
    "model": ("model", _model),
    "training": ("training", _training),
    "quantizer": ("quantizer", _quantizer),
    "bits": ("bit-widths", lambda spec: _list(spec.bits)),
    "slice": ("slice", _slice),
    "nodes": ("nodes a side of the slice", _nodes),
    "band": ("boundary band", lambda spec: f"{spec.share:.0%} of least float margin"),
    "transitions": ("transitions", lambda spec: f"{spec.steps} steps" if isinstance(spec, Levels) else ""),
    "rules": ("stopping rules", _rules),
    "rounding": ("optimized rounding", _rounding),
    "gaps": ("weights η of the gap term", lambda spec: _list(spec.gaps) if isinstance(spec, Rounding) else ""),
    "seeds": ("seeds", lambda spec: f"{specs.BASELINES[spec]}"),
}


# Deviations from the plan

_TEXT = {"type": "string", "minLength": 1}
_FORM = {  # as a JSON Schema
    "type": "array",
    "items": {
        "type": "object",
        "required": ["id", "date", "what", "why", "bias", "claims"],
        "additionalProperties": False,
        "properties": {
            **dict.fromkeys(("id", "what", "why", "bias"), _TEXT), "date": {},
            "commit": {"type": "string", "pattern": "^[0-9a-f]{7}$"},
            "claims": {"anyOf": [{"const": "all"}, {"type": "array", "items": _TEXT, "uniqueItems": True}]},
        },
    },
}  # fmt: skip


def deviations(path: str | Path = DEVIATIONS) -> list[dict]:
    """Return the log of deviations, each with id, date, what, why, bias and claims; refuse one that is not in order."""
    found = load_yaml(path)
    if error := next(jsonschema.Draft202012Validator(_FORM).iter_errors(found), None):
        where = ": ".join(str(part + 1 if isinstance(part, int) else part) for part in error.absolute_path)
        raise ValueError(f"{path}: entry {where}: {error.message}; the file's first lines say what is needed.")
    known, before = ledger.reported(), date.min
    for number, one in enumerate(found, 1):
        if one["id"] != f"V{number}":
            raise ValueError(f"{path}: entry {number} has the id {one['id']}: write V{number}.")
        if not isinstance(one["date"], date) or one["date"] < before:
            raise ValueError(
                f"{path}: {one['id']}: date is {one['date']}: write a day, not before that of the entry above."
            )
        before = one["date"]
        if one["claims"] != "all" and (strange := [name for name in one["claims"] if name not in known]):
            raise ValueError(f"{path}: {one['id']}: there is no claim {strange[0]}: give ids of the ledger, or all.")
    return found


def deviations_text() -> str:
    """Return the log of deviations as a Markdown table."""
    body = [
        (
            one["id"],
            f"{one['date']}" + (f", `{one['commit']}`" if "commit" in one else ""),
            f"{one['what']} *Why*: {one['why']}",
            one["bias"],
            _ranges(one["claims"]),
        )
        for one in deviations()
    ]
    return _table(("", "date, commit", "what was done", "what it could bias", "claims"), body)


def _ranges(claims: list[str] | str) -> str:
    """Write ids of claims, three or more in a row as a range."""
    if isinstance(claims, str) or not claims:
        return str(claims or "none")
    out = []
    for _, run in groupby(enumerate(claims), lambda place: (place[1][0], int(place[1][1:]) - place[0])):
        names = [name for _, name in run]
        out += [f"{names[0]} to {names[-1]}"] if len(names) > 2 else names
    return ", ".join(out)


def _table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(re.sub(r'[|]', '/', cell) for cell in line)} |" for line in lines)
