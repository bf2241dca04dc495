"""Loaders that shuffle are refused where samples are listed; another order than that of the rows is noted."""

import numpy as np
import pytest
import torch
from torch.utils import data

import bqcore
from tests.helpers.audits import GOOD, X

PLAIN = {"nodes": 0, "gradient_samples": 0, "check_order": False}
ROUGH = lambda x: GOOD(x).round()  # noqa: E731
SET = data.TensorDataset(torch.from_numpy(X), torch.from_numpy(GOOD(X).argmax(1)))
FLIPPED = np.flatnonzero(GOOD(X).argmax(1) != ROUGH(X).argmax(1))


def of_tensors(x):
    return GOOD(x.numpy())


def rough_of_tensors(x):
    return ROUGH(x.numpy())


class Grouped(data.Sampler):
    """A sampler of one's own that keeps an order, which is not that of the rows."""

    def __iter__(self):
        return iter(range(199, -1, -1))

    def __len__(self):
        return 200


class ShuffledByLength(Grouped):
    """One whose name says what it does."""


SHUFFLING = {
    "shuffle": data.DataLoader(SET, 64, shuffle=True),
    "a sampler": data.DataLoader(SET, 64, sampler=data.RandomSampler(SET)),
    "with replacement": data.DataLoader(SET, 64, sampler=data.WeightedRandomSampler([1.0] * 200, 200)),
    "a random part": data.DataLoader(SET, 64, sampler=data.SubsetRandomSampler(range(100))),
    "batches": data.DataLoader(SET, batch_sampler=data.BatchSampler(data.RandomSampler(SET), 64, False)),
    "one by one": data.DataLoader(SET, batch_size=None, shuffle=True),
    "distributed": data.DataLoader(SET, 64, sampler=data.DistributedSampler(SET, 2, 0, shuffle=True)),
    "by name": data.DataLoader(SET, 64, sampler=ShuffledByLength()),
    "under way": iter(data.DataLoader(SET, 64, shuffle=True)),
    "a function": lambda: data.DataLoader(SET, 64, shuffle=True),
}


@pytest.mark.parametrize("name", SHUFFLING)
def test_a_loader_that_shuffles_is_refused_where_samples_are_listed(name):
    says = r"^Held-out split comes from a loader that shuffles \(\w+\): .* give one with shuffle=False\.$"
    with pytest.raises(ValueError, match=says):
        bqcore.audit(of_tensors, rough_of_tensors, None, SHUFFLING[name], **PLAIN)


def test_a_loader_that_keeps_its_order_gives_rows_and_a_calibration_split_may_be_shuffled():
    loader = data.DataLoader(SET, 64)
    for held in (
        loader,
        iter(loader),
        data.DataLoader(SET, batch_sampler=data.BatchSampler(data.SequentialSampler(SET), 9, False)),
    ):
        found = bqcore.audit(of_tensors, rough_of_tensors, SHUFFLING["shuffle"], held, **PLAIN)
        assert found.dataset.flipped_sample.sortby(found.dataset.flipped_sample).values.tolist() == FLIPPED.tolist()
        assert not any("sampler" in note for note in found.notes)


@pytest.mark.parametrize(
    "sampler", [Grouped(), data.DistributedSampler(SET, 2, 0, shuffle=False), list(range(50, 150))]
)
def test_another_order_than_that_of_the_rows_is_noted(sampler):
    found = bqcore.audit(of_tensors, rough_of_tensors, None, data.DataLoader(SET, 64, sampler=sampler), **PLAIN)
    says = (
        f"Held-out samples are listed by their place in the loader, which {type(sampler).__name__} orders: give ids for"
    )
    assert any(note.startswith(says) for note in found.notes)
