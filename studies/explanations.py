"""Explanations of numbers that do not agree, tested on numbers that did not suggest them: data/predictions.yml."""

from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

from .claims import CLAIMS, load_claims, load_yaml
from .multiverse import judging
from .multiverse.cifar import PLANES, STEPS
from .multiverse.cifar_claims import split_by_gap
from .published import PUBLISHED, load_published

PREDICTIONS = Path("data/predictions.yml")
OUTCOMES = ("held", "open", "failed")
FILES = {
    "digits": "digits_readings.nc", "cifar-10": "cifar-10_readings.nc", "full-cifar-10": "full-cifar-10_readings.nc",
    "roundings": "full-cifar-10_roundings.nc",
}  # fmt: skip
_RULER = ("plane", "extent", "nodes", "thickness")
_BASELINE = {"step": STEPS[0], "scheme": "narrow", "share": 0.2, "nearness": "margin", "split": "held-out"}


def load_predictions(path: str | Path = PREDICTIONS) -> list[dict]:
    """Read what each explanation must predict."""
    return load_yaml(path)["predictions"]


def testable(rows: list[dict], results: str | Path = PUBLISHED, path: str | Path = PREDICTIONS) -> bool:
    """Return whether the predictions, the claims that they are of, and all result files that test them are there."""
    if not Path(path).exists() or not all((Path(results) / name).exists() for name in FILES.values()):
        return False
    entries = load_predictions(path)
    names = {name for entry in entries for name in [*entry["suggested_by"], *(t["against"] for t in entry["tests"])]}
    return names <= {row["id"] for row in rows}


def tested(
    rows: list[dict], results: str | Path = PUBLISHED, path: str | Path = PREDICTIONS, claims: str | Path = CLAIMS
) -> list[dict]:
    """
    Test every explanation against the *rows* of the ledger, which have the paper's numbers and our baseline's means.

    Return its entry with ``frozen``, what its rule picks, and for each test ``estimate``, ``low``, ``high``,
    ``reported``, ``baseline`` and ``outcome``, one of :data:`OUTCOMES`; and ``survives``.
    """
    rows = {row["id"]: row for row in rows}
    rule, stated = load_claims(claims)
    means_of = {claim["id"]: claim.get("means_of", 1) for claim in stated}

    @cache
    def load(name: str) -> xr.Dataset:
        return load_published(FILES[name], results)

    entries = load_predictions(path)
    ruler = frozen_ruler(load, _entry(entries, "ruler"), rows)
    weak = frozen_rounding(load, _entry(entries, "weak rounding"), rows)
    out = []
    for entry in entries:
        tests = []
        for test in entry["tests"]:
            values, name = measured(load, entry, test, ruler, weak), test["against"]
            tests.append(test | outcome_of(values, test, rows[name], means_of[name], rule["level"]))
        found = [test["outcome"] for test in tests]
        frozen = {"ruler": ruler, "weak rounding": weak}.get(entry["id"], entry["setting"])
        survives = "failed" not in found and "held" in found
        out.append(entry | {"tests": tests, "frozen": frozen, "survives": survives})
    return out


def of_claims(found: list[dict]) -> dict[str, str]:
    """Return the explanation of each claim: a surviving one that the claim suggested, or that predicted it."""
    out = {}
    for entry in found:
        held = [test["against"] for test in entry["tests"] if test["outcome"] == "held"]
        if entry["survives"]:
            out |= {name: entry["id"] for name in [*entry["suggested_by"], *held] if name not in out}
    return out


def _entry(entries: list[dict], name: str) -> dict:
    return next(entry for entry in entries if entry["id"] == name)


def frozen_ruler(load, entry: dict, rows: dict[str, dict]) -> dict:
    """Return the ruler at which the means of the claims that suggested it are nearest to the paper's, in logarithms."""
    chosen_on = entry["chosen_on"]
    many = (
        load(chosen_on["data"])
        .boundary_jaccard.sel({name: chosen_on[name] for name in ("trained", "step", "scheme")})
        .mean("seed")
    )
    with np.errstate(divide="ignore"):
        loss = sum(
            np.log(many.sel(bits=bits, drop=True) / rows[claim]["reported"]) ** 2
            for claim, bits in chosen_on["bits"].items()
        ).transpose(*_RULER)
    at = np.unravel_index(int(loss.values.argmin()), loss.shape)
    return {dim: loss[dim].values.tolist()[i] for dim, i in zip(_RULER, at)}


def frozen_rounding(load, entry: dict, rows: dict[str, dict]) -> dict:
    """Return the steps and inputs of the rounding whose mean of what suggested it is nearest to the paper's."""
    chosen_on = entry["chosen_on"]
    ((claim, bits),) = chosen_on["bits"].items()
    many = (
        load(chosen_on["data"])
        .band_pair_order_flip_rate.sel(
            {"trained": chosen_on["trained"], "bits": bits, "method": chosen_on["method"]}
            | {name: _BASELINE[name] for name in ("share", "nearness", "split")}
        )
        .mean("seed")
    )
    away = np.abs(many - rows[claim]["reported"]).transpose("optimization_steps", "examples")
    at = np.unravel_index(int(np.nanargmin(away.values)), away.shape)
    return {dim: away[dim].values.tolist()[i] for dim, i in zip(away.dims, at)}


def measured(load, entry: dict, test: dict, ruler: dict, weak: dict) -> xr.DataArray:
    """Return what our networks have, along ``seed``, in a test of an explanation."""
    many = load(test["data"]).sel(trained=test["trained"])
    setting = _BASELINE | (entry["setting"] if isinstance(entry["setting"], dict) else {}) | test
    if "method" in test or "direction" in test:
        setting |= {} if "optimization_steps" in test else weak
        return _rounded(many, setting, ruler)
    if "bits" in test:
        return _at(many, test["measure"], setting, ruler).sel(bits=test["bits"], drop=True)
    bits = bits_by_accuracy(many, setting)
    return bits if test["measure"] == "chosen_bits" else _at(many, test["measure"], setting, ruler).sel(bits=bits)


def bits_by_accuracy(many: xr.Dataset, setting: dict) -> xr.DataArray:
    """Return the bits that calibration accuracy chooses for each seed, at a step, scheme, drop and path."""
    seen = many.accuracy_lost.sel(split="calibration", step=setting["step"], scheme=setting["scheme"])
    level = judging.chosen([seen.transpose("seed", "bits").values], [setting["drop"]], setting["path"])
    return xr.DataArray(many.bits.values[level], {"seed": many.seed}, ("seed",))


def _at(many: xr.Dataset, measure: str, setting: dict, ruler: dict) -> xr.DataArray:
    """Return a measure at a setting, and of the boundary masks at the *ruler*."""
    values = many[measure]
    where = {dim: value for dim, value in (setting | ruler).items() if dim in values.dims and dim != "bits"}
    return values.sel(where)


def _rounded(many: xr.Dataset, setting: dict, ruler: dict) -> xr.DataArray:
    """Return a measure of roundings without the gap term, with it, or the difference of both."""
    steps = {name: setting[name] for name in ("optimization_steps", "examples")}
    many = many.sel(steps | {"bits": setting["bits"]})
    plain, with_term = split_by_gap(many)
    # The weight of the lowest mean calibration distance, by the ledger's ruler on the finest grid.
    usual = {"plane": PLANES[1], "extent": "range", "nodes": int(many.nodes.max()), "thickness": 0}
    calibration = with_term.boundary_jaccard.sel(usual).mean("seed")
    found = {
        "logits": plain.sel({"method": "logits"}, drop=True), "gap": with_term.isel(eta=int(calibration.argmin("eta"))),
    }  # fmt: skip
    values = {name: _at(one, setting["measure"], setting, ruler) for name, one in found.items()}
    if "direction" not in setting:
        return values[setting["method"]]
    first, second = setting["direction"].split(" less ")
    return values[first] - values[second]


def outcome_of(values: xr.DataArray, test: dict, row: dict, means_of: int, level: float) -> dict:
    """Return our mean at the setting with its interval, the paper's number, the baseline's mean, and the outcome."""
    direction = "direction" in test
    found = judging.interval(values, np.inf if direction else means_of, level)
    estimate, low, high = (float(found[name]) for name in ("estimate", "low", "high"))
    if direction:
        outcome = "held" if low > 0 else "failed" if high < 0 else "open"
    else:
        inside = low <= row["reported"] <= high
        nearer = row["estimate"] is None or abs(estimate - row["reported"]) < abs(row["estimate"] - row["reported"])
        outcome = "failed" if not inside else "held" if nearer else "open"
    return {
        "estimate": estimate, "low": low, "high": high, "reported": row["reported"], "baseline": row["estimate"],
        "outcome": outcome,
    }  # fmt: skip
