"""Which layer is to blame: each quantized alone, ranked by what that does to the decisions."""

import numpy as np
import xarray as xr

from ..quantizers.mixed_precision import layers, mixed
from .comparison import describe
from .geometry import gradient_measures
from .streaming import Decided, decide_split, logits_functions, measures


def blame_layers(
    model, split, *, bits: int = 4, scheme: str = "narrow", granularity: str = "tensor", share: float = 0.2,
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


def one_at_a_time(
    model, split, levels, *, scheme: str = "narrow", granularity: str = "tensor",
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
