"""The multiverse as data for the page of verdicts: every measure exactly, and the baseline among the choices."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from studies import alternatives, claims, published
from studies.figures.multiverse import AXES


def decoded(about: dict, codes: bytes) -> np.ndarray:
    """Return the values of an array, as the page reads them."""
    sizes = [len(values) for _, values in about["dims"]]
    planes = np.frombuffer(codes, np.uint8).reshape(about["planes"], -1).astype(np.int64)
    whole = (planes << 8 * np.arange(about["planes"])[:, None]).sum(0)
    values = np.where(whole == about["missing"], np.nan, (whole + about["least"]) / about["scale"])
    return values.astype(np.float32 if about["single"] else np.float64).reshape(sizes)


@pytest.mark.parametrize("dataset", alternatives.SETS)
def test_a_script_has_every_published_measure_exactly(dataset):
    stated = claims.load_claims()
    text = alternatives.script(dataset, AXES, *stated).decode()
    assert text == alternatives.script(dataset, AXES, *stated).decode()
    name, content = re.fullmatch(r"\(window\.\w+ = window\.\w+ \|\| \{\}\)\[(.*?)\] = (\{.*\});\n", text).groups()
    content = json.loads(content)
    assert json.loads(name) == dataset
    codes, start = gzip.decompress(base64.b85decode(content["bytes"])), 0
    wanted = alternatives.measures(dataset)
    assert list(content["arrays"]) == list(wanted)
    for key, about in content["arrays"].items():
        size = about["planes"] * wanted[key].size
        found = decoded(about, codes[start : start + size])
        start += size
        assert [dim for dim, _ in about["dims"]] == list(wanted[key].dims) and about["dims"][-1][0] == "seed"
        if found.dtype == np.float32:
            np.testing.assert_array_equal(found, wanted[key].values)
        else:  # a difference of two shares is rounded twice
            np.testing.assert_allclose(found, wanted[key].values, rtol=0, atol=2e-16)
    assert start == len(codes)
    for axis in content["axes"].values():
        assert 0 <= axis["baseline"] < len(axis["values"])


def test_measures_are_the_files():
    many = published.load_published(published.MULTIVERSES["digits"])
    found = alternatives.measures("digits")
    assert set(found) == set(many.data_vars)
    assert found["stopping_jaccard"].nodes.values.tolist() == many.stopping_nodes.values.tolist()
    for name, values in found.items():
        np.testing.assert_array_equal(values.values, many[name].transpose(..., "seed").values)


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=30), st.integers(1, 5000), st.booleans(), st.data())
def test_fractions_come_back(wholes, scale, single, data):
    values = (np.array(wholes) / scale).astype(np.float32 if single else np.float64)
    missing = data.draw(st.lists(st.booleans(), min_size=len(wholes), max_size=len(wholes)))
    values[np.array(missing) & (np.arange(len(wholes)) > 0)] = np.nan
    array = xr.DataArray(values, {"seed": range(len(wholes))}, ("seed",))
    about, codes = alternatives.encoded(array)
    assert scale % about["scale"] == 0 or single
    found = decoded({**about, "dims": [["seed", [*range(len(wholes))]]]}, codes)
    np.testing.assert_allclose(found, values, rtol=2.0**-23 if single else 1e-15, atol=0)


def test_what_has_no_common_denominator_is_refused():
    with pytest.raises(ValueError, match="The 2 values are no fractions of one denominator up to 1048576: round them."):
        alternatives.denominator(np.array([0.5, np.pi]))
