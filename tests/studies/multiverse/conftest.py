"""What the tests of the multiverse share: one of tiny networks, the published ones, the claims."""

import numpy as np
import pytest
import xarray as xr

from studies import ledger, published
from studies.multiverse import sweep
from tests.helpers import ROOT


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> xr.Dataset:
    """Two networks of each kind, tiny ones."""
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("tiny"))
    settings = sweep.Multiverse(width=(6,), epochs=(1,), nodes=21, seeds=1)
    first = sweep.sweep(settings, workers=1, progress=False)
    patch.undo()
    first["displacement"] = first.displacement.fillna(0.1)  # networks this small have no boundary on some slice
    second = first.assign_coords(seed=[1])
    for name in ("boundary_jaccard", "displacement", "stopping_jaccard"):
        second[name] = second[name] * np.float32(1.001)
    return xr.concat([first, second], "seed", data_vars="minimal", combine_attrs="override")


@pytest.fixture(scope="session")
def published_sets() -> dict[str, xr.Dataset]:
    folder = ROOT / published.PUBLISHED
    return {dataset: published.load_published(name, folder) for dataset, name in published.MULTIVERSES.items()}


@pytest.fixture(scope="session")
def stated() -> tuple[dict, list[dict]]:
    return ledger.load_claims(ROOT / ledger.CLAIMS)
