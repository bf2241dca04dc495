"""From calibration to held-out inputs: the gap weight that calibration picks, and how well its measures predict."""

import numpy as np
import xarray as xr

from bqcore.metrics import statistics

from . import rounding
from .specs import FLOAT

# Calibration measures that could stand in for held-out flips, and the names that tables give them.
PREDICTORS = {
    "flip_rate": "flips", "band_flip_rate": "band flips", "boundary_jaccard": "J", "effective_displacement": "d_eff",
}  # fmt: skip

VARIANTS = ("nearest", "layers", "logits", "gap")  # of rounding


def chosen_gap(many: xr.Dataset, bits: int) -> str:
    """
    Name the method "gap η" that calibration data pick: of the lowest mean calibration Jaccard, on ties the smaller η.
    """
    names = list(rounding.gap_methods(many))
    if not names:
        raise ValueError("These runs have no boundary-gap term: give gaps above 0.")
    jaccard = many.boundary_jaccard.isel(nodes=0).sel({"bits": bits, "split": "calibration", "method": names})
    return names[int(jaccard.mean("seed").argmin("method"))]


def at_method(many: xr.Dataset, method: str) -> xr.Dataset:
    """Return the runs of one method; "gap" is the η that calibration data pick, at each bit-width its own."""
    if method != "gap":
        return many.sel({"method": method})
    chosen = [many.sel({"bits": bits, "method": chosen_gap(many, bits)}) for bits in many.bits.values]
    return xr.concat([one.drop_vars("method") for one in chosen], "bits", coords="minimal", compat="override")


def series(many: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return what a correlation is taken over, by variant: the levels of PTQ-W, or each rounding at its bit-widths."""
    if "method" not in many.dims:
        return {"PTQ-W": many.drop_sel(bits=FLOAT)}
    return {name: at_method(many, name) for name in VARIANTS}


def correlations(
    many: xr.Dataset,
    predictor: str = "boundary_jaccard",
    predicted: str = "boundary_jaccard",
    *,
    level: float = 0.95,
) -> dict:
    """
    Correlate a calibration measure with a held-out one over seeds and bit-widths, for each variant.

    A variant has r with Fisher's interval, r with the interval over seeds, and r within bit-widths; at least 3 seeds.
    The intervals hold the truth with probability *level*.
    Measures that depend on the grid are taken on the first.
    """
    out = {}
    for name, runs in series(many).items():
        first, second = (_values(runs, *what) for what in ((predictor, "calibration"), (predicted, "held-out")))
        out[name] = (
            statistics.correlation(first, second, level=level), statistics.seed_correlation(first, second, level=level),
            statistics.within_level_correlation(first, second, level=level),
        )  # fmt: skip
    return out


def rank_predictors(many: xr.Dataset, predicted: str = "flip_rate") -> dict[str, tuple]:
    """
    Return :func:`correlations` of PTQ-W for each of :data:`PREDICTORS` with a held-out measure, the best first.

    Two more intervals follow: by how much each correlates better than J does, over all bit-widths and within them.
    """
    runs = series(many)["PTQ-W"]
    jaccard, held_out = _values(runs, "boundary_jaccard", "calibration"), _values(runs, predicted, "held-out")
    found = {}
    for name in PREDICTORS:
        ours = _values(runs, name, "calibration")
        gains = [statistics.correlation_gain(ours, jaccard, held_out, within=within) for within in (False, True)]
        found[name] = (*correlations(many, name, predicted)["PTQ-W"], *gains)
    return dict(sorted(found.items(), key=lambda item: -item[1][1].estimate))


def _values(runs: xr.Dataset, measure: str, split: str) -> np.ndarray:
    values = runs[measure].sel(split=split)
    values = values.isel(nodes=0) if "nodes" in values.dims else values
    return values.transpose("seed", "bits").values
