"""Training: seeded, the same weights on any number of threads, stopped at the first non-finite loss."""

import json
import math
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from threadpoolctl import threadpool_limits
from torch import nn
from tqdm import tqdm

from .checks import check_integer
from .results import save_bytes


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
    batch_size: int = 64, learning_rate: float = 1e-3, progress: str = "",
) -> nn.Module:  # fmt: skip
    """
    Train *model* in place by Adam on the cross-entropy and return it on the CPU, in eval mode.

    Runs on a GPU if there is one and the model has convolutions; otherwise on one thread, see :func:`one_thread`. The
    same seed gives the same weights on one kind of machine.

    Parameters
    ----------
    model : torch module, inputs (N, ...) -> logits (N, K)
    inputs, classes : tensors, shapes (N, ...) and (N,)
    epochs, seed : int
        The seed orders the batches; the last, smaller batch is used too.
    batch_size : int
    learning_rate : float
    progress : str
        What a bar with the time left is named; none if empty.

    Raises
    ------
    ValueError
        At the first non-finite loss, naming the epoch.
    """
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    generator = torch.Generator().manual_seed(check_integer("Seed", seed, 0))
    device = "cuda" if torch.cuda.is_available() and any(isinstance(m, nn.Conv2d) for m in model.modules()) else "cpu"
    model, inputs, classes = model.to(device), inputs.to(device), classes.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    model.train()
    with one_thread(), tqdm(total=epochs, desc=progress, unit="epoch", disable=not progress) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(device)
            for x, y in zip(inputs[order].split(batch_size), classes[order].split(batch_size)):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                if not math.isfinite(loss.item()):
                    raise ValueError(
                        f"The loss is {loss.item()} in epoch {epoch + 1}: lower the learning rate or scale the inputs."
                    )
                loss.backward()
                optimizer.step()
            bar.update()
    return model.eval().cpu()


def save_checkpoint(model: nn.Module, path: str | Path, training: dict) -> None:
    """
    Write a model's parameters and buffers as safetensors, with what it was trained by in the metadata.

    Parameters
    ----------
    model : torch module
    path : file
    training : dict
        Whatever the weights depend on, in JSON's types.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_bytes(save(tensors, {"training": json.dumps(training, sort_keys=True)}), path)


def load_checkpoint(model: nn.Module, path: str | Path, training: dict | None = None) -> nn.Module:
    """
    Load what :func:`save_checkpoint` wrote into *model* and return it in eval mode.

    Parameters
    ----------
    model : torch module of the same architecture
    path : file
    training : dict, optional
        What the checkpoint must have been trained by; any, if not given.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is no whole safetensors file, was trained otherwise, or does not fit the model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}: run the study that trains it.")
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads((file.metadata() or {}).get("training", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): delete it and run again.") from None
    if training is not None and stated != json.loads(json.dumps(training)):
        raise ValueError(f"{path} was trained by {stated}, not by {training}: delete it and run again.")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {' '.join(str(error).split())}.") from None
    return model.eval()
