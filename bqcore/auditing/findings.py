"""What an audit found: its numbers, in words, with a verdict, and in the forms that other programs read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import xarray as xr

from .._checks import check_integer
from . import exports
from .limits import ALPHA
from .streaming import RATES
from .verdict import COMMANDS, Verdict, decide_verdict

ENDS = {"events": "count", "low": "lower end of the 95 % interval", "high": "upper end of the 95 % interval"}
_SLICE_ROW = ["nodes", "step_a", "step_b", "boundary_jaccard", "effective_displacement", "grid_change", "junctions"]
_BAND = "band_flip_rate band_flip_rate_low band_flip_rate_high".split()
_LAYER_ROW = ["layer", "weights", "bytes", "flip_rate", *_BAND]
_LEVEL_ROW = ["bits", "bytes", "flip_rate", *_BAND, "accuracy"]


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found; see :func:`audit`."""

    dataset: xr.Dataset
    conclusion: str  # one plain sentence
    notes: tuple[str, ...]  # what could not be measured, and what to know when reading the numbers
    pictures: Mapping[int, bytes] = field(default_factory=dict)  # of flipped samples that are images, as PNG
    limits: Mapping[str, float] | None = None  # those stated; the defaults if None
    layers: xr.Dataset | None = None  # of bqcore.blame_layers, see explain
    levels: xr.Dataset | None = None  # of bqcore.sweep
    commands: Mapping[str, str] = field(default_factory=lambda: COMMANDS)  # that find layers and levels

    @cached_property
    def verdict(self) -> Verdict:
        """Return *ship*, *look* or *do not ship* by the limits stated, why, and what to do next; see :meth:`judge`."""
        return self.judge(self.limits)

    def judge(self, limits: Mapping[str, float] | None = None, *, alpha: float = ALPHA) -> Verdict:
        """
        Return the verdict by other *limits*, fractions by name of a measure, such as ``{"flip_rate": 0.02}``.

        By default at most 1 % of the decisions and 5 % of those in the band may change, and on balance 0.5 points of
        accuracy be lost. *alpha* is the chance that *ship* is said where a limit is truly exceeded, and that *do not
        ship* is where none is.
        """
        found = {"layers": self.layers, "levels": self.levels, "commands": self.commands}
        return decide_verdict(self.dataset, limits, alpha=alpha, **found)

    def explain(self, *, layers: xr.Dataset | None = None, sweep=None) -> "Audit":
        """Return this audit with what :func:`bqcore.blame_layers` and :func:`bqcore.sweep` found, to name both."""
        levels = None if sweep is None else sweep.dataset
        for name, found in (("layers", layers), ("sweep", levels)):
            if found is not None and found.share != self.dataset.share:
                raise ValueError(
                    f"The {name} have a band of {found.share:g} and the audit of {self.dataset.share:g}: give both the "
                    "same fraction."
                )
        new = {"layers": layers, "levels": levels}
        return replace(self, **{name: found for name, found in new.items() if found is not None})

    def to_dataset(self) -> xr.Dataset:
        """Return every number as an xarray.Dataset; conclusion and notes are attributes."""
        return self.dataset

    def to_dict(self, samples: int = 100) -> dict:
        """Return the numbers in dictionaries and lists: None if not finite, the first *samples* flips by margin."""
        return _plain(self, check_integer("Samples", samples, 0))

    def to_json(self, samples: int = 100) -> str:
        """Return :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(samples), indent=1, ensure_ascii=False)

    def to_html(self, title: str = "Audit") -> str:
        """Return one self-contained page: conclusion, tables, figures."""
        from .report import page

        return page(self, title)

    def to_dataframe(self, of: str = "rates"):
        """Return a pandas table: the rates with their intervals, or the flipped samples ("flips"), or class "pairs"."""
        return exports.frame(self, of)

    def to_markdown(self) -> str:
        """Return verdict, limits and next steps as Markdown, for a pull request."""
        return exports.markdown(self)

    def to_junit(self) -> str:
        """Return JUnit XML with a test for each limit: failed where it is exceeded, skipped where that is open."""
        return exports.junit(self)

    def to_annotations(self) -> str:
        """Return annotations of GitHub Actions, which a pipeline prints: errors, warnings, and the verdict."""
        return exports.annotations(self)

    def _repr_html_(self) -> str:
        return exports.fragment(self)

    def __repr__(self) -> str:
        return "\n".join([self.conclusion, *(f"Note: {note}" for note in self.notes), str(self.verdict)])


def _plain(found: Audit, samples: int) -> dict:
    ds = found.dataset
    out: dict = {"conclusion": found.conclusion, "notes": list(found.notes), "verdict": found.verdict.to_dict()}
    out |= {"band_share": ds.share, "splits": {}}
    for name in ds.split.values:
        part = ds.sel(split=name)
        known = [rate for rate in RATES if np.isfinite(part[rate])]
        ends = {rate: {end: part[f"{rate}_{end}"].item() for end in ENDS} for rate in known}
        rates = {rate: {"estimate": float(part[rate])} | ends[rate] for rate in known}
        counts = ("samples", "band_samples", "flips_in_band", "tied_flips", "near_ties", "band_margin")
        out["splits"][str(name)] = {key: part[key].item() for key in counts} | rates
        if "nodes" in ds.dims:
            out["splits"][str(name)]["slices"] = _rows(part, _SLICE_ROW, "nodes")
            beyond = _rows(part, ["tau", "tolerance_jaccard"], "tau")
            one = {"side": float(part.side), "outside": float(part.outside), "beyond": beyond}
            out["splits"][str(name)] |= one
    left_out = max(0, ds.sizes["flip"] - samples)
    out["pairs"] = _rows(ds, {"from": "pair_from", "to": "pair_to", "flips": "pair_flips"}, "pair")
    out["classes"] = _rows(ds, {name: f"decided_{name}" for name in ("reference", "candidate", "both")}, "class")
    out["groups"] = _rows(ds, {name: f"group_{name}" for name in ("samples", "flips", "margin")}, "group")
    flipped = {name.removeprefix("flipped_"): name for name in ds.data_vars if name.startswith("flipped_")}
    out |= {"flipped": _rows(ds.isel(flip=slice(0, samples)), flipped, "flip"), "flipped_left_out": left_out}
    if found.layers is not None:
        out["layers"] = _rows(found.layers, _LAYER_ROW, "layer")
    if found.levels is not None:
        out["levels"] = _rows(found.levels.sel(split="heldout"), _LEVEL_ROW, "bits")
    if "displacement" in ds:
        names = (
            "displacement signed_distance_change normal_variation third_class gradient_samples radius_samples".split()
        )
        radius = {str(key): ds.radius.sel(model=key).values.tolist() for key in ds.model.values}
        out["gradients"] = {name: ds[name].values.tolist() for name in names}
        out["gradients"] |= {"quantiles": ds["quantile"].values.tolist(), "radius": radius}
    return _finite(out)


def _rows(ds: xr.Dataset, columns: Mapping[str, str] | list[str], dim: str) -> list[dict]:
    """Return the variables *columns*, by key or by their names, along *dim* as a list of objects."""
    columns = columns if isinstance(columns, Mapping) else dict(zip(columns, columns))
    values = {key: ds[name].values.tolist() for key, name in columns.items()}
    return [dict(zip(values, row)) for row in zip(*values.values())] if ds.sizes[dim] else []


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
