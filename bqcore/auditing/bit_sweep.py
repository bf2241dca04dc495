"""
The bit-width for a torch module of one's own: every one measured, and one recommended by a rule.

It is chosen on the calibration split alone; the held-out split only says what came of the choice.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from .._checks import check_choice, check_integer, check_share
from .._store import along
from ..quantizers.bit_selection import last_before
from ..quantizers.mixed_precision import mixed, model_bytes
from ..quantizers.weights import in_float, weights
from . import joint
from .comparison import SPLITS, describe
from .orders import order_fault
from .streaming import RATES, SEVERAL, decide_split, logits_functions, measures

BITS = (8, 7, 6, 5, 4, 3, 2)
RULES = {"accuracy": "accuracy lost", "flips": "flip rate", "band_flips": "band flip rate"}


class Choice(NamedTuple):
    """A bit-width, and whether it keeps the limit; if none does, it is the largest."""

    bits: int
    kept: bool


@dataclass(frozen=True, eq=False)
class Sweep:
    """Every bit-width of a sweep with the recommended one; see :func:`sweep`."""

    dataset: xr.Dataset
    recommended: Choice
    by_accuracy: Choice | None  # None without classes
    conclusion: str

    def to_dataset(self) -> xr.Dataset:
        """Return every number as an xarray.Dataset."""
        return self.dataset

    def to_json(self) -> str:
        """Return the choices and the numbers of every bit-width as JSON."""
        chosen = {"recommended": self.recommended, "by_accuracy": self.by_accuracy}
        chosen = {name: choice and choice._asdict() for name, choice in chosen.items()}
        levels = by_split(self.dataset, "bits")
        return json.dumps({"conclusion": self.conclusion, **chosen, "levels": levels}, indent=1)

    def __repr__(self) -> str:
        return self.conclusion


def by_split(dataset: xr.Dataset, dim: str) -> list[dict]:
    """Return, for each of the models along *dim*, its bytes and on each split the rates that were measured."""
    out = []
    for one in (dataset.isel({dim: i}) for i in range(dataset.sizes[dim])):
        on = {split: one.sel(split=split) for split in SPLITS}
        rates = {split: {name: float(r[name]) for name in RATES if np.isfinite(r[name])} for split, r in on.items()}
        out.append({dim: one[dim].item(), "bytes": int(one.bytes)} | rates)
    return out


def sweep(
    model, calibration, heldout, *, bits: tuple[int, ...] = BITS, rule: str = "band_flips",
    limit: float | None = None, scheme: str = "narrow", granularity: str = "tensor", fraction: float = 0.2,
    batch_size: int | None = None, skip: str | Iterable[str] = (), progress: str = "",
    activations: str | None = None, activation_bits: int = 8, percentile: float = 100.0,
) -> Sweep:  # fmt: skip
    """
    Quantize a model to every bit-width and recommend one by a rule.

    The recommendation is the fewest bits reached, going down, before the rule's measure first exceeds its limit on the
    calibration split. If even the most bits exceed it, these are recommended with ``kept`` False. The choice by
    accuracy alone (no calibration accuracy lost) is reported beside it.

    Parameters
    ----------
    model : torch module in eval mode, whose layers are quantized as by :func:`bqcore.quantize_model`
    calibration, heldout : as for :func:`bqcore.audit`
    bits : sequence of int, bit-widths, 2 to 16
    rule : {"accuracy", "flips", "band_flips"}
        Measure that decides: accuracy lost, flip rate, or flip rate in the boundary band.
    limit : float, optional
        Largest value of the measure, in [0, 1]; by default 0 for accuracy, 0.01 for flips, 0.05 for band flips.
    scheme, granularity, fraction, batch_size : as in :func:`bqcore.quantize` and :func:`bqcore.audit`
    skip : str or strings, names of layers, or of modules with all that they hold, that stay in float
    progress : str, what a bar with the time left is named; none if empty, or where there is no terminal
    activations : {"static", "dynamic"}, optional
        Round what goes into each layer, too: to the range on the calibration split, or to that of each sample when it
        comes. The bit-width is then recommended for both together, and flips are told apart by what they are due to.
    activation_bits : int, 2 to 16, of these inputs
    percentile : float, 50 to 100
        Static ranges are from the (100 − percentile)-th percentile to this one, averaged over batches.

    Returns
    -------
    Sweep
        ``recommended`` and ``by_accuracy`` (bits, kept), ``conclusion`` in words, also on what stayed in float, and
        ``dataset`` with the rates of :func:`bqcore.audit` along ``split`` and ``bits``, and ``bytes`` of the packed
        model. With *activations* also ``flips_by`` along ``cause``: flips that the rounded weights alone bring about,
        those that the activations alone do, those of either, and those of both together only.

    Raises
    ------
    ValueError
        As :func:`bqcore.audit`; if the rule is accuracy and there are no classes, or the model is no torch module.

    Examples
    --------
    >>> import bqcore, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.1], [0.2, 1.0]])})
    >>> x = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 0.3])
    >>> found = bqcore.sweep(model, x, x, bits=(8, 4, 2))
    >>> found.recommended, found.dataset.bytes.values.tolist()
    (Choice(bits=8, kept=True), [8, 6, 5])
    """
    check_choice("Rule", rule, tuple(RULES))
    limit = {"accuracy": 0.0, "flips": 0.01, "band_flips": 0.05}[rule] if limit is None else check_share("Limit", limit)
    bits = check_bits(bits)
    found_weights = weights(model, skip)
    each = {b: dict.fromkeys(found_weights, b) for b in bits}
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {f"{b}-bit candidate": mixed(model, each[b], **options) for b in bits}
    splits = {"calibration": calibration, "heldout": heldout}
    how: dict = {"fraction": fraction, "batch_size": batch_size, "progress": progress}
    weights_alone = candidates
    if activations is not None:
        rounded = joint.rounding(
            model, calibration, activations, bits=activation_bits, percentile=percentile, batch_size=batch_size,
            skip=skip,
        )  # fmt: skip
        candidates = {f"{b}-bit candidate": rounded(one) for b, one in zip(bits, weights_alone.values())}
        alone = {f"{b}-bit weights": one for b, one in zip(bits, weights_alone.values())}
        how["alone"] = alone | {joint.ACTIVATIONS: rounded(model)}
    found, asked = measure_candidates(model, candidates, splits, "bits", bits, **how)
    found["bytes"] = "bits", [model_bytes(model, each[b], granularity=granularity) for b in bits]
    on = found.sel(split="calibration")
    known = bool(np.isfinite(on.accuracy).all())
    if rule == "accuracy" and not known:
        raise ValueError("The rule is accuracy, and the calibration split has no classes: give (inputs, classes).")
    measured = {"accuracy": on.accuracy_reference - on.accuracy, "flips": on.flip_rate, "band_flips": on.band_flip_rate}
    values = {name: dict(zip(bits, measure.values.tolist())) for name, measure in measured.items()}
    recommended = choose_bits(values[rule], limit)
    by_accuracy = choose_bits(values["accuracy"], 0.0) if known else None
    left = in_float(model, found_weights.values())
    conclusion = (
        _sentence(found, recommended, by_accuracy, rule, limit)
        + left.sentence()
        + _unused(found, weights_alone)
        + asked
    )
    says: dict = {"title": "PTQ-W of a model by bits", "rule": rule, "limit": limit}
    if activations is not None:
        conclusion += joint.sentence(found, recommended.bits, activations, activation_bits)
        says |= {"activations": activations, "activation_bits": activation_bits, "percentile": percentile}
    says["conclusion"] = conclusion
    describe(found, says | {"share": fraction} | left.attributes())
    return Sweep(found, recommended, by_accuracy, conclusion)


def check_bits(bits) -> list[int]:
    """Return the bit-widths of a sweep or a plan, each once, from the most bits down."""
    found = sorted({check_integer("Bit-width", b, 2, 16) for b in bits}, reverse=True)
    if not found:
        raise ValueError("There are no bit-widths: give some, such as (8, 6, 4).")
    return found


def choose_bits(values: Mapping[int, float], limit: float) -> Choice:
    """Return the fewest bits reached, going down, before the value first exceeds *limit*, or the most, not ``kept``."""
    bits = sorted(values, reverse=True)
    found = last_before([[values[b] for b in bits]], [limit])
    return Choice(bits[int(found.level)], not found.fallback)


def measure_candidates(
    model, candidates: Mapping, splits: Mapping, dim: str, values: Sequence, *, fraction: float,
    batch_size: int | None, progress: str = "", alone: Mapping | None = None,
) -> tuple[xr.Dataset, str]:  # fmt: skip
    """
    Measure the rates of every candidate, named by *values* along *dim*, with one pass over each split.

    *alone* are each candidate's weights alone, in the same order, and then its activations alone, by which flips are
    told apart. Returned with them is what to ask of a model that seems to give several labels, or of classes in another
    order than the model's decisions, with a space before it, or nothing.
    """
    functions = logits_functions(model, {**candidates, **(alone or {})}, False)
    how: dict = {"batch_size": batch_size, "alike": True, "progress": progress}
    out, asked = [], []
    for name, split in splits.items():
        decided, _, notes = decide_split(functions, split, name, **how)
        asked += [SEVERAL] if SEVERAL in notes else []
        first = next(iter(decided.values()))
        band = first.band(fraction)  # of the reference's margins, which all share
        # Only the model's own decisions are held against the classes: candidates of few bits may be as bad as chance.
        fault = order_fault(first._replace(decision=first.winner), name)
        asked += [f"{fault}: do inputs and classes belong together?"] if fault else []
        out.append(along(dim, list(values), [measures(decided[key], band) for key in candidates]))
        if alone:
            parts = list(decided.values())
            out[-1]["flips_by"] = joint.causes(parts[: len(candidates)], parts[len(candidates) : -1], parts[-1], dim)
    return xr.concat(out, xr.Variable("split", list(splits))), "".join(f" {one}" for one in dict.fromkeys(asked))


def _unused(found: xr.Dataset, candidates: Mapping) -> str:
    """Say that weights change and no margin does, as where a model computes with others than its layers hold."""
    still = (found.unchanged == found.samples).all("split").values
    bits = [b for b, one, same in zip(found.bits.values, candidates.values(), still) if same and one.changed()]
    if not bits:
        return ""
    return f" At {', '.join(map(str, bits))} bits weights change and no margin does: does the model compute with them?"


def _sentence(found: xr.Dataset, recommended: Choice, by_accuracy: Choice | None, rule: str, limit: float) -> str:
    held = found.sel(split="heldout", bits=recommended.bits)
    says = f"{RULES[rule]} of at most {limit:g} on the calibration split"
    which = "{} bits are the fewest that keep" if recommended.kept else "Not even {} bits, the most, keep"
    text = (
        f"{which.format(recommended.bits)} a {says}; held-out, they change {100 * float(held.flip_rate):.2f} % of the "
        f"decisions and {100 * float(held.band_flip_rate):.1f} % in the boundary band"
    )
    if by_accuracy is None or rule == "accuracy":
        return text + "."
    held = found.sel(split="heldout", bits=by_accuracy.bits)
    which = "it would be {} bits, which" if by_accuracy.kept else "no level qualifies, and {} bits, the most,"
    changes = f"{100 * float(held.flip_rate):.2f} % and {100 * float(held.band_flip_rate):.1f} %"
    return f"{text}; by accuracy alone {which.format(by_accuracy.bits)} change {changes}."
