"""How numbers read: the examples of each format, and properties over drawn numbers."""

import doctest
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies import formats
from studies.formats import Ends

FORMS = st.sampled_from([".4f", ".3f", ".2f", ".0f", ".1e", ".3g", ".0%", ".1%"])
NUMBERS = st.floats(-1e6, 1e6)


def test_the_examples_hold():
    found = doctest.testmod(formats)
    assert found.failed == 0 and found.attempted >= 9


@given(NUMBERS, FORMS)
def test_a_number_reads_back_and_zero_has_no_sign(value, form):
    text, difference = formats.number(value, form), formats.signed(value, form)
    shown = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    assert format(shown, form).lstrip("-") == text.lstrip("-")  # what is read back is written the same
    assert not re.fullmatch(r"[-+]0[.0]*(e[-+]00)?%?", text + difference[:0]) and difference.lstrip("+") == text
    assert difference.startswith(("+", "-")) == (shown != 0)


@pytest.mark.parametrize("value", [np.nan, np.float64("nan"), np.array(np.nan)])
def test_what_is_no_number_is_none(value):
    assert formats.number(value) == formats.signed(value, ".1f") == formats.percent(value) == "none"


def test_intervals_of_differences_have_signs_at_every_number():
    assert formats.interval(Ends(-0.00001, -0.1, 0.1), ".3f", formats.signed) == "0.000 [-0.100, +0.100]"
    assert formats.span(0.25, 3, write=formats.brief) == "0.25 to 3"
    assert formats.brief(0.50004) == "0.5" and formats.brief(100) == "100" and formats.brief(100.0) == "100"


def test_numbers_have_no_needless_digits_and_zero_has_no_sign():
    assert [formats.brief(x) for x in (-1e-6, 0.0, -0.0026, 1.0, 0.25, None, "direction", 3)] == [
        "0", "0", "-0.0026", "1", "0.25", "", "direction", "3",
    ]  # fmt: skip
