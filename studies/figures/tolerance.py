"""Tables and words of boundaries' distances with and without a grid, in the chapters on stopping and on rounding."""

from collections.abc import Callable

import xarray as xr
from IPython.display import Markdown

from ..formats import number, percent
from ..specs import FLOAT
from . import tables

_SAYS = (
    "held-out slice, means over {} seeds: Jaccard distance of the masks and d_eff on two grids, and *beyond τ*, the "
    "tolerance Jaccard distance: the fraction of the two boundaries' length without a counterpart within τ input units."
)


def without_ruler(sets: dict[str, xr.Dataset], name: str, method_name: Callable[[str], str] = str) -> Markdown:
    """
    Show for each of some joined runs its boundaries' distances with and without a grid, and return the lines below.

    Tables' names begin with *name*. Of the rounding study, there is a table for each bit-width; *method_name* names
    roundings.
    """
    of = []
    sets = {title[:1].upper() + title[1:]: many for title, many in sets.items()}
    for i, (title, many) in enumerate(sets.items()):
        parts = {("", ""): many}
        if "method" in many.dims:
            parts = {(f"{bits} bits, ", f"-{bits}"): many.sel(bits=bits) for bits in many.bits.values}
        for (where, ending), part in parts.items():
            caption = f"{title}, {where}{_SAYS.format(many.sizes['seed'])}"
            of.append((tolerance_table(part, method_name=method_name), caption, f"{name}-{i}{ending}"))
    tables.show_tables(of)
    return Markdown("\n".join(f"- {title}: {tolerance_summary(many)}" for title, many in sets.items()))


def tolerance_table(many: xr.Dataset, *, method_name: Callable[[str], str] = str) -> tables.Frame:
    """
    Tabulate J and d_eff on two grids beside the tolerance Jaccard distance, which has none: means over seeds.

    A row is a level, or a rounding at the one bit-width that is left. Of the tolerances, the one of
    :func:`studies.figures.tables.beyond_column` is shown.
    """
    here = _quantized(many.sel(split="held-out"))
    two = sorted({int(here.nodes.min()), int(here.nodes.max())}, reverse=True)
    beyond, tau = tables.beyond_column(many.tolerance_jaccard)
    columns = {f"J, {n} nodes": (here.boundary_jaccard.sel(nodes=n), ".3f") for n in two}
    columns |= {f"d_eff, {n} nodes": (here.effective_displacement.sel(nodes=n), ".4f") for n in two}
    columns[beyond] = here.tolerance_jaccard.sel(tau=tau), ".3f"
    if "method" in here.dims:
        return tables.along("method", columns, tables.mean, index="rounding", name=method_name)
    return tables.along("bits", columns, tables.mean)


def tolerance_summary(many: xr.Dataset) -> str:
    """Say in Markdown how far each distance depends on the grid, over all seeds, levels, tolerances and both splits."""
    many = _quantized(many)
    coarse, fine = int(many.nodes.min()), int(many.nodes.max())
    two = many.sel(nodes=[coarse, fine])
    relative = two.effective_displacement / two.effective_displacement.max("nodes")
    jaccard, d_eff = (abs(values.diff("nodes")).max() for values in (two.boundary_jaccard, relative))
    off = abs(many.tolerance_jaccard - many.coarse_tolerance_jaccard)
    source = "exact boundaries" if many.exact_boundaries.all() else "logits interpolated between 41 nodes a side"
    return (
        f"From {coarse} to {fine} nodes a side, J changes by up to {number(jaccard, '.2f')} and d_eff by up to "
        f"{percent(d_eff)} of the larger. From {source} to 21 nodes a side, the tolerance Jaccard distance changes "
        f"by at most {number(off.quantile(0.95), '.3f')} in 95 of 100 comparisons, and by "
        f"{number(off.max(), '.3f')} in the worst."
    )


def _quantized(many: xr.Dataset) -> xr.Dataset:
    """Leave out the float classifier, which differs from itself in nothing."""
    dim, floating = ("method", "float") if "method" in many.dims else ("bits", FLOAT)
    return many.sel({dim: many[dim] != floating})
