"""
The study of quantizers that people ship with, on the published networks: which keeps decisions best at equal bytes.

And which ranking of layers spends a budget best: the margins' noise, which :func:`bqcore.plan_bits` goes by, accuracy
lost, or what ONNX Runtime's debugging of quantized models shows, tensor by tensor.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import needed
from bqcore._store import digest
from bqcore.auditing import bit_plan, sensitivity, vendors
from bqcore.auditing.streaming import decide_split, logits_functions, measures
from bqcore.quantizers.mixed_precision import layers, mixed, model_bytes, spend

from . import specs, sweeps
from .data import splits
from .specs import Vendors
from .sweeps import Study

LEVELS = (8, 7, 6, 5, 4, 3, 2)
BUDGETS = (6, 5, 4, 3)  # the bytes of that many bits for all
RANKINGS = ("uniform", "margin noise", "accuracy lost", "ONNX Runtime, weights", "ONNX Runtime, activations")
TOOL_INPUTS, RANKING_INPUTS, DEBUG_INPUTS = 500, 1000, 200  # the first ones of the calibration split
HELD_OUT = {"digits": 450, "mnist": 10_000, "fashion-mnist": 10_000, "cifar-10": 3000}  # official test inputs
_KEPT = ("flip_rate", "right_to_wrong", "band_flip_rate", "accuracy")
_PACKAGES = ("torch", "numpy", "torchao", "onnxruntime", "onnx", "brevitas", "nncf")
_BATCH = 1000  # activations quantized by the range of the batch depend on it


def measure(spec: Vendors) -> xr.Dataset:
    """Measure every quantizer and every plan, as :func:`compare` does, on the one network of *spec*."""
    (name,) = spec.networks
    of = network_spec(name)
    sizes = dict(zip(("train", "calibration"), of.sizes))
    # Of CIFAR-10 more than its study holds out: 600 inputs would tell few quantizers apart.
    split = splits.stopping_split(of.dataset, of.seed, held_out=HELD_OUT[of.dataset], **sizes)
    out = compare(sweeps.classifier(of), split[2:4], split[4:6], share=spec.share)
    return out.expand_dims(network=[name])


def network_spec(network: str) -> specs.Spec:
    """Return the spec of the study whose published checkpoint a network is."""
    return specs.baseline("stopping", *network.split())


def alone(spec: Vendors, seeds: int) -> list[Vendors]:
    """Return a spec for each network of *spec*; there is one seed of each."""
    return [replace(spec, networks=(name,)) for name in spec.networks]


def join(found: dict[Vendors, xr.Dataset], spec: Vendors) -> xr.Dataset:
    """Join networks along ``network``; a split that is shorter than another is filled up with -1."""
    longest = max(part.sizes["sample"] for part in found.values())
    filled = [part.pad(sample=(0, longest - part.sizes["sample"]), constant_values=-1) for part in found.values()]
    return xr.concat(filled, "network", combine_attrs="drop_conflicts", data_vars="all", coords="minimal")


def depends() -> dict:
    """Return digests of the published networks, and the versions of the packages; what is missing is None."""
    files = {name: sweeps.published_checkpoint(network_spec(name)) for name in Vendors().networks}
    return {
        "checkpoints": {name: digest(file)[:12] if file.exists() else None for name, file in files.items()},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def left_out(found: xr.Dataset) -> list[str]:
    """Return a line for each quantizer or ranking that is missing somewhere: where, and why."""
    lines = []
    for dim, variable in (("quantizer", "missing"), ("ranking", "plan_missing")):
        for name in found[dim].values:
            reasons = found[variable].sel({dim: name}).values
            for reason in dict.fromkeys(reason for reason in reasons if reason):
                where = [str(network) for network, own in zip(found.network.values, reasons) if own == reason]
                where = "everywhere" if len(where) == len(reasons) else f"on {', '.join(where)}"
                lines.append(f"Left out {where}: {name}. {reason}")
    return lines


STUDY = Study(measure, join, jobs=alone, depends=depends, notes=left_out)


def compare(model: nn.Module, calibration: tuple, heldout: tuple, *, share: float = 0.2) -> xr.Dataset:
    """
    Measure every quantizer, and every plan by ``budget`` and ``ranking``, on one network.

    *calibration* and *heldout* are inputs and classes; quantizers and plans see the calibration split alone. What is
    missing is NaN or 0, with the reason in ``missing``.
    """
    x, y = calibration
    shelf = vendors.shelf(model, x[:TOOL_INPUTS], y[:TOOL_INPUTS])
    plans, reasons = make_plans(model, (x[:RANKING_INPUTS], y[:RANKING_INPUTS]), share)
    candidates = {name: found.model for name, found in shelf.items() if not isinstance(found, str)}
    candidates |= {key: mixed(model, bits) for key, bits in plans.items()}
    functions = logits_functions(model, candidates, False)
    decided, _, _ = decide_split(functions, heldout, "heldout", batch_size=_BATCH)
    band = next(iter(decided.values())).band(share)  # of the float network, which all are held against
    found = {key: measures(part, band) for key, part in decided.items()}
    flipped = {key: part.flipped() for key, part in decided.items()}
    first, names = next(iter(found.values())), list(vendors.QUANTIZERS)
    none = np.full(len(heldout[1]), -1, np.int8)
    dims, sample = ("budget", "ranking"), "sample"
    out = xr.Dataset(
        {
            "band_samples": first["band_samples"], "float_accuracy": first["accuracy_reference"],
            "float_bytes": model_bytes(model, 32),
            "bytes": ("quantizer", [getattr(shelf[name], "bytes", 0) for name in names]),
            "stored": ("quantizer", [getattr(shelf[name], "stored", 0) for name in names]),
            "weight_bits": ("quantizer", [bits for bits, _ in vendors.QUANTIZERS.values()]),
            "missing": ("quantizer", [one if isinstance(one := shelf[name], str) else "" for name in names]),
            "flipped": (("quantizer", sample), [flipped.get(name, none) for name in names]),
            "plan_missing": ("ranking", [reasons.get(name, "") for name in RANKINGS]),
            "plan_bits": (dims, [[_text(plans.get((b, name))) for name in RANKINGS] for b in BUDGETS]),
            "plan_bytes": (dims, [[_size(model, plans.get((b, name))) for name in RANKINGS] for b in BUDGETS]),
            "plan_flipped": ((*dims, sample), [[flipped.get((b, r), none) for r in RANKINGS] for b in BUDGETS]),
        },
        {"quantizer": names, "budget": list(BUDGETS), "ranking": list(RANKINGS)},
    )  # fmt: skip
    missing = dict.fromkeys(_KEPT, np.nan)
    for kept in _KEPT:
        out[kept] = "quantizer", [found.get(name, missing)[kept] for name in names]
        out[f"plan_{kept}"] = dims, [[found.get((b, r), missing)[kept] for r in RANKINGS] for b in BUDGETS]
    return out.assign({name: out[name].astype(np.int8) for name in ("flipped", "plan_flipped")})


def _text(bits: Mapping | None) -> str:
    return "" if bits is None else ", ".join(f"{name or 'model'}: {b}" for name, b in bits.items())


def _size(model: nn.Module, bits: Mapping | None) -> int:
    return 0 if bits is None else model_bytes(model, bits)


def make_plans(model: nn.Module, calibration: tuple, share: float) -> tuple[dict, dict]:
    """
    Return bits by layer for each budget, in uniform bits, and ranking, all spent alike; and why a ranking is missing.
    """
    one_by_one = sensitivity.one_at_a_time(model, calibration, LEVELS)
    noise = {key: sensitivity.margin_noise(part, share) for key, part in one_by_one.items()}
    band = next(iter(one_by_one.values())).band(share)
    found = {key: measures(part, band) for key, part in one_by_one.items()}
    costs = {"accuracy lost": {key: m["accuracy_reference"] - m["accuracy"] for key, m in found.items()}}
    reasons = {}
    try:
        costs["ONNX Runtime, weights"] = onnx_weight_costs(model, LEVELS)
        costs["ONNX Runtime, activations"] = onnx_activation_costs(model, calibration[0][:DEBUG_INPUTS], LEVELS)
    except ValueError as error:
        reasons |= {name: str(error) for name in RANKINGS if name.startswith("ONNX") and name not in costs}
    plans = {}
    for b in BUDGETS:
        budget = model_bytes(model, b)
        plans[b, "uniform"] = dict.fromkeys(layers(model), b)
        plans[b, "margin noise"] = bit_plan.least_noise(model, noise, calibration, budget, fraction=share)
        plans |= {(b, name): spend(model, cost, budget) for name, cost in costs.items()}
    return plans, reasons


def _debugger():
    return needed("onnxruntime.quantization.qdq_loss_debug", "ONNX Runtime's debugging")


def _noise(decibels: float) -> float:
    """Return the share of noise in the energy, which is what adds up, of a ratio of signal to noise."""
    return 10 ** (-decibels / 10)


def onnx_weight_costs(model: nn.Module, levels) -> dict[tuple[str, int], float]:
    """Return what ONNX Runtime's ``compute_weight_error`` says of each layer at each level."""
    out = {}
    for b in levels:
        pairs = {
            name: {"float": layer.weight.detach().numpy(), "dequantized": mixed(model, {name: b}).weight_0.numpy()}
            for name, layer in layers(model).items()
        }
        out |= {(name, b): _noise(found) for name, found in _debugger().compute_weight_error(pairs).items()}
    return out


def onnx_activation_costs(model: nn.Module, inputs: torch.Tensor, levels) -> dict[tuple[str, int], float]:
    """
    Compare each layer's output in the float model and in one with all layers at a level, as ONNX Runtime does.

    Both are augmented and run by ``modify_model_output_intermediate_tensors`` and ``collect_activations``.
    """
    debugger = _debugger()
    onnx = needed("onnx", "ONNX Runtime's debugging")
    order = _order(model, inputs[:1])
    with vendors.quiet(), tempfile.TemporaryDirectory(prefix="bq-") as name:
        source, augmented = Path(name, "model.onnx"), Path(name, "augmented.onnx")

        def outputs(one: nn.Module) -> list[np.ndarray]:
            vendors.export_onnx(one, inputs, source)
            nodes = [node for node in onnx.load(source).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
            if len(nodes) != len(order):
                raise ValueError(f"The ONNX export has {len(nodes)} layers and the model {len(order)}.")
            debugger.modify_model_output_intermediate_tensors(source, augmented)
            tensors = debugger.collect_activations(str(augmented), [{"x": inputs.numpy()}])
            return [tensors[node.output[0]] for node in nodes]

        before = outputs(model)
        out = {}
        for b in levels:
            for layer, *pair in zip(order, before, outputs(vendors.ptq_w(model, b).model)):
                out[layer, b] = _noise(debugger.compute_signal_to_quantization_noice_ratio(*pair))
    return out


def _order(model: nn.Module, example: torch.Tensor) -> list[str]:
    """Return the names of the layers in the order in which they are called."""
    order, hooks = [], []
    for name, layer in layers(model).items():
        hooks.append(layer.register_forward_hook(lambda *_, name=name: order.append(name)))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return order
