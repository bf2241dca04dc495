"""What takes arrays works where torch and scikit-learn are absent, and is imported without them; the rest says what to do."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    """Run *code* in a fresh interpreter in which torch and scikit-learn cannot be imported; return what it prints."""
    absent = "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None\n"
    done = subprocess.run([sys.executable, "-c", absent + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_measures_of_arrays_need_numpy_and_scipy_alone():
    run("""
        import numpy as np
        import bqcore as bq
        from bqcore.metrics import exact_slices, finite_scale, planes, statistics

        inputs = np.random.default_rng(0).normal(size=(30, 4))
        before, after = inputs[:, :3], inputs[:, :3] + 0.1
        assert bq.flips(before, after).rate == 0 and bq.band_flip_rate(before, after) == 0
        plane = bq.pca_plane(inputs)
        labels = bq.label_grid(lambda x: x[:, :3], plane, 21)
        assert labels.max() == 2 and bq.junction_cells(labels).sum() <= bq.boundary_mask(labels).sum()
        assert bq.transition(np.stack([labels, labels.T])).changed > 0
        assert bq.boundary_jaccard(*[bq.boundary_mask(labels)] * 2).distance == 0
        exact = exact_slices.interpolated_slice(lambda x: x[:, :3], plane, 21)
        moved = exact_slices.interpolate(exact_slices.logits_on(lambda x: x[:, :3] + [0.1, 0, 0], plane, 21), plane)
        found = bq.boundary_distances(exact.segments, moved.segments, step=0.1)
        assert 0 < bq.tolerance_jaccard(exact.segments, moved.segments, found.mean) < 1
        bq.match_junctions(exact.junctions, exact.junction_classes, moved.junctions, moved.junction_classes, radius=1)
        assert bq.expected_jaccard([0.5], [0.0], (1.0, 1.0)) > 0.6 and planes.fraction_outside(plane, inputs) < 1
        assert statistics.clopper_pearson(0, 450).high < 0.009
    """)


@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("bq.radius(None, None)", "The gradient of a margin"),
        ("bq.displacement(None, None, None)", "The gradient of a margin"),
        ("bq.exact_slice(None, plane)", "An exact slice of a network"),
    ],
)
def test_what_needs_torch_says_which_extra_to_install(call, use):
    said = run(f"""
        import numpy as np
        import bqcore as bq

        plane = bq.Plane(np.zeros(2), np.eye(2), np.zeros(2), np.ones(2), np.ones(2) / 2, (2,))
        try:
            {call}
        except ValueError as error:
            print(error)
    """)
    assert said == f"{use} needs the package torch, which is not installed: pip install 'bqcore[torch]'.\n"


def test_imports_do_not_wait_for_torch_or_for_scipy_s_submodules():
    code = """
        import sys
        from bqcore.metrics import (
            boundary_distances, decisions, exact_slices, finite_scale, label_grids, margins, masks, planes, statistics)
        slow = ("torch", "sklearn", "scipy.stats", "scipy.optimize", "scipy.spatial", "scipy.ndimage", "scipy.special")
        print([name for name in slow if name in sys.modules])
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
