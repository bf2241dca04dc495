"""Decision boundaries of quantized classifiers: quantizers, boundary measures, and the audit of any two classifiers."""

from importlib import import_module

_HOME = {
    "quantize": "quantizers.uniform",
    "quantize_model": "quantizers.uniform",
    "step_size": "quantizers.uniform",
    "level_range": "quantizers.uniform",
    "interpolate": "quantizers.uniform",
    "model_bytes": "quantizers.uniform",
    "layers": "quantizers.uniform",
    "fold_batchnorm": "quantizers.batchnorm",
    "optimize_rounding": "quantizers.adaround",
    "gptq": "quantizers.gptq",
    "decide": "metrics.decisions",
    "margin": "metrics.decisions",
    "top_pair": "metrics.decisions",
    "flips": "metrics.decisions",
    "boundary_band": "metrics.decisions",
    "band_flip_rate": "metrics.decisions",
    "pair_order_flip_rate": "metrics.decisions",
    "radius": "metrics.margins",
    "displacement": "metrics.margins",
    "signed_distance_change": "metrics.margins",
    "normal_variation": "metrics.margins",
    "Plane": "metrics.planes",
    "pca_plane": "metrics.planes",
    "label_grid": "metrics.label_grids",
    "boundary_mask": "metrics.masks",
    "boundary_jaccard": "metrics.masks",
    "junction_cells": "metrics.masks",
    "transition": "metrics.masks",
    "effective_displacement": "metrics.masks",
    "exact_slice": "metrics.exact_slices",
    "boundary_distances": "metrics.boundary_distances",
    "tolerance_jaccard": "metrics.boundary_distances",
    "match_junctions": "metrics.boundary_distances",
    "expected_jaccard": "metrics.finite_scale",
    "audit": "auditing.comparison",
    "sweep": "auditing.bit_sweep",
    "blame_layers": "auditing.sensitivity",
    "plan_bits": "auditing.bit_plan",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    # Imported when first asked for: torch and xarray take seconds, which no one waits for who does not need them.
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
