"""The sensitivity of decisions to each layer: quantized alone, the layers are ranked by what that changes."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from ..quantizers.mixed_precision import mixed
from ..quantizers.uniform import weight_bytes
from ..quantizers.weights import in_float, weights
from .comparison import describe
from .geometry import gradient_measures
from .resuming import Resumed
from .streaming import TITLES, Decided, decide_split, logits_functions, measures


def blame_layers(
    model, split, *, bits: int = 4, scheme: str = "narrow", granularity: str = "tensor", fraction: float = 0.2,
    gradient_samples: int = 50, batch_size: int | None = None, skip: str | Iterable[str] = (), progress: str = "",
) -> xr.Dataset:  # fmt: skip
    """
    Quantize one layer at a time and rank the layers by how many decisions that changes.

    What comes before a layer is computed once for each batch and kept (:mod:`bqcore.auditing.resuming`), which changes
    no bit of the numbers. Without a *batch_size*, batches are small enough that half a gigabyte holds what is kept.

    Parameters
    ----------
    model : torch module in eval mode
    split : inputs, (inputs, classes) or batches, as for :func:`bqcore.audit`
    bits : int, bit-width of the one layer, 2 to 16
    gradient_samples : int, as for :func:`bqcore.audit`; in float64, each costs as much as 40 others
    scheme, granularity, fraction, batch_size, skip, progress
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
    functions, decided, head = _decide(model, candidates, split, "heldout", batch_size, progress)
    band = next(iter(decided.values())).band(fraction)  # of the reference's margins, which they share
    rows, known = [], {}
    for key, part in decided.items():
        row = xr.Dataset(measures(part, band))
        pair = {"reference": model, "candidate": candidates[key]}
        both = {"reference": functions["reference"], "candidate": functions[key]}
        local = gradient_measures(pair, both, head, gradient_samples, part.classes, radii=False, known=known)
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
    skip: str | Iterable[str] = (), progress: str = "",
) -> dict[tuple[str, int], Decided]:  # fmt: skip
    """Return the decisions on *split* with each layer alone quantized to each bit-width, by (layer name, bits)."""
    options = {"scheme": scheme, "granularity": granularity}
    keys = [(name, b) for name in weights(model, skip) for b in bits]
    candidates = {f"candidate {key}": mixed(model, dict([key]), **options) for key in keys}
    _, decided, _ = _decide(model, candidates, split, "calibration", batch_size, progress)
    return dict(zip(keys, decided.values()))


def _decide(model, candidates: Mapping, split, name: str, batch_size: int | None, progress: str) -> tuple:
    """Return the functions of a model and its candidates, what they decide on a split, and its first inputs."""
    functions = logits_functions(model, candidates, False)
    resumed = Resumed(model, functions, candidates)
    size = resumed.batch_size(split, TITLES[name]) if batch_size is None else batch_size
    decided, head, _ = decide_split(resumed.functions(), split, name, batch_size=size, alike=True, progress=progress)
    return functions, decided, head


def margin_noise(part: Decided, fraction: float) -> float:
    """Return the mean square by which the margins of the boundary band move, in squared logits."""
    band = part.band(fraction)
    return float(np.square(part.moved[band] - part.margin[band]).mean())
