"""Tables and words of the multiverse on CIFAR-10: where all claims of a data set hold at once, and what is nearest."""

import numpy as np
import xarray as xr
from IPython.display import Markdown

from ..formats import number
from ..multiverse import cifar_claims
from . import tables
from .multiverse import AXES, Judged
from .tables import Cell

TITLES = {"cifar-10": "CIFAR-10 subset", "full-cifar-10": "full CIFAR-10"}


def judge(many: dict[str, list[xr.Dataset]], claims: list[dict], rule: dict) -> dict[str, Judged]:
    """Judge the claims of each data set, from the result files that it has, in every specification."""
    return {
        name: {claim: one for part in parts for claim, one in cifar_claims.judge(part, claims, rule).items()}
        for name, parts in many.items()
    }


def effects(judged: Judged) -> dict[str, dict[str, float]]:
    """Return the fraction of the variance of each claim's means that each choice explains alone."""
    return {name: cifar_claims.main_effects(found) for name, found in judged.items()}


def region_table(judged: dict[str, Judged]) -> tables.Frame:
    """Tabulate where all numbers of each data set agree at once: its size beside that of chance."""
    lines = {}
    for dataset, found in judged.items():
        region = cifar_claims.region(found, dataset)
        cells, share, chance = int((region > 0).sum()), float(region.mean()), cifar_claims.by_chance(found, dataset)
        names = ", ".join(name for group in cifar_claims.GROUPS[dataset] for name in group)
        lines[f"{TITLES[dataset]}: {names}"] = {
            "agreeing cells": Cell(f"{cells:,} of {region.size:,}", {"": cells, "of": region.size}),
            "fraction of specifications": tables.number(share, ".2g"), "by chance": tables.number(chance, ".2g"),
        }  # fmt: skip
    return tables.frame(lines, "data set")


def nearest_table(judged: Judged, stated: dict, dataset: str) -> tables.Frame:
    """Tabulate the paper's numbers beside ours in the specification that is nearest to them, which they chose."""
    _, ours = cifar_claims.nearest(judged, stated, dataset)
    return tables.frame(
        {
            name: {
                "the paper": tables.number(stated[name], "g"), "nearest specification": tables.number(value, ".3g"),
                "spread of all": tables.number(float(judged[name].estimate.std()), ".2g"),
            }
            for name, value in ours.items()
        },
        "claim",
    )  # fmt: skip


def nearest_words(judged: Judged, stated: dict, dataset: str) -> Markdown:
    """Name the specification that is nearest to the paper's numbers, choice by choice."""
    where, _ = cifar_claims.nearest(judged, stated, dataset)
    parts = []
    for group, choices in where.items():
        named = ", ".join(f"{AXES.get(axis, axis)} *{_written(value)}*" for axis, value in choices.items())
        parts.append(f"{'All claims' if group == 'cell' else group}: {named}." if named else "")
    return Markdown(
        f"**Nearest to the paper on {TITLES[dataset]}**, and chosen by the paper's numbers, so that it tests nothing. "
        + " ".join(part for part in parts if part)
    )


def _written(value) -> str:
    return number(value, "g") if isinstance(value, (int, float, np.number)) else str(value)
