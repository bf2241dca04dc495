"""Training: by Adam, small perceptrons of several seeds at once; on the full CIFAR-10 by SGD, with crops and flips."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from threadpoolctl import threadpool_limits
from torch import nn
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
    how = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "progress": progress}
    if stackable(model):
        return fit_together([model], [inputs], [classes], seeds=[seed], **how)[0]
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    generator = torch.Generator().manual_seed(check_integer("Seed", seed, 0))
    device = "cuda" if torch.cuda.is_available() and any(isinstance(m, nn.Conv2d) for m in model.modules()) else "cpu"
    model, inputs, classes = model.to(device).train(), inputs.to(device), classes.to(device)
    parameters = list(model.parameters())
    step = _adam([p.detach() for p in parameters], learning_rate)
    with one_thread(), tqdm(total=epochs, desc=progress, unit="epoch", disable=not progress) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(device)
            for x, y in zip(inputs[order].split(batch_size), classes[order].split(batch_size)):
                loss = nn.functional.cross_entropy(model(x), y)
                _check_loss(loss.item(), f"epoch {epoch + 1}")
                step(list(torch.autograd.grad(loss, parameters)))
            bar.update()
    return model.eval().cpu()


def stackable(model: nn.Module) -> bool:
    """
    Return whether :func:`fit_together` trains *model*: a ReLU network of one hidden layer, its sizes multiples of 8.

    The last bit of a product of other sizes depends on where in memory its factors lie.
    """
    layers = list(model) if type(model) is nn.Sequential else []
    layers = layers[1:] if layers and type(layers[0]) is nn.Flatten else layers
    if [type(layer) for layer in layers] != [nn.Linear, nn.ReLU, nn.Linear]:
        return False
    linear = layers[0], layers[2]
    return all(layer.in_features % 8 == 0 and layer.bias is not None for layer in linear)


def fit_together(
    models: Sequence[nn.Module], inputs: Sequence[torch.Tensor], classes: Sequence[torch.Tensor], *, epochs: int,
    seeds: Sequence[int], batch_size: int = 64, learning_rate: float = 1e-3, progress: str = "",
) -> list[nn.Module]:  # fmt: skip
    """
    Train :func:`stackable` models of one shape in place as :func:`fit` does, each on as many inputs of its own.

    Their weights are stacked and the gradient is written out, so that small models take a quarter of the time. Each
    gets the weights, to the last bit, that it gets alone.
    """
    if not all(map(stackable, models)):
        raise ValueError("A model is no ReLU network of one hidden layer with sizes that 8 divides: train it by fit.")
    epochs, batch_size = check_integer("Epochs", epochs, 1), check_integer("Batch size", batch_size, 1)
    generators = [torch.Generator().manual_seed(check_integer("Seed", seed, 0)) for seed in seeds]
    flat = [one.flatten(1) for one in inputs]
    x_all, y_all = torch.stack(flat), torch.stack(list(classes))[..., None]  # memory for each epoch's order of them
    stacked = [torch.stack(list(of)) for of in zip(*([p.detach() for p in model.parameters()] for model in models))]
    parameters = [p if p.ndim == 3 else p[:, None] for p in stacked]
    gradients = [torch.empty_like(p) for p in parameters]
    # Adam takes a model's tensors one by one: it rounds their last few values, which fill no vector, otherwise.
    step = _adam([one for p in parameters for one in p], learning_rate)
    with one_thread(), torch.no_grad(), tqdm(total=epochs, desc=progress, unit="epoch", disable=not progress) as bar:
        for epoch in range(epochs):
            for i, generator in enumerate(generators):
                order = torch.randperm(x_all.shape[1], generator=generator)
                torch.index_select(flat[i], 0, order, out=x_all[i])
                torch.index_select(classes[i], 0, order, out=y_all[i, :, 0])
            for x, y in zip(x_all.split(batch_size, 1), y_all.split(batch_size, 1)):
                losses = _backward(parameters, x, y, gradients)
                _check_loss(losses.sum().item(), f"epoch {epoch + 1}")
                step([one for p in gradients for one in p])
            bar.update()
        for i, model in enumerate(models):
            for parameter, found in zip(model.parameters(), stacked):
                parameter.copy_(found[i])
    return [model.eval() for model in models]


def _backward(
    parameters: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor, gradients: list[torch.Tensor]
) -> torch.Tensor:
    """
    Return the cross-entropy (S,) of S stacked networks at inputs (S, N, D) of classes (S, N, 1); write its gradients.

    By the steps that autograd takes, so that they are autograd's to the last bit.
    """
    weight, bias, weight_out, bias_out = parameters
    hidden = torch.baddbmm(bias, x, weight.mT).relu_()
    logs = torch.baddbmm(bias_out, hidden, weight_out.mT).log_softmax(2)
    by_logs = torch.zeros_like(logs).scatter_(2, y, -1 / x.shape[1])
    by_logits = torch._log_softmax_backward_data(by_logs, logs, 2, logs.dtype)
    by_hidden = torch.ops.aten.threshold_backward(by_logits @ weight_out, hidden, 0)
    for by, of, (out, summed) in ((by_hidden, x, gradients[:2]), (by_logits, hidden, gradients[2:])):
        torch.bmm(by.mT, of, out=out)
        torch.sum(by, 1, keepdim=True, out=summed)
    return -logs.gather(2, y).mean((1, 2))


def _adam(parameters: list[torch.Tensor], learning_rate: float) -> Callable[[list[torch.Tensor]], None]:
    """
    Return a function that makes one step of Adam by the gradients of *parameters*.

    Its steps are those of torch.optim.Adam to the last bit. That class first imports torch's compiler, for a second,
    and then takes longer than the gradients of a small model.
    """
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    count = torch.zeros((), device=parameters[0].device)

    def step(gradients: list[torch.Tensor]) -> None:
        count.add_(1)
        torch._fused_adam_(
            parameters, gradients, means, squares, [], [count] * len(parameters), lr=learning_rate, beta1=0.9,
            beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip

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
