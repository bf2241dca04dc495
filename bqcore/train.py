"""Training: seeded, the same weights on any number of threads, stopped at the first non-finite loss."""

import math
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from .checks import check_integer


@contextmanager
def one_thread():
    """
    Keep torch and the linear-algebra libraries on one thread inside the block, and restore them after it.

    One thread rounds the same way everywhere, and is faster at this size: two of them wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def fit(
    model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, *, epochs: int, seed: int,
    batch_size: int = 64, learning_rate: float = 1e-3,
) -> nn.Module:  # fmt: skip
    """
    Train *model* in place by Adam on the cross-entropy and return it in eval mode.

    Runs on one thread, see :func:`one_thread`.

    Parameters
    ----------
    model : torch module, inputs (N, ...) -> logits (N, K)
    inputs, classes : tensors, shapes (N, ...) and (N,)
    epochs, seed : int
        The seed orders the batches; the last, smaller batch is used too.
    batch_size : int
    learning_rate : float

    Raises
    ------
    ValueError
        At the first non-finite loss, naming the epoch.
    """
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    generator = torch.Generator().manual_seed(check_integer("Seed", seed, 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    model.train()
    with one_thread():
        for epoch in range(epochs):
            order = torch.randperm(len(inputs), generator=generator)
            for x, y in zip(inputs[order].split(batch_size), classes[order].split(batch_size)):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                if not math.isfinite(loss.item()):
                    raise ValueError(
                        f"The loss is {loss.item()} in epoch {epoch + 1}: lower the learning rate or scale the inputs."
                    )
                loss.backward()
                optimizer.step()
    return model.eval()
