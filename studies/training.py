"""Training on the full CIFAR-10: SGD with Nesterov momentum, one cycle of the learning rate, crops and flips."""

import json
import math
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from threadpoolctl import threadpool_limits
from torch import nn
from torch.optim.adam import adam
from tqdm import tqdm

from bqcore._checks import check_integer, check_labels, check_share
from bqcore._store import save_bytes
from bqcore._threads import one_thread

THREADS = 2  # of the baseline machine; sums are split among them, so another number rounds otherwise


def fit_cifar(
    model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, *, epochs: int, seed: int, batch_size: int = 128,
    learning_rate: float = 0.3, momentum: float = 0.9, weight_decay: float = 5e-4, rise: float = 0.2,
    label_smoothing: float = 0.0, shift: int = 2, flip: bool = True, crop: int = 24, crop_share: float = 0.55,
    threads: int = THREADS, progress: str = "",
) -> nn.Module:  # fmt: skip
    """
    Train an image classifier in place and return it on the CPU, in eval mode.

    Stochastic gradient descent with Nesterov momentum on the cross-entropy, the learning rate going up in a straight
    line for a share *rise* of the steps and down to zero in another. The first epochs, a *crop_share* of them, see
    random crops of *crop* pixels a side, at a bit more than half the cost for 24 of 32; later every image is shifted by
    up to *shift* pixels, with zeros moving in. Half of the images are mirrored. Inputs (N, channels, rows, columns) are
    of mean 0 and deviation 1 by channel, or near that. Weight decay spares biases and batch norms; a last batch smaller
    than the others is left out. The same seed and number of threads give the same weights on one kind of machine. A bar
    named *progress* is shown; none if it is empty.
    """
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    seed, shift = check_integer("Seed", seed, 0), check_integer("Shift", shift, 0)
    threads, rise = check_integer("Threads", threads, 1), check_share("Rise", rise)
    crop, crop_share = check_integer("Crop", crop, 1), check_share("Crop share", crop_share)
    label_smoothing = check_share("Label smoothing", label_smoothing)
    check_labels(classes, "Classes")
    _check_images(inputs, classes, batch_size)
    generator = torch.Generator().manual_seed(seed)
    layout = memory_layout(model)
    model = model.to(memory_format=layout).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": spared}],
        lr=learning_rate, momentum=momentum, nesterov=momentum > 0,
    )  # fmt: skip
    batches = len(inputs) // batch_size
    lead = max(1.0, rise * epochs * batches)
    with _on_threads(threads), tqdm(total=epochs * batches, desc=progress, unit="batch", disable=not progress) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(inputs), generator=generator)[: batches * batch_size]
            for i, rows in enumerate(order.split(batch_size)):
                done = epoch * batches + i + 1
                fall = (epochs * batches - done) / max(1.0, epochs * batches - lead)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min(done / lead, fall)
                side = crop if epoch < round(crop_share * epochs) else None
                x = augmented(inputs[rows], shift=shift, flip=flip, crop=side, generator=generator)
                z = model(x.to(memory_format=layout))
                loss = nn.functional.cross_entropy(z, classes[rows], label_smoothing=label_smoothing)
                _check_loss(loss.item(), f"epoch {epoch + 1}, batch {i + 1}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.update()
    return model.to(memory_format=torch.contiguous_format).eval()


def augmented(
    images: torch.Tensor, *, shift: int, flip: bool, generator: torch.Generator, crop: int | None = None
) -> torch.Tensor:
    """
    Shift each image by up to *shift* pixels in both directions, zeros moving in, and mirror it at a chance of one half.

    Or cut a square of *crop* pixels a side from a random place of each image (N, channels, rows, columns) instead, or
    as many as it has. The images given are left as they are.
    """
    count, _, rows, columns = images.shape
    if crop is None:
        images, room = nn.functional.pad(images, (shift,) * 4), (2 * shift, 2 * shift)
    else:
        room = max(0, rows - crop), max(0, columns - crop)
        rows, columns = rows - room[0], columns - room[1]
    down, right = (torch.randint(most + 1, (count, 1), generator=generator) for most in room)
    across = right + torch.arange(columns)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        across = torch.where(mirrored, across.flip(1), across)
    at = torch.arange(count)[:, None, None], (down + torch.arange(rows))[:, :, None], across[:, None, :]
    return images.permute(0, 2, 3, 1)[at].permute(0, 3, 1, 2)


def _check_images(inputs: torch.Tensor, classes: torch.Tensor, batch_size: int) -> None:
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise ValueError(
            f"Inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give floats, (N, channels, rows, columns)."
        )
    if len(inputs) != len(classes):
        raise ValueError(f"There are {len(inputs)} inputs and {len(classes)} classes: give one class an input.")
    if len(inputs) < batch_size:
        raise ValueError(f"There are {len(inputs)} inputs, fewer than a batch of {batch_size}: give a smaller batch.")


def _check_loss(loss: float, place: str) -> None:
    if not math.isfinite(loss):
        raise ValueError(f"The loss is {loss} in {place}: lower the learning rate or scale the inputs.")


def memory_layout(model: nn.Module) -> torch.memory_format:
    """
    Return the order of axes in memory: channels last, a fifth faster, where that is safe.

    With fewer than 8 channels into a 1 × 1 convolution with a stride, torch 2.13 writes past its memory in the backward
    pass on processors that have AVX2 but not AVX-512.
    """
    risky = any(
        isinstance(m, nn.Conv2d) and m.in_channels < 8 and set(m.kernel_size) == {1} and set(m.stride) != {1}
        for m in model.modules()
    )
    return torch.contiguous_format if risky else torch.channels_last


@contextmanager
def _on_threads(threads: int):
    """Keep torch and the linear-algebra libraries on so many threads inside the block, and restore them after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def fit(
    model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, *, epochs: int, seed: int,
    batch_size: int = 64, learning_rate: float = 1e-3, progress: str = "",
) -> nn.Module:  # fmt: skip
    """
    Train *model* in place by Adam on the cross-entropy and return it on the CPU, in eval mode.

    Runs on a GPU if there is one and the model has convolutions; otherwise on one thread, see :func:`one_thread`. The
    same seed gives the same weights on one kind of machine. A bar named *progress* is shown; none if it is empty.
    """
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    generator = torch.Generator().manual_seed(check_integer("Seed", seed, 0))
    device = "cuda" if torch.cuda.is_available() and any(isinstance(m, nn.Conv2d) for m in model.modules()) else "cpu"
    model, inputs, classes = model.to(device), inputs.to(device), classes.to(device)
    step = _adam(list(model.parameters()), learning_rate)
    model.train()
    with one_thread(), tqdm(total=epochs, desc=progress, unit="epoch", disable=not progress) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(device)
            for x, y in zip(inputs[order].split(batch_size), classes[order].split(batch_size)):
                loss = nn.functional.cross_entropy(model(x), y)
                _check_loss(loss.item(), f"epoch {epoch + 1}")
                step(loss)
            bar.update()
    return model.eval().cpu()


def _adam(parameters: list[nn.Parameter], learning_rate: float) -> Callable[[torch.Tensor], None]:
    """
    Return a function that makes one step of Adam on a loss.

    Its steps are those of torch.optim.Adam to the last bit. That class first imports torch's compiler, for a second,
    and then takes longer than the gradients of a small model.
    """
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    counts = [torch.zeros((), device=p.device) for p in parameters]
    how = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}

    def step(loss: torch.Tensor) -> None:
        gradients = list(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            adam(parameters, gradients, means, squares, [], counts, fused=True, lr=learning_rate, **how)

    return step


def save_checkpoint(model: nn.Module, path: str | Path, training: dict) -> None:
    """Write a model's parameters and buffers as safetensors, with what the weights depend on, in JSON's types."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_bytes(save(tensors, {"training": json.dumps(training, sort_keys=True)}), path)


def load_checkpoint(model: nn.Module, path: str | Path, training: dict | None = None) -> nn.Module:
    """Load what :func:`save_checkpoint` wrote into *model*, if it was trained by *training*; return it in eval mode."""
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
