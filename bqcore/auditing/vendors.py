"""
Quantizers that people ship with, each applied to a torch module: a candidate to audit and the bytes of the whole model.

torchao, PyTorch's own dynamic and static quantization, ONNX Runtime's, brevitas and NNCF. Their packages are imported
when they are asked for. Bytes are counted as :func:`bqcore.quantizers.mixed_precision.model_bytes` does, whatever a
tool's own file takes: weights packed, with their steps, and all that stays in float as float32.
"""

import copy
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from .._checks import check_choice, needed, to_numpy
from ..quantizers import uniform
from ..quantizers.mixed_precision import layers, model_bytes
from .adapters import tensors

_NNCF_BATCH = 50


class Candidate(NamedTuple):
    """A quantized classifier, the bytes of its packed model, and those of the file that its tool writes."""

    model: object
    bytes: int
    stored: int


def ptq_w(model, bits: int, granularity: str = "tensor") -> Candidate:
    """Quantize by :func:`bqcore.quantizers.uniform.quantize_model`."""
    out = uniform.quantize_model(model, bits, granularity=granularity)
    return Candidate(out, model_bytes(model, bits, granularity=granularity), _saved(out))


def torchao_weights(model, bits: int, *, group: int | None = None) -> Candidate:
    """
    Quantize the weights of linear layers by torchao: symmetric, each output channel or *group* of inputs by its own
    step.

    Convolutions stay in float, as torchao leaves them. Refused are other bits than 8 and 4, groups that do not divide
    the inputs of every linear layer, and a linear layer whose weight would stay in float.
    """
    import torch
    from torch import nn

    check_choice("Bit-width", bits, (8, 4))
    for name, layer in layers(model).items():
        if group is not None and isinstance(layer, nn.Linear) and (width := layer.in_features) % group:
            raise ValueError(f"Layer {name or 'model'!r} has {width} inputs, which groups of {group} do not divide.")
    with quiet():
        ao = needed("torchao.quantization", "torchao's quantizer")
        steps = needed("torchao.quantization.granularity", "torchao's quantizer")
        granularity = steps.PerAxis(0) if group is None else steps.PerGroup(group)
        out = copy.deepcopy(model)
        kind = {8: torch.int8, 4: torch.int4}[bits]
        ao.quantize_(out, ao.IntxWeightOnlyConfig(weight_dtype=kind, granularity=granularity))
    total, linear = model_bytes(model, 32), [layer for layer in out.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(f"The model ({type(model).__name__}) has no linear layer, the only kind that torchao takes.")
    for layer in linear:
        if type(layer.weight) is nn.Parameter:
            raise ValueError(f"torchao left {layer} in float.")
        total += -(-layer.weight.numel() * bits // 8) + (layer.weight.scale.numel() - layer.weight.numel()) * 4
    return Candidate(out, total, _saved(out))


def brevitas_weights(model, bits: int) -> Candidate:
    """Quantize linear and convolution layers by brevitas: symmetric weights, a step for each output channel."""
    from torch import nn

    with quiet():
        brevitas = needed("brevitas.nn", "brevitas' quantizer")
        channel = needed("brevitas.quant", "brevitas' quantizer").Int8WeightPerChannelFloat
        options = {"weight_quant": channel, "weight_bit_width": bits}
        out = nn.ModuleDict({"model": copy.deepcopy(model)})  # a model may be one layer, which has no parent
        for name, layer in layers(out).items():
            bias = layer.bias is not None
            if isinstance(layer, nn.Linear):
                new = brevitas.QuantLinear(layer.in_features, layer.out_features, bias, **options)
            elif isinstance(layer, nn.Conv2d):
                shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
                new = brevitas.QuantConv2d(*shape, layer.dilation, layer.groups, layer.padding_mode, bias, **options)
            else:
                raise ValueError(f"Layer {name.removeprefix('model.')!r} is {type(layer).__name__}, not known here.")
            new.load_state_dict(layer.state_dict(), strict=False)
            places = [(parent, own) for parent in out.modules() for own, it in parent._modules.items() if it is layer]
            for parent, own in places:
                parent.register_module(own, new)
    out = out["model"].eval()
    return Candidate(out, model_bytes(model, bits, granularity="channel"), _saved(out))


def torch_dynamic(model) -> Candidate:
    """Quantize linear layers by PyTorch's own dynamic quantization: int8 weights, activations by each batch's range."""
    import torch

    with quiet():
        out = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    return Candidate(out, _torch_bytes(out), _saved(out))


def torch_static(model, calibration) -> Candidate:
    """Quantize by PyTorch's own static quantization: int8 weights, activations by the range seen on *calibration*."""
    import torch

    with quiet(), torch.no_grad():
        from torch.ao.quantization import quantize_fx as fx

        mapping = torch.ao.quantization.get_default_qconfig_mapping(torch.backends.quantized.engine)
        prepared = fx.prepare_fx(copy.deepcopy(model), mapping, (calibration[:1],))
        for batch in calibration.split(256):
            prepared(batch)
        out = fx.convert_fx(prepared).eval()  # it comes in training mode, and a dropout inside it would be at work
    return Candidate(out, _torch_bytes(out), _saved(out))


def _torch_bytes(model) -> int:
    """Count the bytes of a model quantized by PyTorch: its packed layers give weight and bias by a call."""
    import torch

    total = 4 * sum(t.numel() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    for layer in model.modules():
        if callable(getattr(layer, "weight", None)) and callable(getattr(layer, "bias", None)):
            weight, bias = layer.weight(), layer.bias()
            by_channel = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
            steps = weight.q_per_channel_scales().numel() if by_channel else 1
            total += weight.numel() + 4 * (steps + (0 if bias is None else bias.numel()))
    return total


def _saved(model) -> int:
    """Return the bytes that the model's tensors take in a file of torch's."""
    import torch

    file = io.BytesIO()
    with quiet():
        torch.save(model.state_dict(), file)
    return file.tell()


def onnx_dynamic(model, example) -> Candidate:
    """Quantize by ONNX Runtime's dynamic quantization: int8 weights, activations by the range of each batch."""

    def convert(source: Path, target: Path):
        ort = needed("onnxruntime.quantization", "ONNX quantization")
        ort.quantize_dynamic(source, target, weight_type=ort.QuantType.QInt8)

    return _on_disk(model, example, convert)


def onnx_static(model, calibration, *, per_channel: bool = False) -> Candidate:
    """Quantize by ONNX Runtime's static quantization: int8 weights, activations by the range seen on *calibration*."""

    def convert(source: Path, target: Path):
        ort = needed("onnxruntime.quantization", "ONNX quantization")
        left = iter([{"x": calibration.numpy()}])  # all of it once
        reader = SimpleNamespace(get_next=lambda: next(left, None))
        ort.quantize_static(source, target, reader, quant_format=ort.QuantFormat.QDQ, per_channel=per_channel)

    return _on_disk(model, calibration, convert)


def nncf_static(model, calibration, classes=None) -> Candidate:
    """
    Quantize by NNCF: int8 weights and activations, ranges and biases by *calibration*.

    With *classes* by its accuracy-driven search: layers go back to float until no calibration accuracy is lost.
    """

    def convert(source: Path, target: Path):
        os.environ.setdefault("NNCF_CI", "1")  # read when it is imported: it would report its use to its makers
        nncf, onnx = needed("nncf", "NNCF's quantizer"), needed("onnx", "NNCF's quantizer")
        before = onnx.load(source)
        batches = [{"x": part.numpy()} for part in calibration.split(_NNCF_BATCH)]
        size = {"subset_size": len(batches)}
        if classes is None:
            after = nncf.quantize(before, nncf.Dataset(batches), **size)
        else:
            labelled = list(zip(batches, (part.numpy() for part in classes.split(_NNCF_BATCH))))
            own, both = nncf.Dataset(batches), nncf.Dataset(labelled)
            after = nncf.quantize_with_accuracy_control(before, own, both, _accuracy, max_drop=0.0, **size)
        onnx.save(after, target)

    return _on_disk(model, calibration, convert)


def _accuracy(model, batches) -> tuple[float, list[float]]:
    """Measure an ONNX model's accuracy, and that of each batch."""
    session = _session(model.SerializeToString())
    right = [session.run(["logits"], inputs)[0].argmax(axis=1) == classes for inputs, classes in batches]
    return float(np.concatenate(right).mean()), [float(part.mean()) for part in right]


def _on_disk(model, example, convert: Callable) -> Candidate:
    """Export to a folder that is removed, convert there, and open the result."""
    with quiet(), tempfile.TemporaryDirectory(prefix="bq-") as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        export_onnx(model, example, source)
        convert(source, target)
        onnx = needed("onnx", "The size of an ONNX model")
        constants = onnx.load(target).graph.initializer  # weights, biases, steps and zero points
        size = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in constants)
        return Candidate(_session(target.read_bytes()), size, target.stat().st_size)


def _session(content: bytes):
    """Open an ONNX model on one thread: its sums then have one order, and its threads do not wait by spinning."""
    runtime = needed("onnxruntime", "An ONNX model")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def export_onnx(model, example, path: Path) -> None:
    """Write a torch module to an ONNX file whose input is ``x`` and whose output is ``logits``, for any batch."""
    import torch

    needed("onnx", "The export to ONNX")
    axes = {"x": {0: "n"}, "logits": {0: "n"}}
    names = {"input_names": ["x"], "output_names": ["logits"], "dynamic_axes": axes}
    with quiet():
        torch.onnx.export(model, (example[:1],), path, dynamo=False, opset_version=17, **names)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other packages warn, log or print about their insides from the reader inside a ``with`` block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _given(classes):
    if classes is None:
        raise ValueError("It needs the classes of the calibration inputs.")
    return classes


# By name: bits of the weights, and how a model is quantized with calibration inputs and classes.
QUANTIZERS = {
    "PTQ-W, 8 bits, a step per tensor": (8, lambda m, x, y: ptq_w(m, 8)),
    "PTQ-W, 8 bits, a step per channel": (8, lambda m, x, y: ptq_w(m, 8, "channel")),
    "brevitas, int8, a step per channel": (8, lambda m, x, y: brevitas_weights(m, 8)),
    "torchao, int8, a step per channel": (8, lambda m, x, y: torchao_weights(m, 8)),
    "torch dynamic, int8": (8, lambda m, x, y: torch_dynamic(m)),
    "torch static, int8": (8, lambda m, x, y: torch_static(m, x)),
    "ONNX Runtime dynamic, int8": (8, lambda m, x, y: onnx_dynamic(m, x)),
    "ONNX Runtime static, int8": (8, lambda m, x, y: onnx_static(m, x)),
    "ONNX Runtime static, int8, a step per channel": (8, lambda m, x, y: onnx_static(m, x, per_channel=True)),
    "NNCF static, int8": (8, lambda m, x, y: nncf_static(m, x)),
    "NNCF static, int8, accuracy control": (8, lambda m, x, y: nncf_static(m, x, _given(y))),
    "PTQ-W, 4 bits, a step per tensor": (4, lambda m, x, y: ptq_w(m, 4)),
    "PTQ-W, 4 bits, a step per channel": (4, lambda m, x, y: ptq_w(m, 4, "channel")),
    "brevitas, int4, a step per channel": (4, lambda m, x, y: brevitas_weights(m, 4)),
    "torchao, int4, a step per channel": (4, lambda m, x, y: torchao_weights(m, 4)),
    "torchao, int4, a step per 16 inputs": (4, lambda m, x, y: torchao_weights(m, 4, group=16)),
}


def shelf(model, inputs, classes=None) -> dict[str, Candidate | str]:
    """
    Quantize a torch module in eval mode by every quantizer here, and return a Candidate, or the reason why not, by
    name.

    *inputs* are calibration inputs, for quantizers that round activations by the range seen. A reason is a package that
    is missing, *classes* that are needed and not given, or a layer that a tool does not take.
    """
    torch = needed("torch", "A shelf of quantized models")
    out, inputs = {}, tensors(inputs, model)
    classes = None if classes is None else torch.from_numpy(to_numpy(classes).astype(np.int64))
    for name, (_, make) in QUANTIZERS.items():
        try:
            out[name] = make(model, inputs, classes)
        except ValueError as error:
            out[name] = str(error)
        except Exception as error:  # of another package, on a model that it cannot take
            out[name] = f"It failed with {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return out
