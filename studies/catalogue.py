"""Every study by its name: what the command line runs, what is published, and what the chapters ask for."""

import xarray as xr

from . import first_order, levels, objectives, rounding, stopping, vendors
from .multiverse import cifar, roundings
from .multiverse import sweep as multiverse
from .specs import Spec
from .sweeps import Study

STUDIES = {
    "levels": levels.STUDY, "stopping": stopping.STUDY, "rounding": rounding.STUDY, "first-order": first_order.STUDY,
    "objectives": objectives.STUDY, "multiverse": multiverse.STUDY, "readings": cifar.STUDY,
    "roundings": roundings.STUDY, "vendors": vendors.STUDY,
}  # fmt: skip


def study_of(spec: Spec) -> Study:
    """Return the study that *spec* is of."""
    return STUDIES[spec.study]


def measure(spec: Spec, **how) -> xr.Dataset:
    """Return the result of one run, measured now and not kept; see :meth:`studies.sweeps.Study.measured`."""
    return study_of(spec).measured(spec, **how)


def run(spec: Spec) -> xr.Dataset:
    """Return the result of one run, measured now or kept; see :meth:`studies.sweeps.Study.run`."""
    return study_of(spec).run(spec)


def sweep(spec: Spec, seeds: int | None = None, **how) -> xr.Dataset:
    """Return the joined results of many runs, measured now or kept; see :meth:`studies.sweeps.Study.sweep`."""
    return study_of(spec).sweep(spec, seeds, **how)
