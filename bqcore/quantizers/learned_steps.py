"""Learned step sizes with rounding to nearest (LSQ, Esser et al. 2020)."""

import torch
from torch import nn

from .._checks import check_integer
from .._threads import one_thread
from ._gates import check_inputs, check_loss, check_number, step_grids, with_weights
from .objectives import PLAIN, Task
from .uniform import level_range


def learn_steps(
    model: nn.Module, inputs: torch.Tensor, bits: int, *, seed: int, scheme: str = "narrow", steps: int = 500,
    batch_size: int = 32, learning_rate: float = 0.003,
) -> tuple[nn.Module, dict[str, float]]:  # fmt: skip
    """
    Copy *model* with its weights rounded to nearest on learned steps, one a layer, which are returned beside it.

    Steps are learned against the float logits, by Adam on their logarithms; other arguments are those of
    :func:`bqcore.quantizers.objectives.learn`. The gradient passes through the rounding as if it were not there (LSQ);
    weights stay as they are. The error jumps wherever a weight changes its grid point, so that the last step need not
    be a good one: taken are the steps of the lowest squared logit error among PTQ-W's and those after each pass over
    the inputs.
    """
    steps, batch_size = check_integer("Steps", steps, 1), check_integer("Batch size", batch_size, 1)
    inputs = check_inputs(inputs, batch_size)
    learning_rate = check_number("Learning rate", learning_rate, zero=False)
    seed = check_integer("Seed", seed, 0)
    ends = level_range(bits, scheme)
    with one_thread():
        reference, grids = step_grids(model, inputs, bits, scheme)
        task = Task(reference, inputs, PLAIN, 0.0, 1.0, batch_size, seed)
        kept = {name: reference.get_submodule(name).weight for name in grids}
        logs = {name: grid.step.log().clone().requires_grad_() for name, grid in grids.items()}

        def rounded(sizes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: _through(kept[name], size, *ends) for name, size in sizes.items()}

        best = {name: grid.step for name, grid in grids.items()}
        least = task.loss(rounded(best))
        optimizer = torch.optim.Adam(logs.values(), lr=learning_rate)
        for step in range(steps):
            loss = task.batch_loss(rounded({name: log.exp() for name, log in logs.items()}))
            check_loss(loss.item(), step, "the step sizes")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % (len(inputs) // batch_size) == 0 or step + 1 == steps:
                sizes = {name: log.detach().exp() for name, log in logs.items()}
                if (now := task.loss(rounded(sizes))) < least:
                    best, least = sizes, now
    return with_weights(model, rounded(best)), {name: float(size) for name, size in best.items()}


def _through(weight: torch.Tensor, size: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Round *weight* to nearest on a grid, with LSQ's gradient for its step."""
    x = (weight / size).clamp(low, high)
    codes = x.detach().round() + 0.0
    return (codes + (x - x.detach())) * size  # the bracket is exactly 0: no value leaves the grid
