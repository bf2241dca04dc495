"""The study of the levels: measured right, by plain NumPy and plain loops."""

import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import label_grids, margins, statistics
from studies import catalogue, networks, published, specs, training
from studies.data import splits
from studies.figures import levels

LIVELY = specs.Levels(seed=3, epochs=8, nodes=(31, 16), width=12, bits=(8, 3, 2))  # decisions flip in all three ways


@pytest.fixture(scope="module")
def lively() -> xr.Dataset:
    return catalogue.measure(LIVELY)


def test_other_batch_sizes_give_the_same_labels(lively, monkeypatch):
    for function, size in ((label_grids.label_grid, 7), (margins.radius, 200), (margins.local_change, 11)):
        monkeypatch.setitem(function.__kwdefaults__, "batch_size", size)
    other = catalogue.measure(LIVELY)
    assert (other.labels == lively.labels).all()
    # Only the lengths are sums over a batch's own layout, so that they may differ in their last digits.
    lengths = ["radius", "displacement", "signed_distance_change", "normal_variation"]
    xr.testing.assert_allclose(other[lengths], lively[lengths], rtol=1e-11, atol=1e-14)
    xr.testing.assert_identical(other.drop_vars(lengths), lively.drop_vars(lengths))


def test_the_float_classifier_does_not_differ_from_itself(lively):
    floating = lively.sel(bits=specs.FLOAT)
    for name in (
        "flip_rate", "right_to_wrong", "wrong_to_right", "wrong_to_other", "band_flip_rate", "pair_order_flip_rate",
        "band_pair_order_flip_rate", "displacement", "signed_distance_change", "normal_variation", "boundary_jaccard",
        "effective_displacement", "grid_change", "third_class", "tolerance_jaccard", "coarse_tolerance_jaccard",
    ):  # fmt: skip
        assert (floating[name] == 0).all(), name


def test_all_values_are_in_their_range(lively):
    for name, values in lively.variables.items():
        kind = values.attrs["units"].split(" ")[0]
        if kind in ("share", "flag") or name == "boundary_jaccard":
            assert ((values >= 0) & (values <= 1) | values.isnull()).all(), name
        if kind == "count":
            assert values.dtype == np.int64 and (values >= 0).all(), name
    assert (lively.radius > 0).all() and (lively.displacement >= 0).all()
    assert (lively.signed_distance_change >= 0).all()
    assert ((lively.normal_variation >= 0) & (lively.normal_variation <= 2)).all()
    for name in ("radius", "displacement", "signed_distance_change", "normal_variation"):
        assert (lively[name].sel(quantile=0.5) <= lively[name].sel(quantile=0.95)).all()
    assert (lively.four_class_cells <= lively.junctions).all()
    assert (lively.junction_union_changed <= lively.junction_union).all()
    np.testing.assert_allclose(lively.right_to_wrong + lively.wrong_to_right + lively.wrong_to_other, lively.flip_rate)
    assert (lively.right_to_wrong * lively.wrong_to_right * lively.wrong_to_other).max() > 0  # the spec is lively
    assert set(np.unique(lively.labels)) <= set(range(10)) and set(np.unique(lively.target)) == set(range(10))


def test_decisions_agree_with_plain_numpy(lively):
    split, w1, b1, w2, b2 = plain_model()
    x, y = split.test_inputs.numpy().astype(float), split.test_classes.numpy()
    z = {bits: np.maximum(x @ q(w1, bits).T + b1, 0) @ q(w2, bits).T + b2 for bits in (32, 8, 3, 2)}
    top = np.sort(z[32], axis=1)
    band = np.argsort(top[:, -1] - top[:, -2], kind="stable")[:90]
    first, second = np.argsort(-z[32], axis=1, kind="stable")[:, :2].T
    rows = np.arange(450)
    for bits in z:
        ours, a, b = lively.sel(bits=bits), z[32].argmax(1), z[bits].argmax(1)
        reversed_ = z[bits][rows, first] < z[bits][rows, second]
        expected = {
            "accuracy": np.mean(b == y), "flip_rate": np.mean(a != b), "right_to_wrong": np.mean((a == y) & (b != y)),
            "wrong_to_right": np.mean((a != y) & (b == y)), "band_flip_rate": np.mean(a[band] != b[band]),
            "wrong_to_other": np.mean((a != b) & (a != y) & (b != y)), "pair_order_flip_rate": np.mean(reversed_),
            "band_pair_order_flip_rate": np.mean(reversed_[band]),
            "third_class": np.mean((b != first) & (b != second)),
        }  # fmt: skip
        for name, value in expected.items():
            assert float(ours[name]) == pytest.approx(value, abs=1e-12), (bits, name)


def test_geometry_agrees_with_plain_numpy(lively):
    split, w1, b1, w2, b2 = plain_model()
    x, rows = split.test_inputs.numpy().astype(float), np.arange(450)
    levels = {}
    for bits in (32, 8, 3, 2):
        u, v = q(w1, bits), q(w2, bits)
        hidden = x @ u.T + b1
        levels[bits] = np.maximum(hidden, 0) @ v.T + b2, np.einsum("kh,nh,hd->nkd", v, hidden > 0, u)  # and gradients
    z, g = levels[32]
    first, second = np.argsort(-z, axis=1)[:, :2].T
    normal = g[rows, first] - g[rows, second]
    for bits, (z_q, g_q) in levels.items():  # rounding the weights to float32 leaves 1e-7 of the logits
        c = z_q.argmax(1)
        gap = z_q[rows, c][:, None] - z_q
        gap[rows, c] = np.inf
        radius = (gap / np.maximum(np.linalg.norm(g_q[rows, c][:, None] - g_q, axis=2), 1e-300)).min(1)
        shift = (z_q - z)[rows, first] - (z_q - z)[rows, second]
        normal_q = g_q[rows, first] - g_q[rows, second]
        lengths = [np.where(n.any(1), np.linalg.norm(n, axis=1), np.nan) for n in (normal, normal_q)]
        variation = 1 - (normal * normal_q).sum(1) / (lengths[0] * lengths[1])
        margin, margin_q = (logits[rows, first] - logits[rows, second] for logits in (z, z_q))
        for name, values in {
            "radius": radius,
            "displacement": abs(shift / lengths[0]),
            "signed_distance_change": abs(margin_q / lengths[1] - margin / lengths[0]),
            "normal_variation": variation,
        }.items():
            np.testing.assert_allclose(
                lively[name].sel(bits=bits), np.nanquantile(values, [0.5, 0.95]), rtol=1e-5, atol=1e-9
            )


def test_slices_agree_with_plain_loops_over_the_labels(lively):
    def classes(bits: int) -> list[set]:
        grid = lively.labels.sel(bits=bits).values
        return [set(grid[i : i + 2, j : j + 2].ravel()) for i in range(30) for j in range(30)]

    step_a, step_b = (float(np.diff(lively[axis])[0]) for axis in "ab")
    floating = {k for k, found in enumerate(classes(32)) if len(found) > 1}
    for bits in (32, 8, 3, 2):
        cells, ours = classes(bits), lively.sel(bits=bits, nodes=31)
        mask = {k for k, found in enumerate(cells) if len(found) > 1}
        distance = 1 - len(mask & floating) / len(mask | floating)
        assert float(ours.boundary_jaccard) == pytest.approx(distance)
        assert int(ours.junctions) == sum(len(found) >= 3 for found in cells)
        assert int(ours.four_class_cells) == sum(len(found) == 4 for found in cells)
        assert float(ours.grid_change) == pytest.approx(
            float((lively.labels.sel(bits=bits) != lively.labels.sel(bits=32)).mean())
        )
        width = 2 * (step_a + step_b) / np.pi
        assert float(ours.effective_displacement) == pytest.approx(width * distance / (2 - distance))
    assert float(lively.boundary_jaccard.sel(bits=2, nodes=31)) > 0.1
    np.testing.assert_allclose([lively.step_a.sel(nodes=31), lively.step_b.sel(nodes=31)], [step_a, step_b])
    np.testing.assert_allclose(lively.step_a.sel(nodes=16), 2 * step_a)


def test_transitions_agree_with_their_maps(lively):
    np.testing.assert_array_equal(lively.junction_steps, lively.junction_map.sum(["cell_a", "cell_b"]))
    np.testing.assert_array_equal(lively.junction_union, lively.junction_map.any("t").sum(["cell_a", "cell_b"]))
    ends = lively.junctions.sel(nodes=31)
    for i, (first, second) in enumerate([(8, 3), (3, 2)]):
        steps = lively.junction_steps.isel(transition=i)
        assert (steps[0], steps[-1]) == (ends.sel(bits=first), ends.sel(bits=second))
    np.testing.assert_allclose(lively.t, np.linspace(0, 1, 11))


def test_the_plane_is_that_of_the_training_split_over_its_scores(lively):
    split = splits.digits(LIVELY.seed)
    x = split.train_inputs.numpy().astype(float)
    _, values, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(lively.explained, (values**2 / (values**2).sum())[:2])
    scores = (x - x.mean(0)) @ axes[:2].T
    signs = np.sign((scores.max(0) + scores.min(0)) * [float(lively.a.mean()), float(lively.b.mean())])
    for axis, sign, ours in zip(range(2), signs, (lively.a, lively.b)):
        ends = np.sort(sign * np.array([scores[:, axis].min(), scores[:, axis].max()]))
        np.testing.assert_allclose([ours[0], ours[-1]], ends)
    expected = (split.test_inputs.numpy().astype(float) - x.mean(0)) @ axes[:2].T * signs
    np.testing.assert_allclose(lively.score, expected, atol=1e-12)
    assert lively.target.values.tolist() == split.test_classes.tolist()


def plain_model() -> tuple:
    """Train the lively run's network and give its split with weights and biases in float64."""
    split = splits.digits(LIVELY.seed)
    model = networks.mlp((64, LIVELY.width, 10), LIVELY.seed)
    training.fit(model, split.train_inputs, split.train_classes, epochs=LIVELY.epochs, seed=LIVELY.seed)
    return split, *(parameter.detach().numpy().astype(float) for parameter in model.parameters())


def q(weight: np.ndarray, bits: int) -> np.ndarray:
    """Quantize in the plainest way: narrow range, per tensor; the values are kept in float32, as the model's are."""
    step = abs(weight).max() / (2 ** (bits - 1) - 1)
    return weight if bits == 32 else (np.round(weight / step) * step).astype(np.float32).astype(float)


def test_shares_of_one_run_s_inputs_have_their_interval_and_those_of_many_that_of_the_next_run():
    one, many = (published.load_published(f"digits_{name}.nc") for name in ("slice", "levels"))
    row = levels.decisions_table(one).text.loc["8 bits"]
    assert row["flips"] == "0 [0, 0.0082]"  # no flip in 450: up to 3.7 of them are not excluded
    right = round(float(one.accuracy.sel(bits=8)) * 450)
    assert row["accuracy"] == "{:.3f} [{:.3f}, {:.3f}]".format(*statistics.clopper_pearson(right, 450))
    assert levels.decisions_table(one).text.loc["float", "flips"] == "0"  # of itself
    assert "[" not in row["flips in the band"] and "[" not in row["these in the band"]
    next_run = statistics.prediction_interval(many.accuracy.sel(bits=8).values)
    assert levels.decisions_table(many).text.loc["8 bits", "accuracy"] == "{:.3f} [{:.3f}, {:.3f}]".format(*next_run)
