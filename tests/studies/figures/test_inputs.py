"""What a notebook begins with: parameters that papermill put in are refused where the notebook has none of that name."""

from types import SimpleNamespace

import pytest

from studies.figures import inputs

OWN = 'seed = 0  # which run\nbits = [8, 7]  # bit-widths\nscheme = "narrow"  # narrow or full'


@pytest.fixture
def ran(monkeypatch):
    """Return a function that lets a notebook have run some cells."""
    return lambda *cells: monkeypatch.setattr(
        inputs, "get_ipython", lambda: SimpleNamespace(user_ns={"In": ["", *cells]})
    )


@pytest.mark.parametrize("given", [None, "# Parameters\nseed = 3\n", '# Parameters\nscheme = "full"\nbits = [4]\n'])
def test_parameters_that_the_notebook_has_are_taken(ran, given):
    ran(OWN, *filter(None, [given]), "x = 1")
    inputs.check_names()


@pytest.mark.parametrize(
    ("given", "advice"),
    [("sed = 3", "sed: did you mean seed?"), ("width = 3", "width: it has seed, bits, scheme.")],
)
def test_others_are_refused_with_what_there_is(ran, given, advice):
    ran(OWN, f"# Parameters\nseed = 1\n{given}\n", "width = 3")
    with pytest.raises(ValueError) as error:
        inputs.check_names()
    assert str(error.value) == f"This notebook has no parameter {advice}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": "old"}, "results"),
        ({"seeds": -1}, "seeds"),
        ({"spare": 1.5}, "spare"),
        ({"limits": {"accuracy": [0.0], "jaccard": [0.5, 2.0]}}, "A limit on jaccard"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(change, message):
    given = {"results": "published", "seeds": 0, "spare": 0.5, "limits": {"accuracy": [0.0], "jaccard": [0.1]}}
    inputs.check_limits(**given)
    with pytest.raises(ValueError, match=f"^{message} "):
        inputs.check_limits(**given | change)
    with pytest.raises(ValueError, match="^power "):
        inputs.check_runs("fresh", 3, power=-0.1)
