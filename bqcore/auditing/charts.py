"""Where the marks of an audit's charts lie, x in percent of the width and y in pixels; the template draws them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import xarray as xr

from ..metrics.statistics import clopper_pearson
from .limits import TITLES, Judged

LEFT, RIGHT = 11.0, 97.0  # of a chart with an axis at its left
TOP, BOTTOM = 14.0, 190.0
CLASSES, LAYERS = 12, 20  # of the longest charts


class Scale(NamedTuple):
    """Values from *low* to *high* lie from *start* to *end*."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + (self.end - self.start) * part, 2)


def ticks(high: float) -> list[float]:
    """Return three to six round numbers from 0 to at most *high*, which is positive."""
    power = 10.0 ** math.floor(math.log10(high))
    steps = {part * power: int(high / (part * power) + 1e-9) for part in (0.2, 0.5, 1, 2)}
    step = next(step for step, fit in steps.items() if fit < 6)
    return [step * i for i in range(steps[step] + 1)]


def limit_rows(judged: Sequence[Judged]) -> list[dict]:
    """Return each measure with its interval and its limit along a scale of its own, which holds zero."""
    rows = []
    for one in judged:
        row = one._asdict() | {"title": TITLES[one.name], "measured": not math.isnan(one.estimate)}
        if row["measured"]:
            ends = min(0.0, one.low, one.limit), max(one.high, one.limit)
            x = Scale(ends[0], ends[1] + (ends[1] - ends[0]) / 20, 1.0, 99.0)
            row |= {f"x_{name}": x(getattr(one, name)) for name in ("estimate", "low", "high", "limit")}
            row["x_zero"] = x(0.0)
        rows.append(row)
    return rows


def curve(groups: Sequence[dict], fraction: float) -> dict | None:
    """Return the flip rates of samples in groups by growing margin; none where no sample flips."""
    if not any(group["flips"] for group in groups):
        return None
    total, done, points = sum(group["samples"] for group in groups), 0, []
    x = Scale(0.0, total, LEFT, RIGHT)
    rates = [clopper_pearson(group["flips"], group["samples"]) for group in groups]
    y = Scale(0.0, max(rate.high for rate in rates), BOTTOM, TOP)
    for group, rate in zip(groups, rates):
        at = {"x": x(done + group["samples"] / 2), "y": y(rate.estimate), "y_low": y(rate.low), "y_high": y(rate.high)}
        points.append(group | at | rate._asdict())
        done += group["samples"]
    return {"points": points, "band": x(fraction * total), "y_ticks": _axis(y)}


def heat(pairs: Sequence[dict]) -> dict | None:
    """Return a table of flips, from the reference's classes to the candidate's, of the largest *pairs* that fit in."""
    if not pairs:
        return None
    shown: set[int] = set()
    for pair in pairs:  # the largest first
        with_it = shown | {pair["from"], pair["to"]}
        shown = with_it if len(with_it) <= CLASSES else shown
    classes, counts = sorted(shown), {(pair["from"], pair["to"]): pair["flips"] for pair in pairs}
    rows = [{"from": a, "flips": [counts.get((a, b), 0) for b in classes]} for a in classes]
    every = {pair[end] for pair in pairs for end in ("from", "to")}
    return {"classes": classes, "of": len(every), "rows": rows, "most": max(counts.values())}


def layer_bars(layers: xr.Dataset | None) -> dict | None:
    """Return what each layer alone changes of the boundary band, the worst first, with its interval."""
    if layers is None:
        return None
    worst = layers.isel(layer=slice(0, LAYERS))
    x = Scale(0.0, float(worst.band_flip_rate_high.max()), 0.0, 99.0)
    rates = zip(*(worst[f"band_flip_rate{end}"].values.tolist() for end in ("", "_low", "_high")))
    rows = [
        {"name": name, "estimate": rate[0]} | dict(zip(("x", "x_low", "x_high"), map(x, rate)))
        for name, rate in zip(worst.layer.values.tolist(), rates)
    ]  # fmt: skip
    return {"rows": rows, "bits": int(layers.bits), "left": layers.sizes["layer"] - len(rows)}


def front(levels: xr.Dataset | None, judged: Sequence[Judged], passing: int | None) -> dict | None:
    """Return held-out flips and band flips of each bit-width along its bytes, with their limits."""
    if levels is None:
        return None
    held = levels.sel(split="heldout").sortby("bits")
    size, limits = held.bytes.values.tolist(), {one.name: one.limit for one in judged}
    x = Scale(0.0, max(size), LEFT, RIGHT)
    names = ("flip_rate", "band_flip_rate")
    y = Scale(0.0, max(float(held[f"{name}_high"].max()) for name in names), BOTTOM, TOP)
    lines = []
    for name in names:
        ends = [held[f"{name}{end}"].values.tolist() for end in ("", "_low", "_high")]
        points = [dict(zip(("x", "y", "y_low", "y_high"), (x(b), *map(y, rate)))) for b, rate in zip(size, zip(*ends))]
        limit = limits.get(name)
        shown = limit is not None and 0 <= limit <= y.high
        lines.append({"name": name, "title": TITLES[name], "points": points, "limit": y(limit) if shown else None})
    bits = [
        {"bits": int(b), "x": x(n), "bytes": n, "passes": int(b) == passing} for b, n in zip(held.bits.values, size)
    ]
    return {"lines": lines, "bits": bits, "y_ticks": _axis(y)}


def _axis(y: Scale) -> list[dict]:
    return [{"value": value, "y": y(value)} for value in ticks(y.high)]
