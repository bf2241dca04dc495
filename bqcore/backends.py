"""
Quantizers that people ship with, each applied to a torch module: a candidate to audit and the bytes of its weights.

torchao, PyTorch's own dynamic quantization, and ONNX Runtime's dynamic and static quantization. Their packages are
imported when they are asked for. Bytes are those of the weights, packed, with their steps and zero points; biases and
what else stays in float are not counted, as in :func:`bqcore.perlayer.weight_bytes`.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from . import quantize
from .checks import check_choice
from .files import optional
from .perlayer import weight_bytes


class Candidate(NamedTuple):
    """A quantized classifier with the bytes of its weights."""

    model: object
    bytes: int


def torchao_weights(model: nn.Module, bits: int, *, group: int | None = None) -> Candidate:
    """
    Quantize the weights of linear layers by torchao: symmetric, each output channel or group of inputs by its own step.

    Parameters
    ----------
    model : torch module in eval mode
    bits : {8, 4}
    group : int, optional
        Inputs of a group, a divisor of every layer's inputs; by default one step an output channel.

    Raises
    ------
    ValueError
        If torchao is not installed, *bits* is another, or no weight was quantized.
    """
    check_choice("Bit-width", bits, (8, 4))
    with quiet():
        ao = optional("torchao.quantization", "torchao", "torchao's quantizer")
        steps = optional("torchao.quantization.granularity", "torchao", "torchao's quantizer")
        granularity = steps.PerAxis(0) if group is None else steps.PerGroup(group)
        out = copy.deepcopy(model)
        kind = {8: torch.int8, 4: torch.int4}[bits]
        ao.quantize_(out, ao.IntxWeightOnlyConfig(weight_dtype=kind, granularity=granularity))
    total = 0
    for layer in (layer for layer in out.modules() if isinstance(layer, nn.Linear)):
        if type(layer.weight) is nn.Parameter:
            raise ValueError(f"torchao left {layer} in float: choose a group that divides its inputs.")
        total += -(-layer.weight.numel() * bits // 8) + layer.weight.scale.numel() * 4
    if total == 0:
        raise ValueError(f"The model ({type(model).__name__}) has no linear layer: nothing to quantize.")
    return Candidate(out, total)


def torch_dynamic(model: nn.Module) -> Candidate:
    """Quantize linear layers by PyTorch's own dynamic quantization: int8 weights, activations by each batch's range."""
    with quiet():
        out = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        weights = [
            layer.weight()
            for layer in out.modules()
            if hasattr(layer, "_packed_params") and callable(getattr(layer, "weight", None))
        ]
    return Candidate(out, sum(weight.numel() + 4 for weight in weights))


def onnx_session(model: nn.Module, example: torch.Tensor) -> Candidate:
    """Export a torch module to ONNX and open it in ONNX Runtime, in float."""
    return _on_disk(model, example, None)


def onnx_dynamic(model: nn.Module, example: torch.Tensor) -> Candidate:
    """Quantize by ONNX Runtime's dynamic quantization: int8 weights, activations by the range of each batch."""

    def convert(ort, source: Path, target: Path):
        ort.quantize_dynamic(source, target, weight_type=ort.QuantType.QInt8)

    return _on_disk(model, example, convert)


def onnx_static(model: nn.Module, calibration: torch.Tensor) -> Candidate:
    """Quantize by ONNX Runtime's static quantization: int8 weights, activations by the range seen on *calibration*."""

    def convert(ort, source: Path, target: Path):
        class Reader(ort.CalibrationDataReader):
            def __init__(self):
                self.left = iter([{"x": calibration.numpy()}])

            def get_next(self):
                """Give all of it once."""
                return next(self.left, None)

        ort.quantize_static(source, target, Reader(), quant_format=ort.QuantFormat.QDQ)

    return _on_disk(model, calibration[:1], convert)


def _on_disk(model: nn.Module, example: torch.Tensor, convert: Callable | None) -> Candidate:
    """Export to a folder that is removed, convert there, and open the result."""
    with quiet(), tempfile.TemporaryDirectory(prefix="bq-") as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        axes = {"x": {0: "n"}, "logits": {0: "n"}}
        optional("onnx", "onnx", "The export to ONNX")
        torch.onnx.export(
            model, (example[:1],), source, dynamo=False, input_names=["x"], output_names=["logits"], dynamic_axes=axes
        )
        runtime = optional("onnxruntime", "onnxruntime", "An ONNX model")
        if convert is not None:
            convert(optional("onnxruntime.quantization", "onnxruntime", "ONNX quantization"), source, target)
        path = target if convert is not None else source
        session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return Candidate(session, _weight_bytes(path))


def _weight_bytes(path: Path) -> int:
    """Count the matrices of an ONNX file with their steps and zero points."""
    onnx = optional("onnx", "onnx", "The size of an ONNX model")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    matrices = [name for name, array in arrays.items() if array.ndim > 1]
    stems = [name.removesuffix("_quantized") for name in matrices]
    companions = [name for stem in stems for name in (f"{stem}_scale", f"{stem}_zero_point") if name in arrays]
    return int(np.sum([arrays[name].nbytes for name in matrices + companions]))


@contextmanager
def quiet():
    """Keep warnings and log lines about the insides of other packages from the reader inside a ``with`` block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def shelf(model: nn.Module, calibration: torch.Tensor) -> dict[str, Candidate]:
    """
    Quantize a multilayer perceptron by every quantizer here, beside PTQ-W.

    Parameters
    ----------
    model : torch module in eval mode, of linear layers whose inputs divide by 32
    calibration : float tensor, shape (N, ...)
        Inputs that static quantization takes its ranges from.

    Returns
    -------
    dict of Candidate, by name
    """
    out = {}
    for bits in (8, 4):
        for granularity in quantize.GRANULARITIES:
            candidate = quantize.quantize_model(model, bits, granularity=granularity)
            out[f"PTQ-W, {bits} bits, a step per {granularity}"] = Candidate(
                candidate, weight_bytes(model, bits, granularity=granularity)
            )
        out[f"torchao, int{bits}, a step per channel"] = torchao_weights(model, bits)
    return out | {
        "torchao, int4, a step per 32 inputs": torchao_weights(model, 4, group=32),
        "torch dynamic, int8": torch_dynamic(model),
        "ONNX Runtime dynamic, int8": onnx_dynamic(model, calibration),
        "ONNX Runtime static, int8": onnx_static(model, calibration),
    }
