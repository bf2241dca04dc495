"""Data, models and training beside second ways of making them; test_train.py has what a seed fixes and the refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from studies import networks, training
from studies.data import archives, splits


def weights(model: torch.nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_digits_are_split_into_every_image_once_with_its_class(seed):
    split = splits.digits(seed)
    inputs, classes = (
        torch.cat([split.train_inputs, split.test_inputs]),
        torch.cat([split.train_classes, split.test_classes]),
    )
    pixels, targets = load_digits(return_X_y=True)
    ours = sorted(map(tuple, np.c_[inputs.numpy() * 16, classes.numpy()]))
    assert ours == sorted(map(tuple, np.c_[pixels, targets]))
    shares = [np.bincount(part, minlength=10) / len(part) for part in (split.train_classes, split.test_classes)]
    assert abs(shares[0] - shares[1]).max() < 1 / 450  # stratified: less than one image apart
    assert len(splits.digits(seed, test_share=0.5).test_inputs) == 899


def parts(split: splits.StoppingSplit) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training, calibration and held-out inputs, each with their classes."""
    arrays = [part.numpy() for part in split]
    return list(zip(arrays[::2], arrays[1::2]))


def assert_stratified(classes: np.ndarray, of: np.ndarray):
    """Each class has its share of a draw, to less than one input either way."""
    wanted = np.bincount(of, minlength=10) * len(classes) / len(of)
    assert abs(np.bincount(classes, minlength=10) - wanted).max() < 1


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_digits_are_cut_in_three_and_what_is_held_out_is_the_test_split_of_the_same_seed(seed):
    pixels, targets = load_digits(return_X_y=True)
    found = parts(splits.stopping_split("digits", seed))
    assert [len(classes) for _, classes in found] == [898, 449, 450]
    ours = sorted(tuple(row) for inputs, classes in found for row in np.c_[inputs * 16, classes])
    assert ours == sorted(map(tuple, np.c_[pixels, targets]))
    plain = splits.digits(seed)
    assert np.array_equal(found[2][0], plain.test_inputs) and np.array_equal(found[2][1], plain.test_classes)
    rest = np.concatenate([found[0][1], found[1][1]])
    assert_stratified(found[2][1], targets)
    assert_stratified(found[1][1], rest)


def numbered(train: int, test: int, channels: int, seed: int) -> archives.Archive:
    """Return an archive whose images carry their own number, the test ones' being those after the training ones'."""
    generator = np.random.default_rng(seed)
    shape = (32, 32, 3) if channels == 3 else (28, 28)
    images = np.zeros((train + test, *shape), np.uint8)
    flat = images.reshape(train + test, -1)
    flat[:, 0], flat[:, 1] = np.arange(train + test) // 256, np.arange(train + test) % 256
    flat[:, -1] = 255
    classes = np.concatenate([generator.permutation(np.arange(n) % 10) for n in (train, test)]).astype(np.uint8)
    return archives.Archive(images[:train], classes[:train], images[train:], classes[train:])


def numbers(inputs: np.ndarray) -> np.ndarray:
    """Read the images' numbers back."""
    rows = np.moveaxis(inputs, 1, -1).reshape(len(inputs), -1).astype(float) * 255
    return np.rint(rows[:, 0] * 256 + rows[:, 1]).astype(int)


@settings(max_examples=40)
@given(
    name=st.sampled_from(archives.NAMES), seed=st.integers(0, 2**32 - 1), train=st.integers(10, 180),
    calibration=st.integers(10, 120), held_out=st.one_of(st.just(90), st.integers(10, 80)),
)  # fmt: skip
def test_official_sets_are_split_into_disjoint_stratified_parts_of_the_right_origin(
    name, seed, train, calibration, held_out
):
    archive = numbered(300, 90, 3 if name == "cifar-10" else 1, seed)
    sizes = {"train": train, "calibration": calibration, "held_out": held_out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "load", lambda asked: {name: archive}[asked])
        split = splits.stopping_split(name, seed, **sizes)
        again = splits.stopping_split(name, seed, **sizes)
        other = splits.stopping_split(name, seed ^ 1, **sizes)
    assert all(torch.equal(a, b) for a, b in zip(split, again))
    found = parts(split)
    drawn = [numbers(inputs) for inputs, _ in found]
    assert [len(set(part)) for part in drawn] == list(sizes.values())
    assert len(set(np.concatenate(drawn))) == sum(sizes.values())
    assert max(*drawn[0], *drawn[1]) < 300 <= min(drawn[2])
    assert not np.array_equal(drawn[0], numbers(other.train_inputs.numpy()))
    if held_out == 90:
        assert drawn[2].tolist() == list(range(300, 390))
    every = np.concatenate([archive.train_classes, archive.test_classes])
    for (inputs, classes), part, origin in zip(found, drawn, (archive.train_classes,) * 2 + (archive.test_classes,)):
        assert inputs.dtype == np.float32 and classes.dtype == np.int64 and inputs.flags.c_contiguous
        assert inputs.shape[1:] == ((3, 32, 32) if name == "cifar-10" else (1, 28, 28))
        assert inputs[:, -1, -1, -1].tolist() == [1.0] * len(inputs) and inputs.min() == 0
        assert np.array_equal(classes, every[part])
        assert_stratified(classes, origin)


@pytest.mark.slow
@pytest.mark.parametrize("name, sizes, shape", [
    ("mnist", {}, (1, 28, 28)), ("fashion-mnist", {}, (1, 28, 28)), ("cifar-10", {}, (3, 32, 32)),
    ("cifar-10", {"train": 45_000, "calibration": 5_000, "held_out": 10_000}, (3, 32, 32)),
])  # fmt: skip
def test_official_sets_have_the_sizes_of_the_baseline(name, sizes, shape):
    try:
        archive = archives.load(name)
    except FileNotFoundError as error:
        pytest.skip(f"the official {name} was NOT tested: {error}")
    found = parts(splits.stopping_split(name, 0, **sizes))
    assert tuple(len(classes) for _, classes in found) == (tuple(sizes.values()) or splits.SIZES[name])
    for (inputs, classes), origin in zip(found, (archive.train_classes,) * 2 + (archive.test_classes,)):
        assert inputs.shape[1:] == shape and inputs.min() == 0 and inputs.max() == 1
        assert_stratified(classes, origin)
    if len(found[2][1]) == 10_000:
        assert np.array_equal(found[2][1], archive.test_classes)
        last = np.rint(np.moveaxis(found[2][0][-1], 0, -1) * 255).squeeze()
        assert np.array_equal(last, archive.test_images[-1])


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(10, 180))
def test_the_full_cifar_has_mean_0_and_deviation_1_by_channel_over_its_training_inputs(seed, train):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, rng.integers(2, 257, 3), (300, 32, 32, 3), dtype=np.int64).astype(np.uint8)
    classes = np.repeat(np.arange(10, dtype=np.uint8), 30)
    archive = archives.Archive(images, classes, images[:90], classes[::4][:75].repeat(2)[:90])
    sizes = {"train": train, "calibration": 20, "held_out": 90}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "load", lambda asked: {"cifar-10": archive}[asked])
        full, plain = (splits.stopping_split(name, seed, **sizes) for name in ("full-cifar-10", "cifar-10"))
    pixels = plain.train_inputs.double()
    mean, deviation = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), correction=0, keepdim=True)
    for ours, theirs in zip(full[::2], plain[::2]):
        # float32 keeps seven digits, of values up to a few deviations
        assert torch.allclose(ours.double(), (theirs.double() - mean) / deviation, rtol=0, atol=1e-5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(full[1::2], plain[1::2]))


@pytest.mark.parametrize(
    "arguments, sizes, says",
    [
        (("imagenet", 0), {}, "Data set is 'imagenet': choose one of 'digits', 'mnist', 'fashion-mnist', 'cifar-10', 'full-cifar-10'."),
        (("digits", -1), {}, "Seed is -1: give an integer from 0 to 4294967295."),
        (("digits", 0), {"train": 9}, "Training inputs is 9: give an integer of at least 10."),
        (("digits", 0), {"calibration": 1.5}, "Calibration inputs is 1.5: give an integer."),
        (("digits", 0), {"held_out": True}, "Held-out inputs is True: give an integer."),
        (("digits", 0), {"train": 1000},
         "1000 training and 449 calibration inputs are asked of the 1347 that digits has for them: ask for fewer."),
        (("digits", 0), {"held_out": 1790},
         "898 training and 449 calibration inputs are asked of the 7 that digits has for them: ask for fewer."),
        (("digits", 0), {"held_out": 1800},
         "898 training and 449 calibration inputs are asked of the 0 that digits has for them: ask for fewer."),
        (("mnist", 0), {"train": 200, "calibration": 101, "held_out": 10},
         "200 training and 101 calibration inputs are asked of the 300 that mnist has for them: ask for fewer."),
        (("mnist", 0), {"train": 200, "calibration": 100, "held_out": 91},
         "91 held-out inputs are asked of the 90 official test images of mnist: ask for all of them, or for 80 at most."),
        (("mnist", 0), {"train": 200, "calibration": 100, "held_out": 81},
         "81 held-out inputs are asked of the 90 official test images of mnist: ask for all of them, or for 80 at most."),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_made_is_refused(monkeypatch, arguments, sizes, says):
    monkeypatch.setattr(archives, "load", lambda name: numbered(300, 90, 1, 0))
    with pytest.raises(ValueError) as caught:
        splits.stopping_split(*arguments, **sizes)
    assert str(caught.value) == says


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(0, 2**32 - 1))
def test_mlp_has_the_sizes_asked_for_and_torch_s_initial_weights(sizes, seed):
    model = networks.mlp(tuple(sizes), seed)
    assert [type(layer) for layer in model] == ([torch.nn.Linear, torch.nn.ReLU] * (len(sizes) - 1))[:-1]
    assert [tuple(layer.weight.shape) for layer in model[::2]] == list(zip(sizes[1:], sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = torch.nn.Linear(*sizes[:2])
    assert torch.equal(model[0].weight, first.weight) and torch.equal(model[0].bias, first.bias)


def test_training_gives_the_same_weights_on_one_and_two_threads_and_restores_them():
    split, threads, found = splits.digits(0), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            model = networks.mlp((64, 64, 10), 0)
            found.append(weights(training.fit(model, split.train_inputs, split.train_classes, epochs=3, seed=0)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_training_is_adam_on_the_mean_cross_entropy_over_every_sample():
    split = splits.digits(0)
    x, y = split.train_inputs[:100], split.train_classes[:100]
    ours = training.fit(networks.mlp((64, 8, 10), 0), x, y, epochs=2, seed=7)
    model = networks.mlp((64, 8, 10), 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        order = torch.randperm(100, generator=generator)
        for batch in (order[:64], order[64:]):  # the last, smaller batch too
            loss = -torch.log_softmax(model(x[batch]), 1)[torch.arange(len(batch)), y[batch]].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(weights(ours), weights(model), atol=1e-6)  # one step moves a weight by up to 1e-3
