"""
PTQ-W of a torch module of one's own: which bit-width, which layer is to blame, and which bits for which layer.

Levels and plans are chosen on the calibration split alone; the held-out split only says what came of the choice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from .._checks import check_choice, check_integer, check_share
from .._store import along
from ..quantizers.bit_selection import last_before
from ..quantizers.mixed_precision import layers, mixed, model_bytes
from .comparison import describe
from .streaming import RATES, decide_split, logits_functions, measures

SPLITS = ("calibration", "heldout")
BITS = (8, 7, 6, 5, 4, 3, 2)
RULES = {"accuracy": "accuracy lost", "flips": "flip rate", "band_flips": "band flip rate"}


class Choice(NamedTuple):
    """A bit-width, and whether it keeps the limit; if no level does, it is the one of most bits."""

    bits: int
    kept: bool


@dataclass(frozen=True, eq=False)
class Sweep:
    """Every level of a sweep with the recommended one; see :func:`sweep`."""

    dataset: xr.Dataset
    recommended: Choice
    by_accuracy: Choice | None  # None without classes
    conclusion: str

    def to_dataset(self) -> xr.Dataset:
        """Give every number as an xarray.Dataset."""
        return self.dataset

    def to_json(self) -> str:
        """Give the choices and the numbers of every level as JSON."""
        chosen = {"recommended": self.recommended, "by_accuracy": self.by_accuracy}
        chosen = {name: choice and choice._asdict() for name, choice in chosen.items()}
        levels = [
            {"bits": int(b), "bytes": int(part.bytes)} | {split: _rates(part.sel(split=split)) for split in SPLITS}
            for b, part in ((b, self.dataset.sel(bits=b)) for b in self.dataset.bits.values)
        ]
        return json.dumps({"conclusion": self.conclusion, **chosen, "levels": levels}, indent=1, ensure_ascii=False)

    def __repr__(self) -> str:
        return self.conclusion


def _rates(part: xr.Dataset) -> dict:
    return {name: float(part[name]) for name in RATES if np.isfinite(part[name])}


def sweep(
    model, calibration, heldout, *, bits: tuple[int, ...] = BITS, rule: str = "band_flips",
    limit: float | None = None, scheme: str = "narrow", granularity: str = "tensor", share: float = 0.2,
    batch_size: int | None = None,
) -> Sweep:  # fmt: skip
    """
    Quantize a model to every bit-width and recommend one by a rule.

    The recommended level is the fewest bits reached, going down, before the rule's measure first passes its limit on
    the calibration split; if even the most bits pass it, these are given with ``kept`` False. The choice by accuracy
    alone (no calibration accuracy lost) stands beside it.

    Parameters
    ----------
    model : torch module in eval mode
    calibration, heldout : as for :func:`bqcore.audit`
    bits : tuple of int
        Levels, 2 to 16.
    rule : {"accuracy", "flips", "band_flips"}
        Measure that decides: accuracy lost, flip rate, or flip rate in the boundary band.
    limit : float, optional
        Largest value of the measure; by default 0 for accuracy, 0.01 for flips, 0.05 for band flips.
    scheme, granularity
        As in :func:`bqcore.quantizers.uniform.quantize`.
    share, batch_size
        As in :func:`bqcore.audit`.

    Raises
    ------
    ValueError
        As :func:`bqcore.audit`; if the rule is accuracy and there are no classes, or the model is no torch module.
    """
    check_choice("Rule", rule, tuple(RULES))
    limit = {"accuracy": 0.0, "flips": 0.01, "band_flips": 0.05}[rule] if limit is None else check_share("Limit", limit)
    levels = check_levels(bits)
    names = list(layers(model))
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {f"{b}-bit candidate": mixed(model, dict.fromkeys(names, b), **options) for b in levels}
    splits = {"calibration": calibration, "heldout": heldout}
    found = measure_candidates(model, candidates, splits, levels, "bits", share, batch_size)
    found["bytes"] = "bits", [model_bytes(model, b, granularity=granularity) for b in levels]
    on = found.sel(split="calibration")
    lost = dict(zip(levels, (on.accuracy_reference - on.accuracy).values.tolist()))
    values = {"accuracy": lost, "flips": on.flip_rate, "band_flips": on.band_flip_rate}[rule]
    known = bool(np.isfinite(on.accuracy).all())
    if rule == "accuracy" and not known:
        raise ValueError("The rule is accuracy, and the calibration split has no classes: give (inputs, classes).")
    values = values if isinstance(values, dict) else dict(zip(levels, values.values.tolist()))
    recommended, by_accuracy = choose_bits(values, limit), choose_bits(lost, 0.0) if known else None
    conclusion = _sentence(found, recommended, by_accuracy, rule, limit)
    says = {"title": "PTQ-W of a model by bits", "conclusion": conclusion, "rule": rule, "limit": limit, "share": share}
    describe(found, says)
    return Sweep(found, recommended, by_accuracy, conclusion)


def check_levels(bits) -> list[int]:
    """Give the bit-widths of a sweep or a plan, each once, from the most bits down."""
    levels = sorted({check_integer("Bit-width", b, 2, 16) for b in bits}, reverse=True)
    if not levels:
        raise ValueError("There are no bit-widths: give some, such as (8, 6, 4).")
    return levels


def choose_bits(values: Mapping[int, float], limit: float) -> Choice:
    """Give the fewest bits reached, going down, before the value first passes *limit*; none: the most bits, flagged."""
    levels = sorted(values, reverse=True)
    found = last_before([[values[bits] for bits in levels]], [limit])
    return Choice(levels[int(found.level)], not found.fallback)


def measure_candidates(
    model, candidates: Mapping, splits: Mapping, values: list, dim: str, share: float, batch_size: int | None
) -> xr.Dataset:
    """Measure every candidate on every split, with one pass over each."""
    functions = logits_functions(model, candidates, False)
    out = []
    for name, split in splits.items():
        decided, _, _ = decide_split(functions, split, name, batch_size=batch_size)
        out.append(along(dim, values, [measures(part, share) for part in decided.values()]))
    return xr.concat(out, xr.Variable("split", list(splits)))


def _sentence(found: xr.Dataset, recommended: Choice, by_accuracy: Choice | None, rule: str, limit: float) -> str:
    held = found.sel(split="heldout", bits=recommended.bits)
    says = f"{RULES[rule]} of at most {limit:g} on the calibration split"
    text = f"{recommended.bits} bits are the fewest that keep a {says}" if recommended.kept else (
        f"Not even {recommended.bits} bits, the most, keep a {says}"
    )  # fmt: skip
    text += (
        f"; held-out, they change {100 * float(held.flip_rate):.2f} % of the decisions and "
        f"{100 * float(held.band_flip_rate):.1f} % in the boundary band"
    )
    if by_accuracy is None or rule == "accuracy":
        return text + "."
    held = found.sel(split="heldout", bits=by_accuracy.bits)
    alone = f"it would be {by_accuracy.bits} bits, which"
    if not by_accuracy.kept:
        alone = f"no level qualifies, and {by_accuracy.bits} bits, the most,"
    return text + (
        f"; by accuracy alone {alone} change {100 * float(held.flip_rate):.2f} % and "
        f"{100 * float(held.band_flip_rate):.1f} %."
    )
