"""Local geometry: foolbox and autograd as oracles, closed forms of linear classifiers, and every refusal."""

import copy

import foolbox
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bqcore._threads import one_thread
from bqcore.metrics.margins import (
    displacement,
    local_change,
    normal_variation,
    radius,
    signed_distance_change,
    top_margins,
)
from bqcore.quantizers.uniform import quantize_model
from studies.networks import mlp
from tests.helpers.margins import SCALES, Wavy, linear, linear_cases, measures, radius_one_by_one
from tests.helpers.nets import SEEDS

# --- radius ---


def test_radius_is_one_deepfool_step_of_foolbox(trained):
    """
    foolbox adds 1e-4 to the step and 1e-8 to each norm, in float32: 2e-6 is left.

    On one thread: torch takes float32 square roots, which foolbox asks for, from MKL, whose second thread gives some of
    them with half of their digits in the first call of a process, now and then.
    """
    model, inputs = trained.model, trained.split.test_inputs
    found = radius(model, inputs)
    decisions = model(inputs).argmax(1)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=1, overshoot=0.0)
    with one_thread():
        moved = attack.run(foolbox.PyTorchModel(model, bounds=(-1e3, 1e3)), inputs, decisions)
    lengths = (moved - inputs).double().norm(dim=1).numpy()
    assert len(lengths) == 450 and found.flat == 0 and np.array_equal(found.winner, decisions)
    np.testing.assert_allclose(found.radius, lengths - 1e-4, rtol=0, atol=2e-6)


@given(linear_cases(), st.integers(1, 30))
def test_radius_of_a_linear_classifier_is_the_distance_to_its_boundary(case, batch_size):
    weight, bias, inputs = case
    found = radius(linear(weight, bias), torch.from_numpy(inputs), batch_size=batch_size)
    z = inputs @ weight.T + bias
    winner = z.argmax(1)
    gaps = z[np.arange(len(z)), winner][:, None] - z
    normals = weight[winner][:, None] - weight[None]
    lengths = np.linalg.norm(normals, axis=2)
    distances = np.where(lengths > 0, gaps / np.where(lengths > 0, lengths, 1), np.inf)
    distances[np.arange(len(z)), winner] = np.inf
    assert found.winner.tolist() == winner.tolist() and found.rival.tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(found.radius, distances.min(1), rtol=1e-9, atol=1e-14)
    # Exact: that far towards the rival, winner and rival tie at the top, and nearer no direction changes the decision.
    rows = np.arange(len(z))
    direction = -normals[rows, found.rival] / lengths[rows, found.rival][:, None]
    there = (inputs + found.radius[:, None] * direction) @ weight.T + bias
    top = np.sort(there, axis=1)[:, -2:]
    np.testing.assert_allclose(there[rows, winner], there[rows, found.rival], atol=1e-12 * np.abs(z).max())
    np.testing.assert_allclose(top[:, 0], top[:, 1], atol=1e-12 * np.abs(z).max())
    anywhere = np.random.default_rng(0).normal(size=inputs.shape)
    anywhere *= 0.999 * found.radius[:, None] / np.linalg.norm(anywhere, axis=1, keepdims=True)
    assert ((inputs + anywhere) @ weight.T + bias).argmax(1).tolist() == winner.tolist()


@given(st.integers(2, 7), st.integers(1, 9), SEEDS)
def test_radius_of_a_curved_classifier_read_aloud(classes, n, seed):
    inputs = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = radius(Wavy(classes), inputs)
    expected, rivals = zip(*radius_one_by_one(Wavy(classes), inputs))
    np.testing.assert_allclose(found.radius, expected, rtol=1e-10)
    assert found.rival.tolist() == list(rivals)


def test_ties_are_at_radius_zero_and_flat_pairs_infinitely_far_and_counted():
    # classes 0 and 1 tie at the origin; 2 is flat against 0; 3 lies at distance (0 - -4) / 4 = 1
    net = linear([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-3.0, 0.0]], [0.0, 0.0, -1.0, -4.0])
    at = torch.tensor([[0.0, 0.0], [5.0, -1e9]], dtype=torch.float64)
    found = radius(net, at)
    assert found.radius.tolist() == [0, 6] and found.winner.tolist() == [0, 0] and found.rival.tolist() == [1, 3]
    assert found.flat == 2
    constant = linear([[1.0, 2.0]] * 3, [0.0, 2.0, 1.0])
    found = radius(constant, at)
    assert found.radius.tolist() == [np.inf] * 2 and found.flat == 4
    assert found.winner.tolist() == [1, 1] and found.rival.tolist() == [2, 2]  # the runner-up, for want of a nearest
    everywhere = radius(linear([[1.0, 2.0]] * 300, [0.0] * 300), at)
    assert everywhere.radius.tolist() == [0, 0]
    assert everywhere.winner.tolist() == [0, 0] and everywhere.rival.tolist() == [1, 1]


def test_logits_that_do_not_depend_on_the_input_are_flat():
    free = torch.tensor([[1.0, 0.0]], requires_grad=True)
    found = radius(lambda x: free.expand(len(x), 2), torch.zeros(3, 2))
    assert found.radius.tolist() == [np.inf] * 3 and found.flat == 3


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_radius_with_up_to_a_thousand_classes(classes):
    generator = np.random.default_rng(classes)
    weight, inputs = generator.normal(size=(classes, 20)), generator.normal(size=(7, 20))
    found = radius(linear(weight, np.zeros(classes)), torch.from_numpy(inputs))
    z = inputs @ weight.T
    for x, r, c, j in zip(z, found.radius, found.winner, found.rival):
        distances = [
            np.inf if k == c else (x[c] - x[k]) / np.linalg.norm(weight[c] - weight[k]) for k in range(classes)
        ]
        assert c == x.argmax() and j == np.argmin(distances) and r == pytest.approx(min(distances), rel=1e-10)


# --- displacement and normal variation ---


def test_a_boundary_moved_by_hand():
    # float: x = 1; candidate: x = 3 with the same normal, so +2 for x = 0 (away) and -2 for x = 5 (closer)
    reference = linear([[0.0, 0.0], [2.0, 0.0]], [2.0, 0.0])
    candidate = linear([[0.0, 0.0], [2.0, 0.0]], [6.0, 0.0])
    found = local_change(reference, candidate, torch.tensor([[0.0, 7.0], [5.0, 7.0]], dtype=torch.float64))
    assert found.displacement.tolist() == [2, -2] and found.normal_variation.tolist() == [0, 0]
    assert found.winner.tolist() == [0, 1] and found.runner_up.tolist() == [1, 0]
    assert found.third_class.tolist() == [False, False]
    # The same boundary from logits of twice the scale: it is as far, and displacement reads scale as well as shift.
    doubled = linear([[0.0, 0.0], [4.0, 0.0]], [12.0, 0.0])
    found = local_change(reference, doubled, torch.tensor([[0.0, 7.0], [5.0, 7.0]], dtype=torch.float64))
    assert found.signed_distance_change.tolist() == [2, -2] and found.displacement.tolist() == [5, 0]


@given(linear_cases(), st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_a_change_of_scale_moves_nothing_and_displaces_by_c_minus_1_radii_of_the_pair(case, c, constant):
    weight, bias, inputs = case
    reference, inputs = linear(weight, bias), torch.from_numpy(inputs)
    found = local_change(reference, linear(c * weight, c * bias + constant * np.abs(bias).max()), inputs)
    known = top_margins(reference, inputs)
    scale = np.abs(weight @ inputs.numpy().T).max() + (1 + abs(constant) / min(c, 1)) * np.abs(bias).max()
    slack = 1e-13 * scale / known.length.min()  # a margin is a difference of logits of this size
    distance = known.margin / known.length
    np.testing.assert_allclose(found.signed_distance_change, 0, atol=slack)
    np.testing.assert_allclose(found.displacement, (c - 1) * distance, rtol=1e-9, atol=(1 + c) * slack)
    np.testing.assert_allclose(found.normal_variation, 0, atol=1e-20)


@given(st.integers(2, 7), SEEDS, st.floats(1e-2, 1e2), st.floats(-10, 10))
def test_a_scale_and_constants_move_nothing_for_a_curved_classifier_either(classes, seed, c, constant):
    """A constant is the same for all classes at one input, differs between inputs, and its gradient cancels."""
    inputs = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = local_change(Wavy(classes), lambda x: c * Wavy(classes)(x) + constant * x.mean((1, 2, 3))[:, None], inputs)
    known = top_margins(Wavy(classes), inputs)
    distance = known.margin / known.length
    slack = 1e-12 * (1 + abs(constant) / c) / known.length.min()
    np.testing.assert_allclose(found.signed_distance_change, 0, atol=slack * (1 + distance.max()))
    np.testing.assert_allclose(found.displacement, (c - 1) * distance, rtol=1e-9, atol=(1 + c) * slack)


@given(linear_cases(), SEEDS, st.floats(1e-3, 1e3))
def test_only_displacement_reads_the_candidate_s_scale(case, seed, c):
    """c scales any candidate, not only the reference: its margin alone grows, and its distance stays."""
    weight, bias, inputs = case
    generator, inputs = np.random.default_rng(seed), torch.from_numpy(inputs)
    other = weight + np.abs(weight).max() * generator.normal(size=weight.shape)
    first, second = (local_change(linear(weight, bias), linear(k * other, k * bias), inputs) for k in (1, c))
    known = top_margins(linear(weight, bias), inputs)
    logits = c * (other @ inputs.numpy().T + bias[:, None])
    rows = np.arange(len(inputs))
    margin = logits[known.first, rows] - logits[known.second, rows]
    lengths = np.linalg.norm(other[known.first] - other[known.second], axis=1)
    slack = 1e-12 * (np.abs(logits).max() / c + np.abs(bias).max())
    np.testing.assert_allclose(
        first.signed_distance_change, second.signed_distance_change, rtol=1e-9,
        atol=slack / min(lengths.min(), known.length.min()),
    )  # fmt: skip
    expected = (margin - known.margin) / known.length
    np.testing.assert_allclose(second.displacement, expected, rtol=1e-9, atol=(1 + c) * slack / known.length.min())


@given(st.integers(2, 9), SEEDS, st.floats(1e-6, 0.3))
def test_on_the_boundary_displacement_is_the_change_of_distance_to_first_order(dimensions, seed, size):
    """There m_f = 0, so that one is ‖∇m_q‖ / ‖∇m_f‖ times the other: they differ by its product with a small number."""
    generator = np.random.default_rng(seed)
    weight, bias = generator.normal(size=(2, dimensions)), generator.normal(size=2)
    moved = size * generator.normal(size=weight.shape)
    inputs, normal = generator.normal(size=(5, dimensions)), weight[0] - weight[1]
    inputs -= ((inputs @ normal + bias[0] - bias[1]) / (normal @ normal))[:, None] * normal
    found = local_change(linear(weight, bias), linear(weight + moved, bias + size), torch.from_numpy(inputs))
    turned = np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(normal + moved[0] - moved[1])
    apart = np.abs(found.signed_distance_change - found.displacement)
    assert (apart <= turned * np.abs(found.displacement) + 1e-12).all() and (apart > 0).any()


def test_each_measure_alone_is_that_of_all_at_once(trained):
    reference = copy.deepcopy(trained.model).double()
    given = reference, quantize_model(reference, 4), trained.split.test_inputs[:60].double()
    found = local_change(*given)
    for measure in (displacement, normal_variation, signed_distance_change):
        np.testing.assert_array_equal(measure(*given, batch_size=60), getattr(found, measure.__name__))
    assert np.abs(found.displacement - found.signed_distance_change).max() > 0.01


@given(linear_cases(), SEEDS, st.integers(1, 30))
def test_a_bias_shift_moves_the_pair_s_boundary_by_exactly_the_displacement(case, seed, batch_size):
    weight, bias, inputs = case
    shift = np.random.default_rng(seed).normal(size=bias.shape) * np.abs(bias).max()
    reference, candidate = linear(weight, bias), linear(weight, bias + shift)
    found = local_change(reference, candidate, torch.from_numpy(inputs), batch_size=batch_size)
    z = inputs @ weight.T + bias
    a, b = np.argsort(-z, axis=1)[:, :2].T
    lengths = np.linalg.norm(weight[a] - weight[b], axis=1)
    expected = (shift[a] - shift[b]) / lengths
    assert found.winner.tolist() == a.tolist() and found.runner_up.tolist() == b.tolist()
    np.testing.assert_allclose(found.displacement, expected, rtol=1e-9, atol=1e-9 * np.abs(shift).max() / lengths.min())
    assert (found.normal_variation == 0).all() and found.flat_reference == found.flat_candidate == 0
    decision = (z + shift).argmax(1)
    assert found.third_class.tolist() == [d not in pair for d, pair in zip(decision, zip(a, b))]


@given(linear_cases(), SEEDS, st.integers(1, 30))
def test_displacement_from_logits_alone_is_that_of_the_two_classifiers(case, seed, batch_size):
    weight, bias, inputs = case
    generator = np.random.default_rng(seed)
    reference = linear(weight, bias)
    candidate = linear(weight + generator.normal(size=weight.shape) * np.abs(weight).max(), bias)
    inputs = torch.from_numpy(inputs)
    margins = top_margins(reference, inputs, batch_size=batch_size)
    expected = local_change(reference, candidate, inputs)
    assert margins.first.tolist() == expected.winner.tolist()
    assert margins.second.tolist() == expected.runner_up.tolist()
    found = margins.displacement(candidate(inputs))
    # the same differences, taken in another order
    scale = np.abs(candidate(inputs).detach().numpy()).max() + np.abs(reference(inputs).detach().numpy()).max()
    np.testing.assert_allclose(found, expected.displacement, rtol=1e-12, atol=1e-13 * scale / margins.length.min())


def test_a_flat_margin_has_no_displacement_from_logits_either():
    margins = top_margins(lambda x: x * torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 1.0], [3.0, -4.0]]))
    assert margins.length.tolist() == [2, 2] and margins.margin.tolist() == [2, 8]
    flat = margins._replace(length=np.array([0.0, 2.0]))
    assert np.array_equal(flat.displacement([[0, 3], [0, -9]]), [np.nan, 0.5], equal_nan=True)


@pytest.mark.parametrize("logits", [np.zeros((3, 2)), np.zeros((2, 1)), np.full((2, 2), np.nan), np.zeros((2, 2, 2))])
def test_logits_of_other_inputs_have_no_displacement(logits):
    margins = top_margins(lambda x: x, torch.eye(2))
    with pytest.raises(ValueError, match=r"^Candidate logits (have shape|have K = 1|hold 4 non-finite)"):
        margins.displacement(logits)
    for side in ("first", "second"):
        with pytest.raises(ValueError, match=r"shape \(2, 2\): 2 inputs and more than 2 classes"):
            margins._replace(**{side: np.array([2, 0])}).displacement(np.zeros((2, 2)))


@given(st.integers(2, 9), st.floats(0, np.pi), SEEDS, SCALES, SCALES)
def test_a_rotated_normal_varies_by_one_minus_the_cosine(dimensions, angle, seed, scale_f, scale_q):
    generator = np.random.default_rng(seed)
    u, v = np.linalg.qr(generator.normal(size=(dimensions, 2)))[0].T
    inputs = torch.from_numpy(generator.normal(size=(5, dimensions)))
    reference = linear([scale_f * u, 0 * u], [0.1, 0.0])
    candidate = linear([scale_q * (np.cos(angle) * u + np.sin(angle) * v), 0 * u], [0.3, 0.0])
    found = local_change(reference, candidate, inputs)
    np.testing.assert_allclose(found.normal_variation, 1 - np.cos(angle), rtol=1e-6, atol=1e-14)
    assert (found.normal_variation <= 2).all()
    same = local_change(candidate, candidate, inputs)
    assert (same.normal_variation == 0).all() and (same.displacement == 0).all()


def test_opposite_normals_vary_by_two_and_not_a_bit_more():
    inputs = torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variation = local_change(Wavy(3), lambda x: -3 * Wavy(3)(x), inputs).normal_variation
    assert variation.max() == 2 and variation.min() > 2 - 1e-14


def test_local_change_of_a_quantized_digits_model_read_aloud(trained):
    reference = copy.deepcopy(trained.model).double()
    candidate = quantize_model(reference, 3)
    inputs = trained.split.test_inputs.double()
    found = local_change(reference, candidate, inputs)
    assert found.third_class.any() and not found.third_class.all()
    for i in range(0, 450, 15):
        rows = [copy.deepcopy(inputs[i : i + 1]).requires_grad_(True) for _ in range(2)]
        z_f, z_q = reference(rows[0])[0], candidate(rows[1])[0]
        a, b = z_f.argsort(descending=True)[:2].tolist()
        m_f, m_q = z_f[a] - z_f[b], z_q[a] - z_q[b]
        (g_f,), (g_q,) = torch.autograd.grad(m_f, rows[0]), torch.autograd.grad(m_q, rows[1])
        assert (found.winner[i], found.runner_up[i]) == (a, b)
        assert found.displacement[i] == pytest.approx(((m_q - m_f) / g_f.norm()).item(), rel=1e-9)
        cosine = nn.functional.cosine_similarity(g_f, g_q).item()
        assert found.normal_variation[i] == pytest.approx(1 - cosine, rel=1e-9)
        distances = m_f.item() / g_f.norm().item(), m_q.item() / g_q.norm().item()
        assert found.signed_distance_change[i] == pytest.approx(distances[1] - distances[0], rel=1e-9)
        assert found.third_class[i] == (z_q.argmax().item() not in (a, b))


def test_flat_margins_are_not_a_number_and_counted():
    slope, flat = linear([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0]), linear([[1.0, 0.0], [1.0, 0.0]], [1.0, 0.0])
    x = torch.ones(3, 2, dtype=torch.float64)
    found = local_change(flat, slope, x)
    assert np.isnan(found.displacement).all() and np.isnan(found.normal_variation).all()
    assert np.isnan(found.signed_distance_change).all()
    assert (found.flat_reference, found.flat_candidate) == (3, 0)
    found = local_change(slope, flat, x)
    assert found.displacement.tolist() == [0] * 3 and np.isnan(found.normal_variation).all()
    assert np.isnan(found.signed_distance_change).all()
    assert (found.flat_reference, found.flat_candidate) == (0, 3)


# --- both ---


@given(linear_cases(least=3), SEEDS)
def test_renaming_the_classes_renames_them_and_changes_no_measure(case, seed):
    weight, bias, inputs = case
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(bias))
    other = weight + 0.3 * np.abs(weight).max() * generator.normal(size=weight.shape)
    inputs = torch.from_numpy(inputs)
    first = measures(linear(weight, bias), linear(other, bias), inputs)
    second = measures(linear(weight[order], bias[order]), linear(other[order], bias[order]), inputs)
    for i, (x, y) in enumerate(zip(first, second)):
        if i in (1, 2, 7, 8):  # classes
            assert x.tolist() == order[y].tolist()
        else:
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-9 * np.nanmax(np.abs(x)))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 449, 450, 10**6])
def test_batches_bound_what_goes_through_at_once_and_change_nothing(trained, batch_size):
    """Not to the last bit: the matrix product may sum in another order for another number of rows."""
    reference = copy.deepcopy(trained.model).double()
    candidate = quantize_model(reference, 4)
    inputs = trained.split.test_inputs.double()
    seen = []

    def counting(x):
        seen.append(len(x))
        return reference(x)

    expected = measures(reference, candidate, inputs)
    found = measures(counting, candidate, inputs, batch_size=batch_size)
    assert max(seen) == min(batch_size, 450) and sum(seen) == 2 * 450
    for x, y in zip(found, expected):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13)


def test_models_inputs_and_their_gradients_are_left_as_found(trained):
    model = copy.deepcopy(trained.model)
    inputs = trained.split.test_inputs[:5].clone().requires_grad_(True)
    before = inputs.detach().clone()
    with torch.no_grad():
        measures(model, model, inputs)
    assert torch.equal(inputs, before) and inputs.grad is None
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), trained.model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_float_types_work(dtype):
    tolerance = 8 * torch.finfo(dtype).eps  # one of these was seen here, three at most with 30 other networks
    model = mlp((6, 8, 4), 0)
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = radius(copy.deepcopy(model).to(dtype).double(), inputs.double()).radius
    found = radius(copy.deepcopy(model).to(dtype), inputs)
    np.testing.assert_allclose(found.radius, wide, rtol=tolerance, atol=tolerance)
    changed = local_change(copy.deepcopy(model).to(dtype), copy.deepcopy(model).to(dtype), inputs)
    assert (changed.displacement == 0).all()
    mixed = local_change(model.double(), lambda x: model(x).float(), inputs.double())
    np.testing.assert_allclose(mixed.displacement, 0, atol=1e-5)


def test_a_gap_that_a_narrow_type_cannot_hold_is_infinitely_far_without_a_warning():
    line = nn.Linear(1, 2).half()
    line.load_state_dict({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.tensor([4e4, -4e4])})
    found = radius(nn.Sequential(line), torch.ones(1, 1).half())
    assert (found.radius[0], found.rival[0], found.flat) == (np.inf, 1, 0)


def test_the_margins_of_a_wide_and_a_narrow_classifier_are_taken_in_the_wide_type():
    """float32 holds both logits, and not their difference."""
    wide = nn.Linear(2, 2).double()
    wide.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    x = torch.tensor([[2.0**24, -0.5]], dtype=torch.float64)
    assert local_change(wide, lambda x: wide(x).float(), x).displacement[0] == 0


NET = mlp((3, 4, 3), 0)


def broken(value, sample: int, k: int):
    """Return a classifier whose logits hold *value* for one input of many, wherever the batches begin."""

    def classifier(x):
        z = NET(x)
        hit = (x[:, 0] == sample)[:, None] & (torch.arange(3) == k)
        return torch.where(hit, value, z)

    return classifier


NUMBERED = torch.arange(30.0).repeat(3, 1).T.contiguous()
CASES = [
    (NET, torch.zeros(0, 3), r"Inputs have shape \(0, 3\): give at least one sample, \(N, \.\.\.\)"),
    (NET, torch.zeros(3), r"Inputs have shape \(3,\): give at least one sample"),
    (NET, torch.zeros(2, 3, dtype=torch.int64), "Inputs are Tensor of torch.int64: give a float tensor"),
    (NET, np.zeros((2, 3)), "Inputs are ndarray of float64: give a float tensor"),
    (NET, torch.tensor([[0.0] * 3, [0, torch.nan, torch.inf]]), "hold 2 non-finite values of 6, first at sample 1"),
    (NET, torch.tensor([[0.0] * 3, [0, torch.inf, -torch.inf]]), "hold 2 non-finite values of 6, first at sample 1"),
    (lambda x: x[:, :1], torch.ones(2, 3), "ogits have K = 1 class: a decision boundary needs two"),
    (lambda x: x.sum(1), torch.ones(2, 3), r"ogits have shape \(2,\): give one row a sample"),
    (lambda x: x[:1].expand(5, 3), torch.ones(2, 3), "ogits have 5 rows for 2 inputs: the classifier"),
    (lambda x: x.detach(), torch.ones(2, 3), "ogits have no gradient: the classifier must be differentiable by torch"),
    (lambda x: x.detach().numpy(), torch.ones(2, 3), "ogits have no gradient"),
    (broken(torch.nan, 23, 1), NUMBERED, "ogits hold 1 non-finite values of 30, first at sample 23, class 1: the"),
    (broken(torch.inf, 29, 2), NUMBERED, "ogits hold 1 non-finite values of 30, first at sample 29, class 2"),
    (
        lambda x: (x[:, :3] - 12).abs().sqrt() * torch.tensor([1.0, 2.0, 3.0]), NUMBERED,
        r"ogits: margin gradients hold \d non-finite values of \d0, first at sample 12, rank 0: move or rescale",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("classifier", "inputs", "message"), CASES)
def test_inputs_and_classifiers_are_refused(classifier, inputs, message):
    with pytest.raises(ValueError, match=message):
        radius(classifier, inputs, batch_size=10)
    with pytest.raises(ValueError, match=message):
        local_change(classifier, NET, inputs, batch_size=10)
    with pytest.raises(ValueError, match=message):
        local_change(NET, classifier, inputs, batch_size=10)


def test_classifiers_of_other_classes_are_refused():
    message = r"Reference logits have shape \(2, 3\) and candidate logits \(2, 4\): both must come from the same inputs"
    with pytest.raises(ValueError, match=message):
        local_change(NET, mlp((3, 4), 0), torch.ones(2, 3))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_batch_sizes_are_refused(batch_size):
    message = f"Batch size is {batch_size!r}: give an integer"
    with pytest.raises(ValueError, match=message):
        radius(NET, torch.ones(2, 3), batch_size=batch_size)
    with pytest.raises(ValueError, match=message):
        local_change(NET, NET, torch.ones(2, 3), batch_size=batch_size)
