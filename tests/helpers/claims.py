"""What the tests of the ledger share: claims and runs that are made up, judged through their files."""

from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
import yaml

from bqcore import _store
from studies import explanations, ledger, published, specs, stopping
from tests.helpers import ROOT

KEYS = [
    "id", "dataset", "where", "says", "kind", "reported", "short", "estimate", "low", "high", "values", "runs",
    "verdict", "first_verdict", "excluded",
    "held", "detectable", "bound", "equivalent", "note", "together",
    "multiverse", "explanation", "command",
]  # fmt: skip
# The abstract's claims with the numbers it reports; a word stands for a claim without one.
REPORTED = {
    "D1": 0, "D2": 0.428, "D3": 0.9733, "D4": 0.970, "D5": 0.0290,
    "J1": "qualitative", "J2": 12, "J3": 34, "J4": 17,
    "S1": 0.0094, "S2": 0.0022, "S3": 0.825, "S4": 0.524, "S5": "direction", "S6": "direction",
    "C1": 6, "C2": 0.0367, "C3": 0.184, "C4": 8, "C5": 0.0083, "C6": 0.048,
    "F1": 0.0029, "F2": 0.053, "F3": 0.245,
    "R1": 0.457, "R2": 0.435, "R3": 0.3600, "R4": 0.3558, "R5": "direction", "R6": "qualitative",
    "K1": 0.947, "K2": 0.994,
}  # fmt: skip
# What came with the second rule: two reductions, other readings of a claim, and claims taken together.
ADDED = {"R7": 0.022, "R8": 0.0042, "J1-chance": "qualitative"}
ADDED |= {f"R6-{measure}": "qualitative" for measure in ("jaccard", "flips", "band", "accuracy")}
TOGETHER = {
    "J2+J3+J4": ["J2", "J3", "J4"], "S2+S4": ["S2", "S4"], "C1+C2+C3": ["C1", "C2", "C3"], "C4+C5+C6": ["C4", "C5", "C6"],
    "R1+R2": ["R1", "R2"], "R3+R4": ["R3", "R4"],
}  # fmt: skip
RULE = {"level": 0.95, "power": 0.8, "spare": 0.5, "too_wide": 0.5}


@cache
def published_rows() -> list[dict]:
    """Return the ledger of what is published, judged once."""
    return ledger.ledger(ROOT / ledger.CLAIMS, ROOT / published.PUBLISHED, ROOT / explanations.PREDICTIONS)


def judge_many(folder: Path, stated: list[dict], dataset: xr.Dataset, **rule) -> list[dict]:
    """Judge claims through their file and one result file."""
    common = {"id": "X1", "dataset": "digits", "says": "test", "where": "here", "from": "x.nc"}
    content = {"rule": RULE | rule, "claims": [common | claim for claim in stated]}
    (folder / "claims.yml").write_text(yaml.safe_dump(content))
    attributes = {"command": "python -m studies run levels digits", "spec": specs.Levels().text()}
    _store.save_dataset(dataset.assign_attrs(attributes), folder / "x.nc")
    rows = ledger.ledger(folder / "claims.yml", folder)
    assert all(list(row) == KEYS and row["command"] == attributes["command"] for row in rows)
    return rows


def judge(folder: Path, claim: dict, dataset: xr.Dataset, **rule) -> dict:
    """Judge one claim through its file and the result file."""
    (row,) = judge_many(folder, [claim], dataset, **rule)
    return row


def by_bits(eight, four) -> xr.Dataset:
    """Return a measure at 8 and 4 bits; the float classifier's, far off, must not count for the span."""
    eight, four = np.asarray(eight, dtype=float), np.broadcast_to(four, len(eight))
    values = np.stack([np.full(len(eight), 1e6), eight, four], axis=1)
    return xr.Dataset({"m": (("seed", "bits"), values)}, {"seed": np.arange(len(eight)), "bits": [32, 8, 4]})


def value(reported: float, means_of: int = 1, **other) -> dict:
    return {
        "kind": "value", "reported": reported, "select": {"measure": "m", "bits": 8}, "span": "bits", "means_of": means_of,
    } | other  # fmt: skip


RAMP = np.linspace(0, 1, 39)  # the interval of the next run is from the least to the greatest: 0 to 1, median 0.5


def pair(first, second) -> xr.Dataset:
    return xr.Dataset({"first": ("seed", first), "second": ("seed", second)})


DIRECTION = {
    "kind": "direction",
    "reported": "direction",
    "first": {"measure": "first"},
    "second": {"measure": "second"},
    "bound": 1.0,
    "because": "a test",
}
NOISE = np.tile([-1.0, 1.0], 20)  # the interval of its mean is 0 ± 0.324


def by_method(jaccard: dict[str, np.ndarray]) -> xr.Dataset:
    """Return runs of the rounding study with a made-up Jaccard on both splits, by method, at 4 and 3 bits."""
    values = np.stack([np.stack([np.stack([v, v + 0.1]) for v in jaccard.values()])] * 2, axis=-1)
    dims = ("method", "split", "seed", "bits")
    coords = {"method": list(jaccard), "split": ["calibration", "held-out"], "bits": [4, 3]}
    return xr.Dataset({"boundary_jaccard": (("nodes", *dims), values[None])}, {"nodes": [81], **coords})


def judge_file(folder: Path, stated: list) -> list[dict]:
    common = {"dataset": "d", "says": "s", "where": "w"}
    (folder / "c.yml").write_text(yaml.safe_dump({"rule": RULE, "claims": [common | claim for claim in stated]}))
    return ledger.ledger(folder / "c.yml", folder)


def stopping_runs(seed: int, count: int = 12) -> xr.Dataset:
    """Make runs in which flips and Jaccard grow as bits fall, on both splits, with a little noise."""
    generator = np.random.default_rng(seed)
    bits = np.array([32, 8, 7, 6, 5, 4, 3, 2])
    jaccard = np.array([0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75])
    noise = 0.02 * generator.random((count, 2, 8))
    flips = np.array([0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]) * (1 + noise)
    dims = ("seed", "split", "bits")
    return xr.Dataset(
        {
            "accuracy": (dims, 0.9 - 0.5 * np.maximum(0, flips - 0.003)), "flip_rate": (dims, flips),
            "band_flip_rate": (dims, 4 * flips), "model_bytes": ("bits", 100 * bits),
            "boundary_jaccard": ((*dims, "nodes"), (jaccard * (1 + noise) * (bits < 32))[..., None]),
            "tolerance_jaccard": ((*dims, "tau"), (jaccard * (1 + noise))[..., None]),
        },
        {"seed": np.arange(count), "split": list(stopping.SPLITS), "bits": bits, "nodes": [201], "tau": [0.1]},
    )  # fmt: skip


def judge_stopping(folder: Path, reported: tuple[float, float], many: xr.Dataset, **rule) -> list[dict]:
    common = {"dataset": "digits", "says": "test", "where": "here", "from": "x.nc", "kind": "value", "span": "bits",
              "means_of": 1, "first_rule": {"kind": "stopping", "together": ["X1", "X2"]}}  # fmt: skip
    selects = [
        {"measure": "flip_rate", "split": "held-out"},
        {"measure": "boundary_jaccard", "split": "held-out", "nodes": 201},
    ]
    stated = [
        common | {"id": f"X{i + 1}", "reported": value, "select": select | {"rule": "jaccard", "limit": "usual"}}
        for i, (value, select) in enumerate(zip(reported, selects))
    ]
    kept = {key: common[key] for key in ("dataset", "says", "where", "from")}
    stated.append(kept | {"id": "X1+X2", "reported": "joint", "kind": "joint", "together": ["X1", "X2"], "over": "limits",
                          "first_rule": None})  # fmt: skip
    content = {"rule": RULE | rule, "claims": stated}
    (folder / "claims.yml").write_text(yaml.safe_dump(content))
    usual = specs.baseline("stopping", "digits")
    _store.save_dataset(many.assign_attrs(spec=usual.text(), command=usual.command()), folder / "x.nc")
    return ledger.ledger(folder / "claims.yml", folder)
