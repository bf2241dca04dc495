"""The sensitivity of decisions to each layer: quantized alone, the layers are ranked by what that changes."""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from ..quantizers.mixed_precision import mixed
from ..quantizers.uniform import weight_bytes
from ..quantizers.weights import in_float, weights
from .comparison import describe
from .geometry import gradient_measures
from .streaming import Decided, decide_split, logits_functions, measures


def blame_layers(
    model, split, *, bits: int = 4, scheme: str = "narrow", granularity: str = "tensor", fraction: float = 0.2,
    gradient_samples: int = 1000, batch_size: int | None = None, skip: str | Iterable[str] = (),
) -> xr.Dataset:  # fmt: skip
    """
    Quantize one layer at a time and rank the layers by how many decisions that changes.

    Parameters
    ----------
    model : torch module in eval mode
    split : inputs, (inputs, classes) or batches, as for :func:`bqcore.audit`
    bits : int, bit-width of the one layer, 2 to 16
    scheme, granularity, fraction, gradient_samples, batch_size, skip
        As in :func:`bqcore.sweep` and :func:`bqcore.audit`.

    Returns
    -------
    xarray.Dataset
        Along ``layer``, the worst first: by band flips, then by the median change of the margin of the float top-2
        pair. The rates with their intervals, ``margin_change``, ``displacement``, ``signed_distance_change`` and
        ``normal_variation`` (median and 95th percentile, if the inputs are one array of floating-point numbers),
        ``weights`` and ``bytes``, packed with their steps. The attributes ``float_weights`` and ``float_layers`` say
        which fraction of the weights no row is about, and where they are.

    Raises
    ------
    ValueError
        As :func:`bqcore.audit`, or if the model is no torch module or has no layer that can be quantized.

    Examples
    --------
    >>> import bqcore, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)).eval()
    >>> weights = {"0.weight": torch.eye(2), "1.weight": torch.tensor([[1.0, 0.1], [0.2, 1.0]])}  # the first is exact
    >>> _ = model.load_state_dict(weights)
    >>> x = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 0.3])
    >>> bqcore.blame_layers(model, x, bits=2).layer.values.tolist()
    ['1', '0']
    """
    found = weights(model, skip)
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {f"candidate with layer {name!r}": mixed(model, {name: bits}, **options) for name in found}
    functions = logits_functions(model, candidates, False)
    decided, head, _ = decide_split(functions, split, "heldout", batch_size=batch_size)
    rows = []
    for key, part in decided.items():
        row = xr.Dataset(measures(part, fraction))
        pair = {"reference": model, "candidate": candidates[key]}
        both = {"reference": functions["reference"], "candidate": functions[key]}
        local = gradient_measures(pair, both, head, gradient_samples, part.classes, radii=False)
        rows.append(row.merge(local) if isinstance(local, xr.Dataset) else row)
    out = xr.concat(rows, xr.Variable("layer", list(found)))
    tensors = [weight.by_channel() for weight in found.values()]
    out["weights"] = "layer", [tensor.numel() for tensor in tensors]
    out["bytes"] = "layer", [weight_bytes(tensor, bits, granularity=granularity) for tensor in tensors]
    order = np.lexsort((-out.margin_change.sel(quantile=0.5).values, -out.band_flip_rate.values))
    says = {"title": "One layer quantized at a time", "bits": bits, "share": fraction}
    return describe(out.isel(layer=order), says | in_float(model, found.values()).attributes())


def ranking(found: xr.Dataset) -> list[dict]:
    """Return the layers of :func:`blame_layers`, the worst first, each with its numbers but not their intervals."""
    names = [name for name in found.data_vars if not name.endswith(("_events", "_low", "_high"))]
    names = [name for name in names if "layer" in found[name].dims and np.isfinite(found[name]).all()]
    each = [found[names].isel(layer=i) for i in range(found.sizes["layer"])]
    return [{"layer": one.layer.item()} | {name: one[name].values.tolist() for name in names} for one in each]


def one_at_a_time(
    model, split, bits, *, scheme: str = "narrow", granularity: str = "tensor", batch_size: int | None = None,
    skip: str | Iterable[str] = (),
) -> dict[tuple[str, int], Decided]:  # fmt: skip
    """Return the decisions on *split* with each layer alone quantized to each bit-width, by (layer name, bits)."""
    options = {"scheme": scheme, "granularity": granularity}
    candidates = {(name, b): mixed(model, {name: b}, **options) for name in weights(model, skip) for b in bits}
    functions = logits_functions(model, {f"candidate {key}": one for key, one in candidates.items()}, False)
    decided, _, _ = decide_split(functions, split, "calibration", batch_size=batch_size)
    return dict(zip(candidates, decided.values()))


def margin_noise(part: Decided, fraction: float) -> float:
    """Return the mean square by which the margins of the boundary band move, in squared logits."""
    band = part.band(fraction)
    return float(np.square(part.moved[band] - part.margin[band]).mean())
