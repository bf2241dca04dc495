"""
The weights of a model that can be quantized, each Parameter once, however many places hold it.

All that walks a model to quantize it goes by these objects: a module may be registered under several names, and several
modules may hold one Parameter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # with which a learned rounding can work
_TABLES = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # attention's output is a Linear
_SAID = 5e-4  # of the weights: a smaller fraction would be printed as 0.0 %


class Weight(NamedTuple):
    """A Parameter that can be quantized, at the first place that holds it."""

    module: nn.Module
    path: str  # name of the Parameter in the model
    parameter: nn.Parameter
    axis: int  # of its output channels

    def by_channel(self) -> torch.Tensor:
        """Return its values, with the output channels along the first axis."""
        return self.parameter.detach().movedim(self.axis, 0)


def weights(
    model: nn.Module, skip: str | Iterable[str] = (), *, asked: Iterable[str] | None = None
) -> dict[str, Weight]:
    """
    Return the weights that PTQ-W quantizes, each Parameter once, by the name of the first layer that holds it.

    They are those of linear, bilinear, convolution, transposed convolution and embedding layers, of Hugging Face's
    ``Conv1D``, the packed projections of attention, and those of recurrent layers. A layer that has several adds their
    names to its own: ``lstm.weight_hh_l0``. *skip* names layers, or modules with all that they hold, that stay in
    float. Refused are models that are no torch module or have no such layer, and weights that are computed from others,
    unless only other names are *asked* for.

    >>> shared = nn.Linear(4, 4)
    >>> list(weights(nn.Sequential(shared, nn.ReLU(), shared, nn.GRUCell(4, 2)), skip="3.weight_ih"))
    ['0', '3.weight_hh']
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"The model is {type(model).__name__}: PTQ-W needs a torch module; audit other pairs instead.")
    places, left = list(_places(model)), set()
    if not places:
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer: nothing to quantize.")
    for name in (skip,) if isinstance(skip, str) else skip:
        inside = {place for place, *_ in places if place == name or place.startswith(f"{name}.")}
        if not inside:
            known = ", ".join(repr(place) for place, *_ in places)
            raise ValueError(f"There is no layer {name!r} to skip: choose from {known}.")
        left |= inside
    # What is skipped in one place stays in float in all.
    found, done = {}, {id(getattr(module, slot)) for name, _, module, slot, _ in places if name in left}
    for name, path, module, slot, axis in places:
        parameter = getattr(module, slot)
        if name in left or id(parameter) in done:
            continue
        if not isinstance(parameter, nn.Parameter) and asked is not None and name not in asked:
            continue
        if not isinstance(parameter, nn.Parameter):
            raise ValueError(
                f"Layer {name or 'model'!r}: its weight is computed from other parameters: remove that parametrization "
                "first."
            )
        done.add(id(parameter))
        found[name] = Weight(module, path, parameter, axis)
    if not found:
        raise ValueError("All layers that could be quantized are to be skipped: nothing to quantize.")
    return found


def _places(model: nn.Module) -> Iterator[tuple[str, str, nn.Module, str, int]]:
    """Yield name, path, module, attribute and channel axis of all that can be quantized, modules once."""
    for name, module in model.named_modules():
        slots, axis = _slots(module)
        for slot in slots:
            path = f"{name}.{slot}".lstrip(".")
            if getattr(module, slot, None) is not None:
                yield (name if slot == "weight" else path), path, module, slot, axis


def _slots(module: nn.Module) -> tuple[tuple[str, ...], int]:
    """Return the attributes of a layer that hold its weights, and the axis of their output channels."""
    if isinstance(module, (*LAYERS, *_TABLES)):
        return ("weight",), 0
    # Hugging Face's Conv1D is a linear layer whose weight lies (in, out); known by its name, it need not be imported.
    turned = type(module).__name__ == "Conv1D" and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    if turned or isinstance(module, _TRANSPOSED):
        return ("weight",), 1
    if isinstance(module, nn.MultiheadAttention):
        return _PACKED, 0
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight_")), 0
    return (("weight_ih", "weight_hh"), 0) if isinstance(module, nn.RNNCellBase) else ((), 0)


class Float(NamedTuple):
    """What of a model's weights stays as it is."""

    fraction: float  # of the weights, in [0, 1]
    names: list[str]  # of what holds them, most first

    def sentence(self, says: str = "of the weights stay in float") -> str:
        """Return this as a sentence with a space before it, or nothing if the fraction would read as 0.0 %."""
        return f" {100 * self.fraction:.1f} % {says} ({quoted(self.names)})." if self.fraction >= _SAID else ""

    def attributes(self) -> dict:
        """Return this as attributes of a dataset."""
        return {"float_weights": self.fraction, "float_layers": ", ".join(self.names)}


def in_float(model: nn.Module, quantized: Iterable[Weight]) -> Float:
    """
    Return the fraction of a model's weights that are not *quantized*, and the names of what holds them, most first.

    Biases and the parameters of normalization layers are not counted: they always stay in float, and are few.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    >>> in_float(model, weights(model, skip="2").values())
    Float(fraction=0.5, names=['2'])
    """
    done = {id(weight.parameter) for weight in quantized}
    return _fraction(model, lambda path, parameter: id(parameter) not in done)


def same_in(reference: nn.Module, candidate: nn.Module) -> Float:
    """Return the fraction of the weights of *reference* that *candidate* has as they are, and the names, most first."""
    theirs = dict(candidate.named_parameters())

    def same(path: str, parameter: nn.Parameter) -> bool:
        other = theirs.get(path)
        # Packed weights of other packages are Parameters of other types, which torch may not compare.
        alike = type(other) is nn.Parameter and (other.shape, other.dtype) == (parameter.shape, parameter.dtype)
        return alike and torch.equal(other.to(parameter.device), parameter)

    return _fraction(reference, same)


def _fraction(model: nn.Module, chosen: Callable[[str, nn.Parameter], bool]) -> Float:
    """Return the fraction of a model's weights that are *chosen*, by path and Parameter, and where they are."""
    found, total = {}, 0
    for path, parameter in all_weights(model).items():
        total += parameter.numel()
        if chosen(path, parameter):
            name = path.removesuffix("weight").rstrip(".") or "model"
            found[name] = found.get(name, 0) + parameter.numel()
    return Float(sum(found.values()) / max(1, total), sorted(found, key=lambda name: -found[name]))


def all_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every floating-point Parameter by its first name, without biases and those of normalization layers."""
    norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    return {
        path: parameter
        for path, parameter in model.named_parameters()
        if parameter.is_floating_point()
        and "bias" not in path.rpartition(".")[2]
        and path.rpartition(".")[0] not in norms
    }


def quoted(names: list[str]) -> str:
    """Return the first three *names* in quotes, and how many more there are."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """
    Put *tensors* in the place of the Parameters of these names for a while, wherever in *model* the Parameters are.

    :func:`torch.func.functional_call` goes by names: a module that has two would get the tensor for good.
    """
    new = {id(model.get_parameter(path)): tensor for path, tensor in tensors.items()}
    places = [
        (module, slot, parameter)
        for module in model.modules()
        for slot, parameter in module._parameters.items()
        if id(parameter) in new
    ]
    try:
        for module, slot, parameter in places:
            module._parameters[slot] = new[id(parameter)]
        yield
    finally:
        for module, slot, parameter in places:
            module._parameters[slot] = parameter
        for module in {module for module, *_ in places if isinstance(module, nn.RNNBase)}:
            module._init_flat_weights()  # its own list of them
