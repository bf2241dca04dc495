"""Data, models and training: what a seed fixes, what is left as found, and every refusal."""

import os
import platform
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
import torch
from torch import nn

from bqcore import _threads
from bqcore._threads import one_thread
from studies.data.splits import digits
from studies.networks import build, mlp
from studies.training import fit, fit_together, stackable


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_digits_are_split_by_the_seed_alone_and_by_class():
    split = digits(3)
    assert split.train_inputs.shape == (1347, 64) and split.test_inputs.shape == (450, 64)
    assert split.train_inputs.dtype == torch.float32 and split.test_classes.dtype == torch.int64
    assert split.train_inputs.min() == 0 and split.train_inputs.max() == 1
    share = torch.bincount(split.test_classes) / torch.bincount(torch.cat([split.train_classes, split.test_classes]))
    assert ((share - 450 / 1797).abs() < 0.005).all()
    assert same(list(split), list(digits(3))) and not torch.equal(split.test_inputs, digits(4).test_inputs)


def test_training_is_fixed_by_its_seeds():
    split = digits(0)
    models = [mlp((64, 16, 10), seed) for seed in (0, 0, 1)]
    assert same(weights(models[0]), weights(models[1])) and not same(weights(models[0]), weights(models[2]))
    assert [type(layer).__name__ for layer in mlp((64, 32, 16, 10), 0)] == [
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    for model, seed in zip(models, (0, 0, 1)):
        assert fit(model, split.train_inputs, split.train_classes, epochs=5, seed=seed) is model and not model.training
    assert same(weights(models[0]), weights(models[1]))
    other_order = fit(mlp((64, 16, 10), 0), split.train_inputs, split.train_classes, epochs=5, seed=1)
    assert not same(weights(models[0]), weights(other_order))


@pytest.mark.parametrize("make", [lambda: mlp((64, 16, 10), 0), lambda: build("cnn", (1, 8, 8), 10, width=4, seed=0)])
def test_steps_are_those_of_torch_s_adam_to_the_last_bit(make):
    x, y, *_ = digits(0)
    x = x[:192].view(-1, 1, 8, 8) if isinstance(make()[0], nn.Conv2d) else x[:192]
    model, order = make().train(), torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    with one_thread():
        for batch in (part for _ in range(4) for part in torch.randperm(192, generator=order).split(64)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[:192][batch]).backward()
            optimizer.step()
    assert same(weights(fit(make(), x, y[:192], epochs=4, seed=5, learning_rate=0.01)), weights(model))


@pytest.mark.parametrize("trial", range(12))
def test_networks_trained_together_get_the_weights_that_each_gets_alone(trial):
    draw = np.random.default_rng(trial)
    count, inputs, width, classes = draw.integers((1, 1, 1, 2), (7, 9, 9, 12))
    batch_size = int(draw.integers(1, 40))
    rows = int(draw.integers(batch_size, 4 * batch_size + 1))  # most often with a smaller last batch
    sizes, seeds = (8 * inputs, 8 * width, classes), draw.choice(1000, count, replace=False).tolist()
    order = torch.Generator().manual_seed(trial)
    x, y = torch.rand(count, rows, sizes[0], generator=order), torch.randint(classes, (count, rows), generator=order)
    how = {"epochs": 3, "batch_size": batch_size, "learning_rate": 0.01}
    models = [mlp(sizes, seed) for seed in seeds]
    assert fit_together(models, x, y, seeds=seeds, **how) == models
    alone = [fit(mlp(sizes, seed), x[i], y[i], seed=seed, **how) for i, seed in enumerate(seeds)]
    for model, other, seed in zip(models, alone, seeds):
        assert same(weights(model), weights(other)) and not model.training
        assert not same(weights(model), weights(mlp(sizes, seed)))


@pytest.mark.parametrize(("width", "rows"), [(64, 1347), (32, 898), (64, 898), (128, 898), (64, 1078)])
def test_steps_together_are_autograd_s_and_adam_s_to_the_last_bit(width, rows):
    """In the sizes of the studies on digits, whose last batches are of 3, 2 and 54 inputs."""
    split = digits(0)
    x, y = torch.cat(split[::2])[:rows], torch.cat(split[1::2])[:rows]
    model, order = mlp((64, width, 10), 1), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    with one_thread():
        for batch in (part for _ in range(2) for part in torch.randperm(rows, generator=order).split(64)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    others = [mlp((64, width, 10), seed) for seed in (0, 1, 2)]
    found = fit_together(others, [x.flip(0), x, x], [y.flip(0), y, y], epochs=2, seeds=[0, 1, 2])
    assert same(weights(found[1]), weights(model))


def test_only_networks_of_one_hidden_layer_are_trained_together():
    others = [mlp((64, 10), 0), mlp((64, 8, 8, 10), 0), mlp((64, 9, 10), 0), mlp((9, 8, 10), 0), nn.Linear(8, 8)]
    assert [stackable(model) for model in others] == 5 * [False]
    assert stackable(build("mlp", (1, 28, 28), 10, width=8, seed=0))
    with pytest.raises(ValueError, match="A model is no ReLU network of one hidden layer with sizes that 8 divides"):
        fit_together([mlp((64, 8, 10), 0), others[2]], [], [], epochs=1, seeds=[0, 1])


def test_training_learns(trained):
    right = trained.model(trained.split.test_inputs).argmax(1) == trained.split.test_classes
    assert right.sum() >= 430  # of 450


def test_global_generators_threads_and_data_are_left_as_found():
    def state():
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        return *generators, torch.get_num_threads()

    before = state()
    split = digits(0)
    inputs = split.train_inputs.clone()
    fit(mlp((64, 8, 10), 0), split.train_inputs, split.train_classes, epochs=1, seed=0)
    assert state() == before
    assert torch.equal(split.train_inputs, inputs)


def test_one_thread_is_undone_after_an_error_too():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_libraries_are_looked_for_again_once_more_modules_are_imported(monkeypatch):
    _threads._libraries.cache_clear()
    for more in ("", "", "one more", "one more", "two more"):
        monkeypatch.setitem(sys.modules, more or "sys", sys)
        with threadpoolctl.threadpool_limits(2), one_thread():
            assert {library["num_threads"] for library in threadpoolctl.threadpool_info()} == {1}
    assert _threads._libraries.cache_info().misses == 3


def test_the_global_generator_does_not_matter():
    first = weights(mlp((5, 4, 3), 7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert same(weights(mlp((5, 4, 3), 7)), first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp((64,), 0), r"Sizes are \(64,\): give at least the inputs and the classes"),
        (lambda: mlp((64, 0, 10), 0), "A layer's size is 0: give an integer of at least 1"),
        (lambda: mlp((64, 2.0, 10), 0), r"A layer's size is 2\.0: give an integer"),
        (lambda: mlp((64, 10), -1), "Seed is -1: give an integer of at least 0"),
        (lambda: digits(True), "Seed is True: give an integer"),
        (lambda: digits(0, 1.5), r"Test share is 1\.5: give a number from 0 to 1"),
    ],
)
def test_models_and_data_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "Epochs is 0: give an integer of at least 1"),
        ({"batch_size": 0}, "Batch size is 0: give an integer of at least 1"),
        ({"seed": 1.0}, r"Seed is 1\.0: give an integer"),
        ({"learning_rate": 1e30}, r"The loss is (nan|inf) in epoch [12]: lower the learning rate or scale the inputs"),
    ],
)
def test_training_is_refused(changed, message):
    split = digits(0)
    options = {"epochs": 2, "seed": 0} | changed
    with pytest.raises(ValueError, match=message):
        fit(mlp((64, 8, 10), 0), split.train_inputs, split.train_classes, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [("mlp", (1, 28, 28), 101_770), ("cnn", (1, 28, 28), 105_866), ("cnn", (3, 32, 32), 136_874), ("resnet", (3, 32, 32), 78_042)],
)  # fmt: skip
def test_models_have_their_size_and_learn_by_their_seed(name, shape, parameters):
    width = 128 if name == "mlp" else 16
    models = [build(name, shape, 10, width=width, seed=seed) for seed in (0, 0, 1)]
    assert sum(p.numel() for p in models[0].parameters()) == parameters
    assert same(weights(models[0]), weights(models[1])) and not same(weights(models[0]), weights(models[2]))
    y = torch.arange(40) % 10
    x = 0.3 * torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)) + y.view(-1, 1, 1, 1) / 10  # brighter
    losses = [nn.functional.cross_entropy(model.eval()(x), y).item() for model in models]
    for model in models[:2]:
        fit(model, x, y, epochs=30, seed=0, batch_size=20)
    assert same(weights(models[0]), weights(models[1]))
    assert nn.functional.cross_entropy(models[0](x), y).item() < losses[0]
    assert models[0](x).shape == (40, 10) and not models[0].training


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the settings are those of x86 processors")
def test_what_make_calls_another_processor_is_one_to_the_libraries():
    """A library is silent about a setting that it does not know, as NumPy is about "AVX2" since it counts by groups."""
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^ELSEWHERE = ((?:.*\\\n)*.*)", makefile, flags=re.MULTILINE)
    settings = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', lines)}
    code = (
        "import numpy, scipy.linalg, threadpoolctl, torch\n"
        "print(numpy.show_config('dicts')['SIMD Extensions'].get('found'), torch.backends.cpu.get_cpu_capability(),"
        " *(i['architecture'] for i in threadpoolctl.threadpool_info() if i['internal_api'] == 'openblas'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None DEFAULT Nehalem Nehalem\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg"}, r"Model is 'vgg': choose one of 'mlp', 'cnn', 'resnet', 'strided-resnet'\."),
        ({"name": "cnn", "shape": (64,)}, r"Inputs have shape \(64,\): a cnn takes \(channels, rows, columns\)\."),
        ({"width": 0}, r"Width is 0: give an integer of at least 1\."),
        ({"classes": 1}, r"Classes is 1: give an integer of at least 2\."),
    ],
)
def test_models_that_cannot_be_built_are_refused(options, message):
    options = {"name": "mlp", "shape": (64,), "classes": 10, "width": 8, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        build(**options)
