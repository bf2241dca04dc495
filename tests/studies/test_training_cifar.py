"""The trainer of the full CIFAR-10 on tiny images: it learns, obeys its seed, leaves things as found, and refuses."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from studies import networks
from studies.training import augmented, fit_cifar, memory_layout

QUICK = {"epochs": 2, "seed": 0, "batch_size": 16, "threads": 1}


def stripes(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy images whose rows (class 0) or columns (class 1) alternate: shifts and mirrors keep the class."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count,), generator=generator)
    wave = torch.tensor([1.0, -1.0]).repeat(4)
    images = torch.where(classes[:, None, None] == 0, wave[:, None].expand(8, 8), wave.expand(8, 8))
    return images[:, None] + 0.5 * torch.randn(count, 1, 8, 8, generator=generator), classes


def resnet(seed: int = 0) -> nn.Module:
    return networks.build("resnet", (1, 8, 8), 2, width=4, seed=seed)


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_learns():
    inputs, classes = stripes(256)
    model = resnet()
    options = QUICK | {"epochs": 4, "learning_rate": 0.1}
    assert fit_cifar(model, inputs, classes, **options) is model and not model.training
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
    held_out, truth = stripes(256, 1)
    with torch.no_grad():
        assert (model(held_out).argmax(1) == truth).float().mean() > 0.95


def test_training_is_fixed_by_its_seed_and_leaves_the_rest_as_found():
    inputs, classes = stripes(64)
    kept, threads, generator = inputs.clone(), torch.get_num_threads(), torch.get_rng_state()
    trained = [fit_cifar(resnet(), inputs, classes, **QUICK | {"seed": seed}) for seed in (3, 3, 4)]
    assert same_bits(trained[0], trained[1]) and not same_bits(trained[0], trained[2])
    assert torch.equal(inputs, kept) and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_learning_rate_goes_up_and_down_once_and_the_decay_spares_biases_and_norms(monkeypatch):
    rates, decays, step = [], [], torch.optim.SGD.step

    def watched(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        decays.append([(group["weight_decay"], {p.ndim > 1 for p in group["params"]}) for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    fit_cifar(resnet(), *stripes(39), **QUICK | {"epochs": 4, "batch_size": 13, "rise": 0.25, "learning_rate": 0.12})
    expected = [0.04, 0.08, 0.12, *(0.12 * left / 9 for left in range(8, -1, -1))]
    assert rates == [[pytest.approx(rate)] * 2 for rate in expected]
    assert decays[0] == [(5e-4, {True}), (0, {False})]


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
@settings(max_examples=50)
def test_each_image_is_a_shifted_and_perhaps_mirrored_one(seed, shift, flip):
    images = torch.randn(6, 2, 5, 4, generator=torch.Generator().manual_seed(seed))
    out = augmented(images, shift=shift, flip=flip, generator=torch.Generator().manual_seed(seed))
    assert out.shape == images.shape
    padded = nn.functional.pad(images, (shift,) * 4)
    for image, source in zip(out, padded):
        views = [source[:, i : i + 5, j : j + 4] for i in range(2 * shift + 1) for j in range(2 * shift + 1)]
        views += [view.flip(2) for view in views] if flip else []
        assert any(torch.equal(image, view) for view in views)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
@settings(max_examples=50)
def test_each_crop_is_a_part_of_its_image_and_perhaps_mirrored(seed, side, flip):
    images = torch.randn(6, 2, 5, 4, generator=torch.Generator().manual_seed(seed))
    out = augmented(images, shift=9, flip=flip, crop=side, generator=torch.Generator().manual_seed(seed))
    rows, columns = min(side, 5), min(side, 4)
    assert out.shape == (6, 2, rows, columns)
    for part, image in zip(out, images):
        views = [image[:, i : i + rows, j : j + columns] for i in range(6 - rows) for j in range(5 - columns)]
        views += [view.flip(2) for view in views] if flip else []
        assert any(torch.equal(part, view) for view in views)


def test_crops_come_from_every_place_in_the_first_epochs_only():
    ramp = torch.arange(7.0).expand(5000, 1, 3, 7)
    out = augmented(ramp, shift=0, flip=False, crop=3, generator=torch.Generator().manual_seed(0))[:, 0, 1, 0]
    counts = np.bincount(out.long().numpy())
    assert len(counts) == 5 and (abs(counts - 1000) < 115).all()  # four standard deviations
    sizes = []

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = resnet()

        def forward(self, x):
            sizes.append(tuple(x.shape[2:]))
            return self.inside(x)

    fit_cifar(Seen(), *stripes(32), **QUICK | {"epochs": 5, "batch_size": 32, "crop": 6, "crop_share": 0.55})
    assert sizes == [(6, 6)] * 3 + [(8, 8)] * 2


def test_shifts_and_mirrors_are_drawn_evenly():
    ramp = torch.arange(7.0).expand(9000, 1, 3, 7)
    out = augmented(ramp, shift=1, flip=True, generator=torch.Generator().manual_seed(0))[:, 0, 1]
    kinds, counts = np.unique(out.numpy(), axis=0, return_counts=True)
    assert len(kinds) == 6 and (abs(counts - 1500) < 150).all()  # four standard deviations
    assert torch.equal(augmented(ramp, shift=0, flip=False, generator=torch.Generator()), ramp)


def test_memory_is_channels_last_only_where_torch_does_not_write_past_it():
    assert memory_layout(networks.build("resnet", (3, 8, 8), 2, width=8, seed=0)) == torch.channels_last
    assert memory_layout(networks.build("resnet", (3, 8, 8), 2, width=7, seed=0)) == torch.contiguous_format
    assert memory_layout(networks.build("cnn", (1, 8, 8), 2, width=1, seed=0)) == torch.channels_last


def test_progress_is_shown_if_it_has_a_name(capsys):
    fit_cifar(resnet(), *stripes(32), **QUICK)
    assert capsys.readouterr().err == ""
    fit_cifar(resnet(), *stripes(32), **QUICK, progress="resnet")
    assert "resnet: 100%" in (err := capsys.readouterr().err) and "4/4" in err


IMAGES, CLASSES = stripes(32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "Epochs is 0: give an integer of at least 1"),
        ({"batch_size": 0}, "Batch size is 0: give an integer of at least 1"),
        ({"batch_size": 33}, "There are 32 inputs, fewer than a batch of 33: give a smaller batch"),
        ({"seed": 1.0}, r"Seed is 1\.0: give an integer"),
        ({"shift": -1}, "Shift is -1: give an integer of at least 0"),
        ({"threads": 0}, "Threads is 0: give an integer of at least 1"),
        ({"crop": 0}, "Crop is 0: give an integer of at least 1"),
        ({"crop_share": 2}, "Crop share is 2: give a number from 0 to 1"),
        ({"rise": 1.5}, r"Rise is 1\.5: give a number from 0 to 1"),
        ({"label_smoothing": -0.1}, r"Label smoothing is -0\.1: give a number from 0 to 1"),
        ({"inputs": IMAGES[0]}, r"Inputs are torch\.float32 of shape \(1, 8, 8\): give floats, \(N, channels, rows, columns\)"),
        ({"inputs": IMAGES.long()}, r"Inputs are torch\.int64 of shape \(32, 1, 8, 8\): give floats"),
        ({"classes": CLASSES.float()}, r"Classes are of type float32: give class indices as integers"),
        ({"classes": CLASSES[1:]}, "There are 32 inputs and 31 classes: give one class an input"),
        ({"learning_rate": 1e30}, r"The loss is (nan|inf) in epoch 1, batch 2: lower the learning rate or scale the inputs"),
        ({"inputs": IMAGES * torch.nan}, "The loss is nan in epoch 1, batch 1: lower the learning rate or scale the inputs"),
    ],
)  # fmt: skip
def test_training_is_refused(changed, message):
    arguments = {"inputs": IMAGES, "classes": CLASSES, **QUICK} | changed
    model = resnet()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        fit_cifar(model, **arguments)
    assert "learning_rate" in changed or all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters()))
