"""What the studies measure in less time than by the public functions is the same to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bqcore._store import load_dataset
from bqcore.metrics import boundary_distances, exact_slices, margins, masks, planes
from bqcore.quantizers import uniform
from studies import levels, measures, networks, specs, sweeps

SEEDS = st.integers(0, 999)


def network(seed: int, width: int = 5) -> torch.nn.Sequential:
    return networks.mlp((3, width, 4), seed)


def plane(seed: int) -> planes.Plane:
    return planes.pca_plane(torch.from_numpy(np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32)))


@given(SEEDS, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_models_between_two_are_those_that_are_made_one_by_one(seed, steps):
    first, second = network(seed), network(seed + 1)
    before = [p.clone() for p in first.parameters()]
    for step, model in zip(steps, uniform.interpolations(first, second, steps), strict=True):
        alone = uniform.interpolate(first, second, step)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), alone.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), before))


def test_a_step_outside_is_refused():
    with pytest.raises(ValueError, match="Interpolation parameter"):
        list(uniform.interpolations(network(0), network(1), [0.5, 1.5]))


@given(SEEDS)
def test_segments_alone_are_those_of_the_whole_slice(seed):
    model, box = network(seed), plane(seed)
    whole = exact_slices.exact_slice(model, box)
    assert np.array_equal(exact_slices.exact_segments(model, box), whole.segments)
    logits = exact_slices.logits_on(model, box, 6)
    between = exact_slices.interpolate(logits, box).segments
    assert np.array_equal(exact_slices.interpolated_segments(logits, box), between)
    tolerances = [0.0, 0.1, 0.3, 2.0]
    together = boundary_distances.tolerance_jaccard(whole.segments, between, tolerances)
    alone = [boundary_distances.tolerance_jaccard(whole.segments, between, one) for one in tolerances]
    assert np.array_equal(together, alone)


@given(st.integers(2, 5), SEEDS)
def test_junctions_along_a_path_are_those_of_its_grids(steps, seed):
    path = np.random.default_rng(seed).integers(0, 4, (steps, 5, 6))
    found, junctions = masks.transition_with_junctions(path)
    assert np.array_equal(found.junctions, masks.transition(path).junctions)
    assert np.array_equal(junctions, [masks.junction_cells(grid) for grid in path])


@given(SEEDS)
def test_geometry_is_that_of_each_level_by_itself(seed):
    levels = {bits: network(seed + bits, 32) for bits in (32, 4, 3)}  # wide: somewhere a few units are all off
    inputs = torch.from_numpy(np.random.default_rng(seed).normal(size=(7, 3)).astype(np.float32))
    found = measures.of_geometry(levels, inputs)
    for bits, model in levels.items():
        change = margins.local_change(levels[32].double(), model.double(), inputs.double())
        assert np.array_equal(
            found.displacement.sel(bits=bits), np.nanquantile(np.abs(change.displacement), [0.5, 0.95])
        )
        assert np.array_equal(
            found.normal_variation.sel(bits=bits), np.nanquantile(change.normal_variation, [0.5, 0.95])
        )


@pytest.mark.slow
def test_jobs_are_told_what_made_them_and_do_not_find_out_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = specs.Levels(epochs=1, width=8, nodes=(11, 6), bits=(8, 4))
    usual = levels.STUDY.sweep(spec, 1, workers=1, progress=False)
    monkeypatch.setattr(sweeps.Study, "provenance", lambda study: {"code": "known"})
    found = levels.STUDY.measured(spec, made_by={"code": "told"})
    assert found.attrs["code"] == '"told"' and usual.attrs["code"] != found.attrs["code"]
    levels.STUDY.sweep(spec, 1, workers=1, progress=False)
    assert load_dataset(levels.STUDY.file(spec)).attrs["code"] == '"known"'
    assert load_dataset(levels.STUDY.joined_file(spec, 1)).attrs["code"] == '"known"'
