"""Write an audit as one self-contained HTML page, which makes no request: report.html.jinja, filled in."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jinja2
import numpy as np
import xarray as xr

from ..metrics.masks import boundary_mask
from . import charts
from .verdict import passing_bits, surest

ROWS = 50  # of the longest tables; the result files hold all
# How the page writes numbers, by the names of the template's filters; None, which was not finite, is a dash.
FORMATS = {"fraction": ".4f", "measure": ".4g", "brief": ".3g", "plain": "g", "percent": ".0%", "pixels": ".1f"}


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.filters |= {
    name: lambda value, how=how: "–" if value is None else format(value, how) for name, how in FORMATS.items()
}

_TEMPLATES.filters["share"] = lambda value: "–" if value is None else f"{100 * value:.3g} %"
_TEMPLATES.filters["upperfirst"] = lambda words: words[:1].upper() + words[1:]


def page(
    found, title: str, *, limits: Mapping[str, float] | None = None, exceeded: tuple[str, ...] = (), command: str = ""
) -> str:
    """
    Return the page of an :class:`bqcore.auditing.findings.Audit`, with the command that made it at its end.

    *limits* by measure are shown as kept unless one is exceeded, as the lines *exceeded* then say.
    """
    verdict, (ds, flips) = found.verdict, _with_surest(found.dataset)
    content = replace(found, dataset=ds).to_dict(flips)
    named, heat = _class_names(ds), charts.heat(content["pairs"])
    splits = content["splits"].values()
    moves = [row["reference"] + row["candidate"] - 2 * row["both"] for row in content["classes"]]  # from and to a class
    stated = {one.name: one.limit for one in verdict.judged}
    passing = None if found.levels is None else passing_bits(found.levels, stated)
    content |= {
        "title": title, "limits": limits, "exceeded": exceeded, "command": command, "rows": ROWS,
        "versions": ds.attrs.get("versions", ""), "verdict": verdict,
        "settling": verdict.reasons[-1] if verdict.word == "look" else None,
        "limit_rows": charts.limit_rows(verdict.judged),
        "curve": charts.curve(content["groups"], content["band_share"]), "named": named,
        "heat": heat and heat | {"names": [named(k) for k in heat["classes"]]},
        "layer_bars": charts.layer_bars(found.layers), "front": charts.front(found.levels, verdict.judged, passing),
        "measured": [name for name in content["splits"]["heldout"] if all(name in split for split in splits)],
        "moved": [k for k in sorted(range(len(moves)), key=lambda k: -moves[k]) if moves[k]][:ROWS],
        "pictures": {sample: base64.b64encode(png).decode() for sample, png in found.pictures.items()},
        "picture": _picture(ds) if "labels" in ds else None,
    }  # fmt: skip
    return rendered("report.html.jinja", content)


def _class_names(ds: xr.Dataset) -> Callable[[int], str]:
    """Return what writes a class by its name, or by its number where it has none; a class below 0 is not known."""
    names = ds.class_name.values.tolist() if "class_name" in ds else range(ds.sizes["class"])
    return lambda k: "–" if k < 0 else str(names[k])


def _with_surest(ds: xr.Dataset) -> tuple[xr.Dataset, int]:
    """Return *ds* with the flips to show first, the :data:`ROWS` lowest and those that the verdict names; how many."""
    flips = np.arange(ds.sizes["flip"])
    shown = np.union1d(flips[:ROWS], surest(ds))
    return ds.isel(flip=np.concatenate([shown, np.setdiff1d(flips, shown)])), len(shown)


def rendered(name: str, content: Mapping) -> str:
    """Return a template of this folder, filled in with *content*, of which all is escaped."""
    return _TEMPLATES.get_template(name).render(content)


def _picture(ds: xr.Dataset) -> dict:
    """Return the boundary cells of one model only, and of both, each with their count and their SVG path."""
    before, after = (boundary_mask(ds.labels.sel(model=name).values) for name in ("reference", "candidate"))
    masks = {"float": before & ~after, "quantized": after & ~before, "both": before & after}
    parts = {name: {"count": int(mask.sum()), "path": _cells(mask)} for name, mask in masks.items()}
    return {"height": before.shape[0], "width": before.shape[1]} | parts


def _cells(mask: np.ndarray) -> str:
    """Return the marked cells as one SVG path, a rectangle for each run of cells in a row; the first row is lowest."""
    out, height = [], len(mask)
    for row, cells in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
        out += [f"M{a} {height - 1 - row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2])]
    return "".join(out)
