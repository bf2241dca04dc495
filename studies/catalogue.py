"""Every study by its name: what the command line runs, what is published, and what the chapters ask for."""

from importlib import import_module

import xarray as xr

from .specs import Spec
from .sweeps import Study

# A study is imported when it is asked for: all of them take half a second.
_MODULES = {
    "levels": "levels", "stopping": "stopping", "rounding": "rounding", "first-order": "first_order",
    "objectives": "objectives", "multiverse": "multiverse.sweep", "readings": "multiverse.cifar",
    "roundings": "multiverse.roundings", "vendors": "vendors",
}  # fmt: skip


def study_of(spec: Spec) -> Study:
    """Return the study that *spec* is of."""
    return import_module(f".{_MODULES[spec.study]}", __package__).STUDY


def measure(spec: Spec, **how) -> xr.Dataset:
    """Return the result of one run, measured now and not kept; see :meth:`studies.sweeps.Study.measured`."""
    return study_of(spec).measured(spec, **how)


def run(spec: Spec) -> xr.Dataset:
    """Return the result of one run, measured now or kept; see :meth:`studies.sweeps.Study.run`."""
    return study_of(spec).run(spec)


def sweep(spec: Spec, seeds: int | None = None, **how) -> xr.Dataset:
    """Return the joined results of many runs, measured now or kept; see :meth:`studies.sweeps.Study.sweep`."""
    return study_of(spec).sweep(spec, seeds, **how)
