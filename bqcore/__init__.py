"""
Measure how quantization moves a classifier's decision boundary.

Quantize the weights of a torch module:
    quantize, quantize_model, step_size, level_range, interpolate, model_bytes, fold_batchnorm, optimize_rounding, gptq
Compare decisions, from the logits of two classifiers:
    decide, margin, top_pair, flips, boundary_band, band_flip_rate, pair_order_flip_rate
Measure the boundary around each input, by gradients of a torch module:
    radius, displacement, signed_distance_change, normal_variation
Compare boundaries on a slice, a plane through input space, by a grid of labels:
    Plane, pca_plane, label_grid, boundary_mask, boundary_jaccard, junction_cells, transition, effective_displacement
Compare boundaries without a grid:
    exact_slice, boundary_distances, tolerance_jaccard, match_junctions, expected_jaccard
Audit classifiers of your own, of any kind:
    audit, sweep, blame_layers, plan_bits

What works on arrays needs no torch; what does needs the extra, pip install 'bqcore[torch]'.
"""

from importlib import import_module

_HOME = {
    "quantizers.uniform": "quantize quantize_model step_size level_range interpolate model_bytes",
    "quantizers.batchnorm": "fold_batchnorm",
    "quantizers.adaround": "optimize_rounding",
    "quantizers.gptq": "gptq",
    "metrics.decisions": "decide margin top_pair flips boundary_band band_flip_rate pair_order_flip_rate",
    "metrics.margins": "radius displacement signed_distance_change normal_variation",
    "metrics.planes": "Plane pca_plane",
    "metrics.label_grids": "label_grid",
    "metrics.masks": "boundary_mask boundary_jaccard junction_cells transition effective_displacement",
    "metrics.exact_slices": "exact_slice",
    "metrics.boundary_distances": "boundary_distances tolerance_jaccard match_junctions",
    "metrics.finite_scale": "expected_jaccard",
    "auditing.comparison": "audit",
    "auditing.bit_sweep": "sweep",
    "auditing.sensitivity": "blame_layers",
    "auditing.bit_plan": "plan_bits",
}
_MODULES = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = list(_MODULES)


def __getattr__(name: str):
    # Imported when first asked for: torch and xarray take seconds, which no one waits for who does not need them.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _without_torch(name)


def _without_torch(name: str):
    """Return a function in place of one that needs torch, so that help and tab completion work where it is missing."""
    from ._checks import needed

    def function(*given, **options):
        needed("torch", f"bqcore.{name}")

    function.__name__ = function.__qualname__ = name
    function.__doc__ = "Needs torch: pip install 'bqcore[torch]'."
    return function


def __dir__() -> list[str]:
    # What tab completion shows: what the library is for, not what it is made of.
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
