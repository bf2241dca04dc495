"""How the time of the library's functions grows with what they are given."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from . import style
from .source_data import attach


@style.styled
def growth(found: xr.Dataset) -> Figure:
    """Draw seconds against what each function is given, both in logarithms, with the fitted line and its exponent."""
    names = found.function.values.tolist()
    figure, panels = style.panels(len(names), 3, (1.6, 1.3))
    for i, (name, axes) in enumerate(zip(names, panels)):
        row = found.sel(function=name)
        given, seconds, power = row.given.values, row.seconds.values, row.exponent.item()
        middle = np.exp(np.log(given).mean()), np.exp(np.log(seconds).mean())
        axes.loglog(given, middle[1] * (given / middle[0]) ** power, color=style.GREY, lw=1)
        axes.loglog(given, seconds, "o", color=style.FLOAT_COLOUR, ms=4)
        axes.text(0.04, 0.96, f"{power:.1f}", transform=axes.transAxes, va="top", fontsize=9)
        axes.set_title(name, fontsize=7.5, pad=3)
        axes.set_xlabel(row.counts.item(), fontsize=7.5, labelpad=1)
        axes.set_ylabel("" if i % 3 else "seconds", fontsize=7.5, labelpad=1)
        axes.tick_params(labelsize=7)
        for axis in (axes.xaxis, axes.yaxis):  # only powers of ten
            axis.set_minor_formatter(NullFormatter())
        axes.margins(0.08)
    return attach(figure, found)


def in_words(found: xr.Dataset) -> str:
    """Return what the figure shows in words, for whoever does not see it."""
    pairs = zip(found.function.values.tolist(), found.counts.values.tolist(), found.exponent.values.tolist())
    return "; ".join(f"{name} grows with {counts} to the power of {power:.1f}" for name, counts, power in pairs)
