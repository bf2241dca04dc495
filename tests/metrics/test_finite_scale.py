"""The finite-scale law: grids of moved lines and of a trained network as oracles, both ways, every refusal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore.metrics.boundary_distances import shifts
from bqcore.metrics.exact_slices import exact_slice
from bqcore.metrics.finite_scale import (
    expected_jaccard,
    implied_displacement,
    implied_step,
    isotropic_jaccard,
    mask_width,
)
from bqcore.metrics.label_grids import label_grid
from bqcore.metrics.masks import boundary_mask, effective_displacement
from bqcore.metrics.planes import pca_plane
from bqcore.quantizers.uniform import quantize_model

STEPS = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10))


@settings(max_examples=25)
@given(st.floats(0, np.pi), st.floats(0, 2.5), st.floats(0.4, 2.5), st.integers(0, 2**32 - 1))
def test_moved_lines_on_grids_have_the_expected_distance(angle, shift, h_b, seed):
    """
    Monte Carlo: the law counts cells, so cells are counted, of 200 lines at stratified random offsets within a disc.

    Within 0.02: a line marks some 150 cells, of which its ends and its offset decide 2 or 3.
    """
    steps, n = (1.0, h_b), 121
    a, b = (np.arange(n) - (n - 1) / 2) * steps[0], (np.arange(n)[:, None] - (n - 1) / 2) * steps[1]
    along = np.cos(angle) * a + np.sin(angle) * b
    disc = np.hypot(a, b)[:-1, :-1] < 0.45 * n * min(steps)
    both = either = one_mask = 0
    for offset in (np.arange(200) + np.random.default_rng(seed).random(200)) / 20 - 5:
        one, two = (disc & boundary_mask((along > at).astype(int)) for at in (offset, offset + shift))
        both, either, one_mask = both + (one & two).sum(), either + (one | two).sum(), one_mask + one.sum()
    assert 1 - both / either == pytest.approx(expected_jaccard([shift], [angle], steps), abs=0.02)
    length = 200 * 2 * 0.45 * n * min(steps)
    assert one_mask * steps[0] * steps[1] / length == pytest.approx(mask_width(angle, steps), rel=0.02)


@given(STEPS, st.floats(0, 20))
def test_all_directions_together_have_the_closed_form(steps, shift):
    angles = (np.arange(20000) + 0.5) * np.pi / 20000
    average = expected_jaccard(np.full(20000, shift), angles, steps)
    assert isotropic_jaccard(shift, steps) == pytest.approx(average, abs=1e-6)
    if shift <= min(steps):
        width = 2 * sum(steps) / np.pi
        assert isotropic_jaccard(shift, steps) == pytest.approx(2 * shift / (width + shift), abs=1e-12)
    if shift >= np.hypot(*steps):
        assert isotropic_jaccard(shift, steps) == 1


@given(STEPS, st.floats(0, 1), st.floats(0, 1))
def test_the_way_back(steps, distance, share):
    shift = implied_displacement(distance, steps)
    assert isotropic_jaccard(shift, steps) == pytest.approx(distance, abs=1e-9)
    straight = effective_displacement(distance, steps)
    assert shift == pytest.approx(straight, rel=1e-12) if straight <= min(steps) else shift >= straight * (1 - 1e-12)
    assert implied_displacement(1.0, steps) == pytest.approx(np.hypot(*steps), rel=1e-6)
    given_shift = share * min(steps)
    assert implied_displacement(isotropic_jaccard(given_shift, steps), steps) == pytest.approx(
        given_shift, rel=1e-9, abs=1e-12
    )


@given(
    STEPS,
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 7), st.floats(0.1, 2)), min_size=1, max_size=9),
    st.floats(0.1, 10),
)
def test_only_ratios_to_the_step_count_and_more_shift_means_more_distance(steps, pieces, unit):
    d, angles, weights = np.array(pieces).T
    j = expected_jaccard(d, angles, steps, weights=weights)
    assert 0 <= j <= 1
    assert expected_jaccard(unit * d, angles, tuple(unit * h for h in steps), weights=9 * weights) == pytest.approx(
        j, abs=1e-12
    )
    assert expected_jaccard(-d, -angles, steps, weights=weights) == pytest.approx(j, abs=1e-12)
    assert expected_jaccard(1.5 * d, angles, steps, weights=weights) >= j - 1e-12
    assert (
        expected_jaccard(np.append(d, np.inf), np.append(angles, 0), steps, weights=np.append(weights, 1)) >= j - 1e-12
    )
    assert expected_jaccard(0 * d, angles, steps) == pytest.approx(0, abs=1e-12)
    assert expected_jaccard(np.full_like(d, np.inf), angles, steps) == 1


def test_law_predicts_the_grids_of_a_trained_network(trained):
    """
    Fed with the exact distances on the digits slice, at four levels, on four grids.

    The law is about grids at a random place, so cells are pooled over six places: within 0.03. One grid alone differs
    from it by as much as 0.1, where the masks have 200 cells.
    """
    plane = pca_plane(trained.split.train_inputs)
    one = exact_slice(trained.model, plane)
    generator, seen = np.random.default_rng(0), []
    for bits in (8, 6, 5, 4):
        coarse = quantize_model(trained.model, bits)
        two = exact_slice(coarse, plane)
        ways = [shifts(x.segments, x.pairs, y.segments, y.pairs, step=0.02) for x, y in ((one, two), (two, one))]
        pieces = [np.concatenate([getattr(way, name) for way in ways]) for name in ("distance", "angles", "lengths")]
        for n in (61, 121, 241, 481):
            both = either = 0
            for _ in range(6):
                place = generator.uniform(-0.5, 0.5, 2) * plane.steps(n)
                there = replace(plane, low=plane.low + place, high=plane.high + place)
                masks = [boundary_mask(label_grid(model, there, n)) for model in (trained.model, coarse)]
                both, either = both + (masks[0] & masks[1]).sum(), either + (masks[0] | masks[1]).sum()
            seen.append((1 - both / either, expected_jaccard(*pieces[:2], plane.steps(n), weights=pieces[2])))
    measured, expected = np.array(seen).T
    assert np.ptp(measured) > 0.7  # from nearly nothing to nearly all
    np.testing.assert_allclose(expected, measured, atol=0.03)


@given(st.floats(0.001, 0.1), st.floats(1, 3), st.floats(0, 1), st.floats(0.05, 0.9))
def test_steps_that_a_distance_implies(shift, spread, share, distance):
    low, high = implied_step(distance, (shift, spread * shift))
    assert isotropic_jaccard(shift, (low, low)) == pytest.approx(distance, abs=1e-9)
    assert isotropic_jaccard(spread * shift, (high, high)) == pytest.approx(distance, abs=1e-9)
    between = shift * (1 + share * (spread - 1))
    step = between / implied_displacement(distance, (1.0, 1.0))
    assert low <= step * (1 + 1e-9) and step <= high * (1 + 1e-9)
    wider = implied_step(distance, (shift, spread * shift), rounding=0.0005)
    assert wider.low < low and high < wider.high
    assert wider.low == implied_step(distance + 0.0005, (shift, shift)).low  # as far as rounding went, and no farther
    assert wider.high == implied_step(distance - 0.0005, (spread * shift,) * 2).high


@pytest.mark.parametrize(("call", "message"), [
    (lambda: expected_jaccard([], [], (1, 1)), r"Displacements, angles and weights have shapes \(0,\), \(0,\) and \(0,\): give one of each"),
    (lambda: expected_jaccard([1.0], [1.0, 2.0], (1, 1)), r"have shapes \(1,\), \(2,\) and \(1,\)"),
    (lambda: expected_jaccard([1.0, np.nan], [1.0, 2.0], (1, 1)), "Displacements hold 1 NaN of 2: where a piece has no counterpart, give inf"),
    (lambda: expected_jaccard([1.0], [1.0], (1, 1), weights=[0.0]), "Weights must be finite, at least 0 and not all 0"),
    (lambda: expected_jaccard([1.0], [1.0], (1, 1), weights=[-1.0]), "Weights must be finite"),
    (lambda: expected_jaccard([1.0, 1.0], [1.0, 1.0], (1, 1), weights=[2.0, -1.0]), "Weights must be finite"),
    (lambda: expected_jaccard([1.0], [1.0], (1, 0)), r"Grid steps are \(1.0, 0.0\): give two lengths above 0"),
    (lambda: mask_width(1.0, (1, 2, 3)), r"Grid steps are \(1.0, 2.0, 3.0\): give two lengths"),
    (lambda: isotropic_jaccard(1.0, (1, -1)), "Grid step is -1: give a number from 0 to inf"),
    (lambda: implied_displacement(1.2, (1, 1)), "Jaccard distance is 1.2: give a number from 0 to 1"),
    (lambda: implied_step(0.0004, (1, 2), rounding=0.0005), "Jaccard distance is 0.0004 within 0.0005: at 0 or 1 it implies no step"),
    (lambda: implied_step(1.0, (1, 2)), "Jaccard distance is 1 within 0: at 0 or 1"),
    (lambda: implied_step(0.5, (2, 1)), r"Displacement runs over \(2.0, 1.0\): give an interval"),
    (lambda: implied_step(0.5, (0, 1)), r"Displacement runs over \(0.0, 1.0\): give an interval \(low, high\) of lengths above 0"),
])  # fmt: skip
def test_what_the_law_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
