"""Data, models and training beside second ways of making them; test_train.py has what a seed fixes and the refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from bqcore import data, models, train


def weights(model: torch.nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_digits_are_split_into_every_image_once_with_its_class(seed):
    split = data.digits(seed)
    inputs, classes = (
        torch.cat([split.train_inputs, split.test_inputs]),
        torch.cat([split.train_classes, split.test_classes]),
    )
    pixels, targets = load_digits(return_X_y=True)
    ours = sorted(map(tuple, np.c_[inputs.numpy() * 16, classes.numpy()]))
    assert ours == sorted(map(tuple, np.c_[pixels, targets]))
    shares = [np.bincount(part, minlength=10) / len(part) for part in (split.train_classes, split.test_classes)]
    assert abs(shares[0] - shares[1]).max() < 1 / 450  # stratified: less than one image apart
    assert len(data.digits(seed, test_share=0.5).test_inputs) == 899


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(0, 2**32 - 1))
def test_mlp_has_the_sizes_asked_for_and_torch_s_initial_weights(sizes, seed):
    model = models.mlp(tuple(sizes), seed)
    assert [type(layer) for layer in model] == ([torch.nn.Linear, torch.nn.ReLU] * (len(sizes) - 1))[:-1]
    assert [tuple(layer.weight.shape) for layer in model[::2]] == list(zip(sizes[1:], sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = torch.nn.Linear(*sizes[:2])
    assert torch.equal(model[0].weight, first.weight) and torch.equal(model[0].bias, first.bias)


def test_training_gives_the_same_weights_on_one_and_two_threads_and_restores_them():
    split, threads, found = data.digits(0), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            model = models.mlp((64, 64, 10), 0)
            found.append(weights(train.fit(model, split.train_inputs, split.train_classes, epochs=3, seed=0)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_training_is_adam_on_the_mean_cross_entropy_over_every_sample():
    split = data.digits(0)
    x, y = split.train_inputs[:100], split.train_classes[:100]
    ours = train.fit(models.mlp((64, 8, 10), 0), x, y, epochs=2, seed=7)
    model = models.mlp((64, 8, 10), 0)
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
