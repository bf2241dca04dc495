"""
PTQ-W of a torch module of one's own: which bit-width, which layer is to blame, and which bits for which layer.

Levels and plans are chosen on the calibration split alone; the held-out split only says what came of the choice.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from torch import nn

from . import stats
from .auditing import describe
from .checks import check_choice, check_integer, check_share
from .geometry import gradient_measures
from .perlayer import layers, mixed, model_bytes, spend, uniform_bits
from .pooled import RATES, Decided, decide_split, logits_functions, measures
from .results import along
from .stopping import last_before

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
    model: nn.Module, calibration, heldout, *, bits: tuple[int, ...] = BITS, rule: str = "band_flips",
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
        As in :func:`bqcore.quantize.quantize`.
    share, batch_size
        As in :func:`bqcore.audit`.

    Raises
    ------
    ValueError
        As :func:`bqcore.audit`; if the rule is accuracy and there are no classes, or the model is no torch module.
    """
    check_choice("Rule", rule, tuple(RULES))
    limit = {"accuracy": 0.0, "flips": 0.01, "band_flips": 0.05}[rule] if limit is None else check_share("Limit", limit)
    levels = _levels(bits)
    names = list(layers(model))
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {f"{b}-bit candidate": mixed(model, dict.fromkeys(names, b), **options) for b in levels}
    splits = {"calibration": calibration, "heldout": heldout}
    found = _measured(model, candidates, splits, levels, "bits", share, batch_size)
    found["bytes"] = "bits", [model_bytes(model, b, granularity=granularity) for b in levels]
    on = found.sel(split="calibration")
    lost = dict(zip(levels, (on.accuracy_reference - on.accuracy).values.tolist()))
    values = {"accuracy": lost, "flips": on.flip_rate, "band_flips": on.band_flip_rate}[rule]
    known = bool(np.isfinite(on.accuracy).all())
    if rule == "accuracy" and not known:
        raise ValueError("The rule is accuracy, and the calibration split has no classes: give (inputs, classes).")
    values = values if isinstance(values, dict) else dict(zip(levels, values.values.tolist()))
    recommended, by_accuracy = _chosen(values, limit), _chosen(lost, 0.0) if known else None
    conclusion = _sentence(found, recommended, by_accuracy, rule, limit)
    says = {"title": "PTQ-W of a model by bits", "conclusion": conclusion, "rule": rule, "limit": limit, "share": share}
    describe(found, says)
    return Sweep(found, recommended, by_accuracy, conclusion)


def _levels(bits) -> list[int]:
    """Give the bit-widths of a sweep or a plan, each once, from the most bits down."""
    levels = sorted({check_integer("Bit-width", b, 2, 16) for b in bits}, reverse=True)
    if not levels:
        raise ValueError("There are no bit-widths: give some, such as (8, 6, 4).")
    return levels


def _chosen(values: Mapping[int, float], limit: float) -> Choice:
    """Give the fewest bits reached, going down, before the value first passes *limit*; none: the most bits, flagged."""
    levels = sorted(values, reverse=True)
    found = last_before([[values[bits] for bits in levels]], [limit])
    return Choice(levels[int(found.level)], not found.fallback)


def _measured(
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


def blame_layers(
    model: nn.Module, split, *, bits: int = 4, scheme: str = "narrow", granularity: str = "tensor", share: float = 0.2,
    gradient_samples: int = 1000, batch_size: int | None = None,
) -> xr.Dataset:  # fmt: skip
    """
    Quantize one layer at a time and rank the layers by what that does to the decisions.

    Parameters
    ----------
    model : torch module in eval mode
    split : inputs, (inputs, classes) or batches, as for :func:`bqcore.audit`
    bits : int
        2 to 16.
    scheme, granularity, share, gradient_samples, batch_size
        As in :func:`bqcore.sweep` and :func:`bqcore.audit`.

    Returns
    -------
    xarray.Dataset
        Along ``layer``, the worst first: by band flips, then by the median change of the margin of the float top-2
        pair. The rates with their intervals, ``margin_change``, ``displacement`` and ``normal_variation`` (median and
        95th percentile, if the inputs are one array of floating-point numbers), ``weights`` and ``bytes``, packed with
        their steps.
    """
    found = layers(model)
    candidates = {
        f"candidate with layer {name!r}": mixed(model, {name: bits}, scheme=scheme, granularity=granularity)
        for name in found
    }
    functions = logits_functions(model, candidates, False)
    decided, head, _ = decide_split(functions, split, "heldout", batch_size=batch_size)
    rows = []
    for key, part in decided.items():
        row = xr.Dataset(measures(part, share))
        pair = {"reference": model, "candidate": candidates[key]}
        both = {"reference": functions["reference"], "candidate": functions[key]}
        local = gradient_measures(pair, both, head, gradient_samples, part.classes, radii=False)
        rows.append(row.merge(local) if isinstance(local, xr.Dataset) else row)
    out = xr.concat(rows, xr.Variable("layer", list(found)))
    weights = [layer.weight for layer in found.values()]
    out["weights"] = "layer", [weight.numel() for weight in weights]
    steps = [len(weight) if granularity == "channel" else 1 for weight in weights]
    out["bytes"] = "layer", [-(-weight.numel() * bits // 8) + 4 * n for weight, n in zip(weights, steps)]
    order = np.lexsort((-out.margin_change.sel(quantile=0.5).values, -out.band_flip_rate.values))
    return describe(out.isel(layer=order), {"title": "One layer quantized at a time", "bits": bits, "share": share})


@dataclass(frozen=True, eq=False)
class Plan:
    """Bits by layer under a budget, beside uniform bits; see :func:`plan_bits`."""

    bits: dict[str, int]
    uniform: int  # the most bits for all that the budget holds
    dataset: xr.Dataset  # along ``split`` and ``way``: plan, uniform
    conclusion: str

    def __repr__(self) -> str:
        return self.conclusion


def plan_bits(
    model: nn.Module, calibration, heldout, *, budget: int, bits: tuple[int, ...] = BITS, scheme: str = "narrow",
    granularity: str = "tensor", share: float = 0.2, batch_size: int | None = None,
) -> Plan:  # fmt: skip
    """
    Give each layer its bits so that, within a budget of bytes, the decisions near the boundary are kept best.

    Every layer is quantized alone to every level, and the mean square by which that moves the margins of the
    calibration band is noted. Such errors of different layers add up about as independent noise does, so from the most
    bits down the step that adds least of it per byte saved is taken, until the budget holds. The band flips of single
    steps are too few to choose by. At few bits errors no longer add up, so the whole plan is measured on the
    calibration split, and uniform bits are given where they move its band's margins less, or flip fewer of its
    decisions beyond chance (McNemar, 5 %): logits that collapse to one value move small margins by little.

    Parameters
    ----------
    model : torch module in eval mode
    calibration, heldout : as for :func:`bqcore.audit`
        Not a generator or another iterator as *calibration*, which is gone through three times.
    budget : int
        Bytes of the whole model, as :func:`bqcore.model_bytes` counts them.
    bits, scheme, granularity, share, batch_size
        As in :func:`sweep`.

    Raises
    ------
    ValueError
        As :func:`sweep`, or if the budget does not hold the fewest bits for all.
    """
    if isinstance(calibration, Iterator):
        raise ValueError(
            f"The calibration split is a {type(calibration).__name__}, which can be gone through once, and a plan goes "
            "three times: give a list of its batches, a loader, or a function that gives them anew."
        )
    found, options = layers(model), {"scheme": scheme, "granularity": granularity}
    levels = _levels(bits)
    budget = check_integer("Budget", budget, 1)
    uniform = uniform_bits(model, levels, budget, granularity=granularity)
    alone = one_at_a_time(model, calibration, levels, batch_size=batch_size, **options)
    noise = {key: margin_noise(part, share) for key, part in alone.items()}
    chosen = least_noise(model, noise, calibration, budget, share=share, batch_size=batch_size, **options)
    ways = {"plan": chosen, "uniform": dict.fromkeys(found, uniform)}
    models = {f"{way} candidate": mixed(model, way_bits, **options) for way, way_bits in ways.items()}
    splits = {"calibration": calibration, "heldout": heldout}
    out = _measured(model, models, splits, list(ways), "way", share, batch_size)
    out["bytes"] = "way", [model_bytes(model, way_bits, granularity=granularity) for way_bits in ways.values()]
    out["layer_bits"] = ("layer", "way"), [[ways[way][name] for way in ways] for name in found]
    out = out.assign_coords(layer=list(found))
    held = out.sel(split="heldout")
    each = ", ".join(f"{name or 'model'}: {b}" for name, b in chosen.items())
    flips, band = held.flip_rate.values, held.band_flip_rate.values
    conclusion = (
        f"Within {budget} bytes nothing better than {uniform} bits for all was found on the calibration split; they "
        f"change {100 * flips[1]:.2f} % of the held-out decisions and {100 * band[1]:.1f} % in the boundary band."
        if chosen == ways["uniform"]
        else f"Within {budget} bytes the plan ({each}) changes {100 * flips[0]:.2f} % of the held-out decisions and "
        f"{100 * band[0]:.1f} % in the boundary band, {uniform} bits for all {100 * flips[1]:.2f} % and "
        f"{100 * band[1]:.1f} %."
    )
    describe(out, {"title": "Bits by layer under a budget", "conclusion": conclusion, "budget": budget, "share": share})
    return Plan(chosen, uniform, out, conclusion)


def one_at_a_time(
    model: nn.Module, split, levels, *, scheme: str = "narrow", granularity: str = "tensor",
    batch_size: int | None = None,
) -> dict[tuple[str, int], Decided]:  # fmt: skip
    """Give the decisions on *split* with each layer alone quantized to each level, by layer name and bits."""
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {(name, b): mixed(model, {name: b}, **options) for name in layers(model) for b in levels}
    functions = logits_functions(model, {f"candidate {key}": one for key, one in candidates.items()}, False)
    decided, _, _ = decide_split(functions, split, "calibration", batch_size=batch_size)
    return dict(zip(candidates, decided.values()))


def margin_noise(part: Decided, share: float) -> float:
    """Give the mean square by which the margins of the boundary band move."""
    band = part.band(share)
    return float(np.square(part.moved[band] - part.margin[band]).mean())


def least_noise(
    model: nn.Module, noise: Mapping, calibration, budget: int, *, share: float = 0.2, scheme: str = "narrow",
    granularity: str = "tensor", batch_size: int | None = None,
) -> dict[str, int]:  # fmt: skip
    """Give the bits of :func:`plan_bits` from the *noise* of each layer at each level."""
    uniform = uniform_bits(model, {b for _, b in noise}, budget, granularity=granularity)
    ways = {
        "plan": spend(model, noise, budget, granularity=granularity),
        "uniform": dict.fromkeys(layers(model), uniform),
    }
    candidates = {way: mixed(model, each, scheme=scheme, granularity=granularity) for way, each in ways.items()}
    functions = logits_functions(model, candidates, False)
    decided, _, _ = decide_split(functions, calibration, "calibration", batch_size=batch_size)
    noisier = margin_noise(decided["plan"], share) > margin_noise(decided["uniform"], share)
    band = decided["plan"].band(share)
    flipped = [decided[way].flipped()[band] for way in ("plan", "uniform")]
    flips_more = flipped[0].sum() > flipped[1].sum() and stats.mcnemar(*flipped).p_value < 0.05
    return ways["uniform" if noisier or flips_more else "plan"]
