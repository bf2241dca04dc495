"""Stopping rules: what is reached going down, ties at the limit, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqcore.quantizers.bit_selection import Choice, last_before, loosest

NAN = float("nan")


def test_the_rule_stops_before_the_first_level_that_passes():
    measures = [[[0.0, 0.1, 0.2, 0.3], [0.0, 0.3, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    assert last_before(measures, [0.2]).level.tolist() == [2, 0, 0, 3]
    assert last_before(measures, [0.2]).fallback.tolist() == [False, False, True, False]


def test_the_limit_itself_is_allowed_as_a_share_of_inputs_and_as_a_decimal():
    for n in (100, 400, 600, 10_000):  # of n inputs, one in a hundred is lost
        right = np.arange(n // 100, n + 1)
        losses = right / n - (right - n // 100) / n
        assert not last_before(losses[None, :, None], [0.01]).fallback.any()
    assert 0.9 - 0.89 > 0.01 and not last_before([[[0.9 - 0.89]]], [0.01]).fallback.any()
    assert last_before([[[0.01 + 1 / 60_000]]], [0.01]).fallback.all()


@st.composite
def cases(draw):
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return generator.integers(0, 5, shape) / 4, generator.integers(0, 5, shape[0]) / 4


@given(cases())
def test_it_agrees_with_going_down_step_by_step(case):
    measures, limits = case
    found = last_before(measures, limits)
    for run in range(measures.shape[1]):
        level = -1
        while level + 1 < measures.shape[2] and all(m[run, level + 1] <= limit for m, limit in zip(measures, limits)):
            level += 1
        assert (found.level[run], found.fallback[run]) == (max(level, 0), level < 0)


@given(cases())
def test_a_looser_limit_never_keeps_more_bits_and_a_second_measure_never_fewer(case):
    measures, limits = case
    found = last_before(measures, limits).level
    assert (last_before(measures, limits + 0.25).level >= found).all()
    assert (last_before(measures[:1], limits[:1]).level >= found).all()


@pytest.mark.parametrize(
    ("measures", "limits", "message"),
    [
        ([0.1, 0.2], [0.1], r"Measures have shape \(2,\): give \(M, \.\.\., L\), at least one level each\."),
        (np.zeros((1, 3, 0)), [0.1], r"Measures have shape \(1, 3, 0\): give"),
        ([[[0.1]]], [0.1, 0.2], r"Limits have shape \(2,\) for 1 measures: give one each\."),
        (
            [[[0.1, NAN]]],
            [0.1],
            r"Calibration measures hold 1 non-finite values of 2, first at index \(0, 0, 1\): a level",
        ),
        (
            [[[None, 0.1]]],
            [0.1],
            r"Calibration measures hold 1 non-finite values of 2, first at index \(0, 0, 0\): a level",
        ),
        ([[[0.1]]], [NAN], r"Limits hold 1 non-finite values of 1, first at index \(0,\): leave out"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused(measures, limits, message):
    with pytest.raises(ValueError, match=message):
        last_before(measures, limits)


def test_the_loosest_limit_within_the_target_is_picked():
    assert loosest([0.001, 0.002, 0.004], [0.1, 0.2, 0.3], 0.002) == 1
    assert loosest([0.004, 0.001, 0.002], [0.3, 0.1, 0.2], 0.002) == 2  # limits in any order
    assert loosest([0.003, 0.002], [0.1, 0.2], 0.001) == 0  # none is: the smallest
    assert loosest([0.002, 0.009, 0.002], [0.1, 0.2, 0.3], 0.002) == 2
    with pytest.raises(ValueError, match=r"Flip rates hold 1 non-finite values of 1"):
        loosest([NAN], [0.1], 0.1)


def test_a_choice_names_its_parts():
    assert Choice._fields == ("level", "fallback")
