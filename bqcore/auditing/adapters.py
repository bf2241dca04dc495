"""
Classifiers of every kind as functions from a batch of inputs to logits.

A classifier is a torch module in eval mode, an ONNX Runtime session, a scikit-learn estimator or pipeline, or any
callable.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from operator import itemgetter

import numpy as np

from .._checks import Refusal, is_module, is_tensor, one_line, to_numpy
from . import batching, estimators, forms

_ONNX_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8,
}  # fmt: skip


def logits_function(model, name: str = "The model") -> Callable:
    """
    Return *model* as a function from a batch of inputs to logits (N, K), an array or tensor; *name* begins its errors.

    A torch module gets tensors of its own floating-point type on its own device, a dictionary as keyword arguments. An
    ONNX Runtime session gets arrays of the types it declares, integers only where they hold the values, a dictionary by
    its input names. A scikit-learn estimator answers by ``decision_function``, one score s a sample becoming the two
    columns (0, s), else by ``predict_log_proba`` or the logarithm of ``predict_proba``. Any other callable gets the
    batch as it is. Outputs with an attribute or key ``logits``, and those that hold one thing only, are opened. Each
    call gets a copy of the batch, to which it may write; only ``operator.itemgetter``, which takes logits that are in
    the batch already, reads them where they are. What a classifier raises comes as a ValueError of one line; scores by
    which its own ``predict``, if it has one, does not decide are refused.

    >>> logits_function(lambda x: {"logits": x @ [[1, 0], [0, 2]]})(np.eye(2))
    array([[1., 0.],
           [0., 2.]])
    """
    model = runnable(model)
    answer, check = _answers(model, name), estimators.check_of(model, _predict_of(model), name)
    copied = (lambda values: values) if isinstance(model, itemgetter) else own

    def logits(batch):
        try:
            found = opened(answer(copied(batch)))
            check(batch, found)
            # It may be a buffer that the next answer is written to; several answers are refused when they are read.
            return found if isinstance(found, tuple) else copied(found)
        except Refusal:
            raise
        except Exception as error:  # a foreign classifier may raise anything
            advice = "call it on them alone to see where"
            if isinstance(batch, Mapping):
                keys = f"{', '.join(forms.CLASS_KEYS[:-1])} or {forms.CLASS_KEYS[-1]}"
                advice += f"; each goes to it by its name; classes would be called {keys}"
            raise Refusal(f"{name} fails on {_described(batch)} ({one_line(error)}): {advice}.") from error

    vars(logits)["model"] = model  # what only it can say: why two answers differ
    return logits


def own(batch):
    """Return a copy of a batch, to which a classifier may write."""
    if isinstance(batch, Mapping):
        return {key: own(value) for key, value in batch.items()}
    return batch.clone() if is_tensor(batch) else copy.deepcopy(batch)


def _predict_of(model) -> Callable | None:
    """Return the method of a classifier that returns labels, on the inputs that it takes."""
    predict = getattr(model, "predict", None)
    if not callable(predict):
        return None
    return lambda batch: _called(predict, tensors(own(batch), model)) if is_module(model) else predict(own(batch))


def _described(batch) -> str:
    """Return what a batch is, in words."""
    given = batch if isinstance(batch, Mapping) else {"inputs": batch}
    sizes = [(key, tuple(getattr(value, "shape", ())), getattr(value, "dtype", None)) for key, value in given.items()]
    return ", ".join(f"{key} of shape {size}{f' and type {kind}' if kind else ''}" for key, size, kind in sizes)


def runnable(model):
    """Return the module that an exported program of torch holds, any other classifier as it is."""
    return model.module() if type(model).__name__ == "ExportedProgram" else model


def _of_fixed_rows(answer: Callable, sizes: list) -> Callable:
    """Return a classifier that was exported for a fixed number of rows, the first of *sizes*, as one for any."""
    fixed = {size for size in sizes if isinstance(size, int)}
    if len(fixed) != 1 or (size := fixed.pop()) < 1:
        return answer

    def logits(batch):
        count, out = batching.length(batch), []
        for start in range(0, count, size):
            part = batching.take(batch, slice(start, min(start + size, count)))
            missing = size - batching.length(part)  # the last row stands for what is missing
            whole = batching.join([part, *[batching.take(part, slice(-1, None))] * missing])
            out.append(opened(answer(whole))[: size - missing])
        return batching.join(out)

    return logits


def _answers(model, name: str) -> Callable:
    """Return the way in which a classifier of its kind answers to a batch."""
    if is_module(model):
        return _of_torch(model, name)
    if isinstance(model, type):
        raise ValueError(f"{name} is the class {model.__name__}: give an object made and trained of it.")
    if hasattr(model, "run") and hasattr(model, "get_inputs"):
        return _of_onnx(model, name)
    if any(hasattr(model, way) for way in ("decision_function", "predict_log_proba", "predict_proba")):
        return estimators.scores_of(model, name)
    if callable(model):
        return model
    if isinstance(model, str):
        raise ValueError(
            f"{name} is the text {model!r}: open the file first, an .onnx one by onnxruntime.InferenceSession, or name "
            "it to python -m bqcore audit."
        )
    raise ValueError(
        f"{name} is {type(model).__name__}: give a torch module, an ONNX Runtime session, a scikit-learn estimator "
        "with decision_function or predict_proba, or a function from inputs to logits."
    )


def _of_torch(model, name: str) -> Callable:
    import torch
    from torch import nn

    modal = (
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU,
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    )  # fmt: skip
    # The module of an exported program always says that it trains, and so do converted layers inside of others.
    known = [module for module in model.modules() if module is model or isinstance(module, modal)]
    training = [module for module in known if module.training and not isinstance(module, torch.fx.GraphModule)]
    if training:
        raise ValueError(
            f"{name} is in training mode ({type(training[0]).__name__} is): dropout and batch statistics would move "
            "decisions; call .eval() first."
        )

    state = model.state_dict(keep_vars=True)
    if empty := [key for key, value in state.items() if is_tensor(value) and value.is_meta]:
        raise ValueError(
            f"{name} has no values yet ({len(empty)} of {len(state)} tensors, first {empty[0]}, are on the meta "
            "device): load its weights by load_state_dict(…, assign=True)."
        )

    def logits(batch):
        batch = tensors(batch, model)
        try:
            return _called(model, batch)
        except RuntimeError as error:
            if isinstance(batch, Mapping) or batch.is_floating_point():
                raise
            says = str(error).strip().splitlines()[0]
            raise Refusal(
                f"{name} fails on inputs of type {batch.dtype} ({says}): give them as in training, scaled floats, say."
            ) from None

    nodes = model.graph.nodes if isinstance(model, torch.fx.GraphModule) else []
    given = [node.meta["val"] for node in nodes if node.op == "placeholder" and is_tensor(node.meta.get("val"))]
    return _of_fixed_rows(logits, [value.shape[0] for value in given if value.ndim])


def _called(function, batch):
    """Return what a torch module or one of its methods says of a batch, without gradients."""
    import torch

    with torch.no_grad():
        return function(**batch) if isinstance(batch, Mapping) else function(batch)


def tensors(batch, model):
    """Return a batch as tensors on the device of a torch module, floating-point values in its parameters' type."""
    import torch

    if isinstance(batch, Mapping):
        return {key: tensors(value, model) for key, value in batch.items()}
    values = [*model.parameters(), *model.buffers()]
    device = values[0].device if values else None
    dtype = next((value.dtype for value in values if value.is_floating_point()), None)
    # Arrays mapped from files are read-only, which torch does not know: they are copied.
    tensor = batch if is_tensor(batch) else torch.from_numpy(np.array(forms.plain_array(batch)))
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def class_names(models: Mapping) -> np.ndarray | None:
    """Return the names of the classes that estimators know, by column; None if they are 0, 1, 2, … or unknown."""
    found = {}
    for name, model in models.items():
        names = getattr(getattr(model, "__self__", model), "classes_", None)  # of its method, too
        if isinstance(names, np.ndarray) and names.ndim == 1:
            found[name] = names
    words = [names for names in found.values() if names.dtype.kind in "OSU"]
    for (a, first), (b, second) in combinations(found.items(), 2):
        if len(words) != 1 and not np.array_equal(first, second):
            raise ValueError(
                f"The {a} knows the classes {forms.listed(first)} and the {b} {forms.listed(second)}: both must know "
                "the same classes; pick or reorder the columns in a function around the model."
            )
    names = (words or [*found.values(), None])[0]
    return None if names is None or np.array_equal(names, np.arange(len(names))) else names


def _of_onnx(session, name: str) -> Callable:
    outputs = [output.name for output in session.get_outputs()]
    if len(outputs) > 1 and "logits" not in outputs:
        raise ValueError(
            f"{name} gives {len(outputs)} outputs ({', '.join(outputs)}): name one of them logits, or give a function "
            "that runs the session and picks one."
        )
    declared = {i.name: _ONNX_TYPES.get(i.type) for i in session.get_inputs()}

    def logits(batch):
        given = batch if isinstance(batch, Mapping) else {next(iter(declared)): batch}
        if set(given) != set(declared):
            raise Refusal(f"{name} takes the inputs {', '.join(declared)}, and the data hold {', '.join(given)}.")
        feed = {key: _cast(value, declared[key], f"{name}'s input {key}") for key, value in given.items()}
        try:
            return session.run(["logits"] if len(outputs) > 1 else None, feed)[0]
        except Exception as error:  # of its own kinds
            shapes = ", ".join(f"{key} {value.shape}" for key, value in feed.items())
            says = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Refusal(f"{name} fails on {shapes} ({says}): give shapes that it was exported for.") from None

    return _of_fixed_rows(logits, [one.shape[0] for one in session.get_inputs() if one.shape])


def _cast(values, dtype, name: str) -> np.ndarray:
    """Return *values* in the type that a session declares, unless that is of integers and would change them."""
    array = forms.plain_array(values)
    with np.errstate(invalid="ignore"):  # NaN and what is out of range are refused below
        out = np.asarray(array, dtype=dtype)
    if out is array or out.dtype.kind not in "iu":
        return out
    changed = out != array
    if changed.any():
        raise Refusal(
            f"{name} takes {out.dtype}, which would change {int(changed.sum())} of {array.size} values of type "
            f"{array.dtype}, first {array[changed][0]:g}: give whole numbers, such as unscaled pixels, or a function "
            "that turns the data into what the session takes."
        )
    return out


def opened(output):
    """Return the logits of an output that carries them as ``logits`` or holds nothing else, else the output."""
    if isinstance(output, Mapping):
        return next(iter(output.values())) if len(output) == 1 else output.get("logits", output)
    if isinstance(output, tuple) and len(output) == 1:
        return output[0]
    return getattr(output, "logits", output)


def double(model, inputs):
    """
    Return a float64 copy of a torch module that gives the same logits at a few *inputs*, or None if there is none.

    Kernels for quantized weights know no float64; such a module stays as it is.
    """
    if not is_module(model) or isinstance(inputs, Mapping):
        return None
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign modules that are not used to being copied
            twin = copy.deepcopy(model).double().requires_grad_(False)  # else batched gradients take the weights' too
            x = tensors(inputs, model)  # each gets its own: the first may work in place
            ours, theirs = (to_numpy(opened(z)).astype(np.float64) for z in (model(own(x)), twin(own(x).double())))
    except Exception:  # whatever a foreign module raises, it has no such copy
        return None
    span = np.ptp(ours, axis=1, keepdims=True)
    return twin if ours.shape == theirs.shape and (np.abs(ours - theirs) <= 1e-3 * span).all() else None
