"""
Optimized rounding from little to much optimization: how weak must it be to leave what the paper reports, and does the
gap term help it then?

Crossed are the steps, the calibration inputs that it learns from, and whether it reconstructs the layers, with one step
a tensor or a channel, or from there on the logits, without the gap term and with it at each weight η. The largest
numbers of steps and of inputs are tried by layers with one step a tensor alone, for time. All of it is measured by
every reading of :mod:`studies.multiverse.cifar`, and was fixed before any run. Batch norms are folded first, as in the
rounding study.
"""

import json
from itertools import product
from typing import NamedTuple

import xarray as xr
from torch import nn

from bqcore.quantizers import adaround, uniform

from .. import rounding, sweeps
from ..specs import Roundings
from ..sweeps import Study
from . import cifar

LAYERS = "layers", "layers, a channel"


class Job(NamedTuple):
    """One network, and how it is rounded."""

    network: cifar.Network
    spec: Roundings

    @property
    def units(self) -> str:
        """Return the units of the inputs."""
        return self.network.units

    def text(self) -> str:
        """Return all that the result depends on, as JSON."""
        return json.dumps([self.network.text(), self.spec.shared()])

    def stem(self) -> str:
        """Return the name of the file of what is measured on it, without its suffix."""
        return self.network.stem()

    def attrs(self) -> dict:
        """Return the attributes of its result that name what it is."""
        return {"spec": self.text()}


def jobs(spec: Roundings, seeds: int) -> list[Job]:
    """Return the networks of *spec*, *seeds* of each kind, seed by seed."""
    return [Job(network, spec) for network in cifar.jobs(spec, seeds)]


def methods(spec: Roundings) -> list[str]:
    """Return the names of all roundings: by layers, and on the logits at each weight of the gap term."""
    return [*LAYERS, *map(rounding.method_at, spec.gaps)]


def measure(job: Job) -> xr.Dataset:
    """Round one network in every way, along ``bits``, ``method``, ``optimization_steps`` and ``examples``."""
    spec, run = job.spec, job.network.trained_by()
    split = sweeps.split_of(run)
    reference = rounding.reference_of(sweeps.classifier(run, progress=""))
    read = cifar.reader(reference, split, spec.nodes)
    rows = {}
    for bits, steps, examples in product(spec.bits, spec.steps, spec.examples):
        inputs = split.calibration_inputs[:examples]
        for method, model in _rounded(spec, reference, inputs, bits, steps, job.network.seed):
            rows[bits, method, steps, examples] = read(model)
    axes = {"bits": spec.bits, "method": methods(spec), "optimization_steps": spec.steps, "examples": spec.examples}
    out = cifar.stacked([rows.get(choice) for choice in product(*axes.values())], axes)
    nearest = cifar.stacked(
        [
            read(uniform.quantize_model(reference, bits, granularity=granularity))
            for bits, granularity in product(spec.bits, uniform.GRANULARITIES)
        ],
        {"bits": spec.bits, "granularity": uniform.GRANULARITIES},
    )
    return out.merge(nearest.rename({name: f"nearest_{name}" for name in nearest.data_vars}))


def _rounded(spec: Roundings, reference: nn.Module, inputs, bits: int, steps: int, seed: int):
    """Round *reference* in each way that these inputs and steps are used for: name and model."""
    how = {"seed": seed, "steps": steps}
    start, _ = adaround.optimize_rounding(reference, inputs, bits, **how)
    yield "layers", start
    if any(one == max(values) > min(values) for one, values in ((steps, spec.steps), (len(inputs), spec.examples))):
        return
    yield "layers, a channel", adaround.optimize_rounding(reference, inputs, bits, granularity="channel", **how)[0]
    for eta in spec.gaps:
        model, _ = adaround.optimize_rounding(reference, inputs, bits, on="logits", start=start, gap=eta, **how)
        yield rounding.method_at(eta), model


def join(found: dict[Job, xr.Dataset], spec: Roundings) -> xr.Dataset:
    """Join what was measured along ``seed`` and ``trained``, as :func:`studies.multiverse.cifar.join` does."""
    return cifar.join({job.network: one for job, one in found.items()}, spec)


STUDY = Study(measure, join, jobs=jobs)
