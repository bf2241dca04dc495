"""The claims of data/claims.yml: read and checked, and what each of them picks from the result files."""

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import jsonschema
import numpy as np
import xarray as xr
import yaml

from . import correlations, paper_tables, specs, stopping
from .published import PUBLISHED, load_published

CLAIMS = Path("data/claims.yml")
SCHEMA = Path(__file__).resolve().parents[1] / "data" / "claims.schema.yml"
_OF_RULES = ("rule", "limit")


def load_claims(path: str | Path = CLAIMS) -> tuple[dict, list[dict]]:
    """
    Read the rule and the claims, with those of the paper's own tables in the folder "paper" beside the file.

    What is not of the form of data/claims.schema.yml is refused, and the claim is named.
    """
    content = load_yaml(path)
    schema = load_yaml(SCHEMA)
    if error := next(jsonschema.Draft202012Validator(schema).iter_errors(content), None):
        place = list(error.absolute_path)
        if place[:1] == ["claims"] and len(place) > 1:
            claim = content["claims"][place[1]]
            named = isinstance(claim, dict) and "id" in claim
            place[:2] = [f"claim {claim['id']}" if named else f"claim number {place[1] + 1}"]
        where = ": ".join(map(str, [path, *place]))
        raise ValueError(f"{where}: {error.message}; the file's first lines say what is needed.")
    names = [claim["id"] for claim in content["claims"]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a claim's id stands twice: {sorted({n for n in names if names.count(n) > 1})}.")
    for claim in content["claims"]:
        if missing := [name for name in claim.get("together", ()) if name not in names]:
            raise ValueError(f"{path}: claim {claim['id']}: together names {', '.join(missing)}, which is no claim.")
    tables = paper_tables.claims(Path(path).parent / "paper", content["claims"])
    return content["rule"], content["claims"] + tables


def load_yaml(path: str | Path):
    """Read a YAML file; refuse in one line what is none."""
    text = Path(path).read_text(encoding="utf-8")
    # In C, eight times as fast; but it may be missing, and does not say well where a fault is.
    with suppress(yaml.YAMLError, AttributeError):
        return yaml.load(text, yaml.CSafeLoader)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None


def of_first_rule(claim: dict) -> dict:
    """Return a claim as the first rule judged it: what has changed since is kept in its ``first_rule``."""
    return {key: value for key, value in claim.items() if key != "first_rule"} | (claim.get("first_rule") or {})


class Results:
    """The result files of a folder, each read once and held to be whole and of the baseline."""

    def __init__(self, folder: str | Path = PUBLISHED):
        self.folder = Path(folder)
        self.load, self.choices = cache(self._load), cache(self._choices)  # choosing takes longer than judging

    def _load(self, name: str) -> xr.Dataset:
        dataset = load_published(name, self.folder)
        spec = specs.load(dataset.attrs["spec"])
        if replace(spec, seed=0) != specs.baseline(spec.study, spec.dataset, spec.model):
            raise ValueError(f"{self.folder / name} is not of the baseline: {dataset.attrs['command']} made it.")
        return dataset

    def _choices(self, name: str) -> xr.Dataset:
        return stopping.choose(self.load(name))


def chosen(choices: xr.Dataset, rule: str, limit: float | str, spare: float) -> xr.Dataset:
    """Return what a stopping rule chooses at a limit; "usual" is the one that the calibration data pick, by *spare*."""
    if limit == "usual":
        return stopping.usual_limit(choices, rule, spare)
    found = np.flatnonzero((choices.rule.values == rule) & (choices.limit.values == limit))
    if len(found) != 1:
        raise ValueError(f"there are {len(found)} choices by {rule} at {limit}, not one.")
    return choices.isel(choice=int(found[0]))


def aware(choices: xr.Dataset, measures: set[str]) -> list[xr.Dataset]:
    """Return *measures* and the bits at what each boundary-aware rule chooses at each of its limits, one by one."""
    slim = choices[[*measures | {"chosen_bits"}]]
    return [slim.isel(choice=i) for i, rule in enumerate(slim.rule.values) if rule in stopping.BOUNDARY_AWARE]


def pick(runs: xr.Dataset, select: dict) -> xr.DataArray:
    """Return a measure of runs at given coordinates; a stopping rule has been applied by :func:`chosen` before."""
    where = {key: value for key, value in select.items() if key not in ("measure", *_OF_RULES)}
    if (
        "method" in select
    ):  # of the measure alone, and what picks the weight of the gap term: all take many times as long
        runs = correlations.at_method(runs[[*{select["measure"], "boundary_jaccard"}]], where.pop("method"))
    values = runs[select["measure"]].sel({key: value for key, value in where.items() if key != "less_bits"})
    if "less_bits" in select:  # what is lost at so many bits
        values = values - runs[select["measure"]].sel(where | {"bits": where.pop("less_bits")})
        values = values.rename(f"{select['measure']}_lost")
    return values


def picked(results: Results, name: str, select: dict, spare: float) -> xr.DataArray:
    """Return a measure of a result file, at the bits that a stopping rule chooses where *select* names one."""
    if "rule" in select:
        return pick(chosen(results.choices(name), select["rule"], select["limit"], spare), select)
    return pick(results.load(name), select)
