"""What the tests of the audit share: saved logits as classifiers, a linear layer as a session, a good classifier."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import bqcore
from studies import specs

SPEC = specs.Levels(seed=3, epochs=8, nodes=(41, 21, 11), width=12, bits=(8, 4, 2))
X = np.random.default_rng(5).normal(size=(200, 6))
GOOD = lambda x: x @ np.arange(24.0).reshape(6, 4) / 9 - x[:, :4]  # noqa: E731
before, after = (lambda batch, key=key: batch[key] for key in ("before", "after"))


def of_logits(z, q, y=None, *, calibration=None, **options):
    """Audit logits that are there already."""
    inputs = {"before": z, "after": q}
    return bqcore.audit(before, after, calibration, inputs if y is None else (inputs, y), check_order=False, **options)


def held(found):
    return found.dataset.sel(split="heldout")


def linear_onnx(linear: nn.Linear, outputs=("logits",), *, takes=onnx.TensorProto.FLOAT, rows="n") -> bytes:
    """Return a linear layer as an ONNX model, of inputs of a type and, if it is fixed, a number."""
    tensors = [("w", linear.weight), ("c", linear.bias)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT)]
        + [onnx.helper.make_node("Gemm", ["floats", "w", "c"], [name], transB=1) for name in outputs],
        "linear",
        [onnx.helper.make_tensor_value_info("x", takes, [rows, linear.in_features])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [rows, None]) for name in outputs],
        [onnx.numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in tensors],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def linear_session(linear: nn.Linear, *given, **options) -> onnxruntime.InferenceSession:
    """Open :func:`linear_onnx` of a linear layer by ONNX Runtime."""
    return onnxruntime.InferenceSession(linear_onnx(linear, *given, **options), providers=["CPUExecutionProvider"])


def images(folder: str | Path, names: dict[str, int]) -> None:
    """Write black images of a number into each of the named folders."""
    for name, count in names.items():
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (2, 2)).save(Path(folder, name, f"{i}.png"))


@st.composite
def pairs_of_logits(draw):
    """Draw logits of two classifiers, ties among them, of any type, and classes."""
    n, k = draw(st.integers(5, 60)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):  # ties
        z, q = generator.integers(-2, 3, (2, n, k)).astype(draw(st.sampled_from(["f2", "f4", "f8", "i8"])))
    else:
        z = generator.normal(size=(n, k)) * 10.0 ** draw(st.integers(-4, 4))
        q = z + draw(st.sampled_from([0.0, 0.1, 1.0])) * np.abs(z).max() * generator.normal(size=(n, k))
    kind = draw(st.sampled_from([None, torch.float16, torch.bfloat16, torch.float32]))
    if kind is not None:
        largest = torch.finfo(kind).max  # of float16 it is 65504
        z, q = (torch.from_numpy(np.asarray(x, float)).clamp(-largest, largest).to(kind) for x in (z, q))
    return z, q, generator.integers(k, size=n)
