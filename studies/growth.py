"""How the time of the library's functions grows with what they are given: measured, and the exponent fitted."""

import json
import time
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

import bqcore as bq
from bqcore._store import save_dataset
from bqcore._threads import one_thread

from . import measures, times
from .networks import mlp

COMMAND = "python -m studies growth"
ROUNDS = 5


class Case(NamedTuple):
    """A function with what it is given."""

    counts: str  # what the size counts
    sizes: tuple[int, ...]  # of which it is made, from small to large
    make: Callable[[int], tuple[int, Callable]]  # from one of them to the count and a call


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _pair(*sizes: int) -> tuple:
    """Return an untrained network, another with 4 bits, and a slice wide enough for most of its lines to cross."""
    model = mlp(sizes, 0)
    return model, bq.quantize_model(model, 4), bq.pca_plane(20 * _normal(200, sizes[0]))


def _quantize(side: int) -> tuple[int, Callable]:
    weight = _normal(side, side)
    return weight.numel(), lambda: bq.quantize(weight, 8)


def _radius(count: int) -> tuple[int, Callable]:
    model, inputs = mlp((64, 64, 10), 0), _normal(count, 64)
    return count, lambda: bq.radius(model, inputs)


def _displacement(count: int) -> tuple[int, Callable]:
    model, candidate, _ = _pair(64, 64, 10)
    inputs = _normal(count, 64)
    return count, lambda: bq.displacement(model, candidate, inputs)


def _label_grid(nodes: int) -> tuple[int, Callable]:
    model, _, plane = _pair(64, 64, 10)
    return nodes**2, lambda: bq.label_grid(model, plane, nodes)


def _boundary_jaccard(nodes: int) -> tuple[int, Callable]:
    model, candidate, plane = _pair(64, 64, 10)
    labels = [bq.label_grid(network, plane, nodes) for network in (model, candidate)]
    return nodes**2, lambda: bq.boundary_jaccard(*map(bq.boundary_mask, labels))


def _exact_slice(width: int) -> tuple[int, Callable]:
    model, _, plane = _pair(64, width, width, 10)
    return bq.exact_slice(model, plane).cells, lambda: bq.exact_slice(model, plane)


def _boundaries(count: int) -> tuple[np.ndarray, ...]:
    """Return two boundaries of *count* segments together, from left to right and up and down at random."""
    across = np.linspace(0, 1, count // 2 + 1)
    up = 0.01 * _normal(2, len(across)).double().numpy()
    lines = np.stack(np.broadcast_arrays(across, up), axis=2)
    return tuple(np.stack([line[:-1], line[1:]], axis=1) for line in lines)


def _distances(count: int) -> tuple[int, Callable]:
    pair = _boundaries(count)
    return count, lambda: bq.boundary_distances(*pair, step=1 / 500)


def _tolerance_jaccard(count: int) -> tuple[int, Callable]:
    pair = _boundaries(count)
    return count, lambda: bq.tolerance_jaccard(*pair, 1 / 500)


def _audit(count: int) -> tuple[int, Callable]:
    z, noise = _normal(2, count, 100).numpy()
    logits = {"reference": z, "candidate": z + 0.01 * noise}
    return count, lambda: bq.audit(*map(itemgetter, logits), None, logits, nodes=0, gradient_samples=0)


def _gptq(width: int) -> tuple[int, Callable]:
    model, inputs = torch.nn.Sequential(torch.nn.Linear(width, width)), _normal(256, width)
    return width**2, lambda: bq.gptq(model, inputs, 4)


def _optimize_rounding(width: int) -> tuple[int, Callable]:
    model, inputs = torch.nn.Sequential(torch.nn.Linear(width, width)), _normal(256, width)
    return width**2, lambda: bq.optimize_rounding(model, inputs, 4, seed=0, steps=20)


CASES = {
    "quantize": Case("weights", (512, 1024, 2048, 4096), _quantize),
    "gptq": Case("weights", (128, 256, 512, 1024), _gptq),
    "optimize_rounding": Case("weights", (128, 256, 512, 1024), _optimize_rounding),
    "radius": Case("inputs", (4000, 16_000, 64_000, 256_000), _radius),
    "displacement": Case("inputs", (4000, 16_000, 64_000, 256_000), _displacement),
    "label_grid": Case("nodes", (200, 400, 800, 1600), _label_grid),
    "boundary_jaccard": Case("nodes", (200, 400, 800, 1600), _boundary_jaccard),
    "exact_slice": Case("cells", (32, 64, 128, 256), _exact_slice),
    "boundary_distances": Case("segments", (500, 1000, 2000, 4000), _distances),
    "tolerance_jaccard": Case("segments", (500, 1000, 2000, 4000), _tolerance_jaccard),
    "audit": Case("samples", (40_000, 80_000, 160_000, 320_000), _audit),
}


def measure(cases: dict[str, Case] | None = None, *, rounds: int = ROUNDS, clock=time.process_time) -> xr.Dataset:
    """
    Measure every function at its sizes, on one thread, and fit seconds = c · given^exponent to them.

    ``seconds`` of the processor, by function and size, are the least of *rounds* calls after a first one: what else the
    machine does only adds to them. The exponent is that of least squares in logarithms.
    """
    cases = CASES if cases is None else cases
    given, seconds = np.zeros((2, len(cases), len(next(iter(cases.values())).sizes)))
    with one_thread():
        for i, case in enumerate(cases.values()):
            for j, size in enumerate(case.sizes):
                given[i, j], call = case.make(size)
                seconds[i, j] = min(_seconds(call, clock) for _ in range(rounds + 1))
    fitted = [np.polyfit(np.log(n), np.log(t), 1)[0] for n, t in zip(given, seconds)]
    out = xr.Dataset(
        {
            "given": (("function", "size"), given.astype(np.int64)), "seconds": (("function", "size"), seconds),
            "exponent": ("function", fitted), "counts": ("function", [case.counts for case in cases.values()]),
        },
        {"function": list(cases)},
    )  # fmt: skip
    measures.describe(out)
    out.attrs = {
        "title": "Boundary-aware quantization: how the time of the library's functions grows",
        "machine": times.machine(),
        "command": COMMAND,
        "spec": json.dumps({"study": "growth", "rounds": rounds, "threads": 1}),
    }
    return out


def _seconds(call: Callable, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def keep(found: xr.Dataset) -> None:
    """Keep what :func:`measure` found, to be published."""
    save_dataset(found, times.GROWTH)
