"""Generated models and data: the audit gives what twenty lines of NumPy do, or one line; nothing given is changed."""

import copy

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bqcore
from tests.helpers.audits import linear_session

FEATURES = 6


def plain(z: np.ndarray, q: np.ndarray, y: np.ndarray | None, fraction: float) -> dict:
    """Return what an audit measures, in NumPy alone."""
    order = np.argsort(-z, axis=1, kind="stable")
    a, b, row = order[:, 0], order[:, 1], np.arange(len(z))
    decision = q.argmax(axis=1)
    margin = z[row, a].astype(float) - z[row, b]
    band = np.argsort(margin, kind="stable")[: max(1, int(np.ceil(round(fraction * len(z), 9))))]
    flipped, reversed_pair = a != decision, q[row, a] < q[row, b]
    out = {
        "flip_rate": flipped.mean(), "band_flip_rate": flipped[band].mean(), "band_margin": margin[band[-1]],
        "pair_order_flip_rate": reversed_pair.mean(), "band_pair_order_flip_rate": reversed_pair[band].mean(),
        "samples": len(z), "flips_in_band": flipped[band].sum(),
    }  # fmt: skip
    if y is not None:
        right, still = a == y, decision == y
        out |= {
            "accuracy_reference": right.mean(),
            "accuracy": still.mean(),
            "right_to_wrong": (flipped & right).mean(),
        }
        out |= {"wrong_to_right": (flipped & still).mean()}
    return out


class Wrapped(nn.Module):
    """A linear layer that is used as models use theirs: in place, twice, with hooks, in odd outputs."""

    def __init__(self, weight, bias, habit):
        super().__init__()
        self.layer = nn.Linear(FEATURES, len(bias))
        self.layer.weight.data, self.layer.bias.data = torch.tensor(weight.T).contiguous(), torch.tensor(bias)
        self.twin = self.layer if habit == "shared" else None
        self.habit = habit
        self.seen = []
        if habit == "hook":
            self.layer.register_forward_hook(lambda module, given, out: self.seen.append(len(out)))

    def forward(self, x=None, **named):
        x = torch.as_tensor(named["row"], dtype=self.layer.weight.dtype) if named else x
        if self.habit == "in place":
            x.clamp_(min=-1.0)
        z = self.layer(x) if self.twin is None else (self.layer(x) + self.twin(x)) / 2
        if self.habit == "raises":
            raise LookupError(f"of {len(x)} rows")
        if self.habit == "not a number":
            z[0] = torch.nan
        outputs = {"tuple": (z,), "dictionary": {"logits": z}, "list": z.tolist(), "pair": (z, z), "nothing": None}
        return outputs.get(self.habit, z)


HABITS = [
    "plain",
    "shared",
    "hook",
    "in place",
    "tuple",
    "dictionary",
    "list",
    "pair",
    "nothing",
    "raises",
    "not a number",
]
KINDS = ["module", "half", "double", "function", "session", "fixed session", "estimator"]
FORMS = [
    "array", "tensor", "frame", "sparse", "lists", "big-endian", "longdouble", "batches", "loader", "shuffled", "generator",
    "function", "pairs", "dictionary", "bytes", "nullable", "short", "missing",
]  # fmt: skip
CLASSES = ["none", "indices", "column", "one-hot", "floats", "names", "beyond", "few"]


def model_of(kind: str, habit: str, weight: np.ndarray, bias: np.ndarray):
    """Return a classifier of a kind with these weights, float32."""
    module = Wrapped(weight, bias, habit).eval()
    if kind in ("half", "double"):
        return module.half() if kind == "half" else module.double()
    if kind == "function":
        return lambda x: module(torch.from_numpy(np.array(x, dtype=np.float32)))
    if kind.endswith("session"):
        return linear_session(module.layer, rows=7 if kind == "fixed session" else "n")
    if kind == "estimator":
        model = LogisticRegression()
        model.classes_, model.coef_, model.intercept_ = np.array([f"c{i}" for i in range(len(bias))]), weight.T, bias
        return model
    return module


def split_of(form: str, x: np.ndarray, classes):
    """Return inputs and classes in a form."""
    pair = lambda inputs: inputs if classes is None else (inputs, classes)  # noqa: E731
    whole = {
        "array": x, "tensor": torch.from_numpy(x.copy()), "frame": pd.DataFrame(x, columns=list("abcdef")), "lists": x.tolist(),
        "sparse": scipy.sparse.csr_array(x), "big-endian": x.astype(">f4"), "longdouble": x.astype(np.longdouble),
        "dictionary": {"row": x}, "bytes": x.astype(np.uint8), "nullable": pd.DataFrame(x).convert_dtypes(),
        "short": x[:3], "missing": np.where(np.arange(len(x))[:, None] == 2, np.nan, x).astype("f4"),
    }  # fmt: skip
    if form in whole:
        return pair(whole[form])
    if form in ("loader", "shuffled"):
        y = [] if classes is None else [torch.as_tensor(np.asarray(classes))]
        return DataLoader(TensorDataset(torch.from_numpy(x.copy()), *y), 16, shuffle=form == "shuffled")
    if form == "pairs":
        return list(x) if classes is None else list(zip(x, classes))
    batches = [x[i : i + 16] if classes is None else (x[i : i + 16], classes[i : i + 16]) for i in range(0, len(x), 16)]
    return {"batches": batches, "generator": iter(batches), "function": lambda: batches}[form]


def copied(split):
    """Return a copy of what is given, to be compared; None of what can only be gone through once."""
    return (
        None if hasattr(split, "__next__") or callable(split) or isinstance(split, DataLoader) else copy.deepcopy(split)
    )


def equal(first, second) -> bool:
    """Return whether two splits, or parts of them, hold the same."""
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if hasattr(first, "toarray"):
        return np.array_equal(first.toarray(), second.toarray())
    if hasattr(first, "equals"):
        return first.equals(second)
    first, second = np.asarray(first), np.asarray(second)
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def state_of(model) -> list:
    """Return copies of the tensors, gradients and modes of a model."""
    if not isinstance(model, nn.Module):
        return []
    parameters = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    return [
        *(value.clone() for value in model.state_dict().values()),
        *parameters,
        *hooks,
        *(m.training for m in model.modules()),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_audit_is_plain_numpy_or_one_line_and_changes_nothing(data):
    draw = data.draw
    n, k = draw(st.integers(20, 60)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = generator.normal(size=(n, FEATURES)).astype(np.float32)
    form = draw(st.sampled_from(FORMS))
    if form == "bytes":
        x = np.abs(4 * x).round()
    weight, bias = generator.normal(size=(FEATURES, k)).astype(np.float32), np.zeros(k, np.float32)
    rough = weight + draw(st.sampled_from([0.0, 0.1, 1.0])) * generator.normal(size=weight.shape).astype(np.float32)
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(2)]
    habits = [draw(st.sampled_from(HABITS)) if draw(st.booleans()) else "plain" for _ in range(2)]
    models = [model_of(*given, weights, bias) for *given, weights in zip(kinds, habits, (weight, rough))]
    y, named = (x @ weight).argmax(1), draw(st.sampled_from(CLASSES))
    y = np.where(generator.random(n) < 0.2, generator.integers(k, size=n), y)
    classes = {
        "none": None, "indices": y, "column": y[:, None], "one-hot": np.eye(k)[y], "floats": y.astype(float),
        "names": np.array([f"c{i}" for i in y]), "beyond": y + k, "few": y[:-1],
    }[named]  # fmt: skip
    if form in ("loader", "shuffled", "pairs") and named in ("names", "few"):
        classes, named = None, "none"  # there are no such tensors or pairs
    fraction, nodes = draw(st.sampled_from([0.1, 0.2, 1.0])), draw(st.sampled_from([0, 5]))
    split = split_of(form, x, classes)
    before, states = copied(split), [state_of(model) for model in models]
    size = draw(st.sampled_from([None, 7]))
    try:
        found = bqcore.audit(
            *models, None, split, fraction=fraction, nodes=nodes, gradient_samples=5, check_order=False, batch_size=size
        )
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 700 and str(error).endswith("."), error
        says = {"raises": "LookupError", "nothing": "are None", "pair": "are a tuple", "not a number": "non-finite"}
        spoilt = [
            habit
            for kind, habit in zip(kinds, habits)
            if habit in says and kind in ("module", "half", "double", "function")
        ]
        odd = form in ("short", "missing", "shuffled", "bytes", "dictionary") or named in ("names", "beyond", "few")
        odd |= form == "pairs" and named == "one-hot"  # which might be a batch
        odd |= form in ("sparse", "nullable", "frame", "lists") and {"function", "estimator"} & {*kinds} != set()
        assert spoilt or odd, (kinds, habits, form, named, str(error))
        if spoilt and not odd:
            assert any(says[habit] in str(error) for habit in spoilt), (habits, str(error))
    else:
        values = []
        for kind, habit, weights in zip(kinds, habits, (weight, rough)):
            given = (
                np.maximum(x, -1)
                if habit == "in place" and kind not in ("session", "fixed session", "estimator")
                else x
            )
            values.append(given.astype(float) @ weights)
        held = found.dataset.sel(split="heldout")
        expected = plain(*values, None if named == "none" else y, fraction)
        near = 0.05 if "half" in kinds else 1e-4  # logits this near to each other may change places by rounding
        gaps = [np.diff(np.sort(z, axis=1)[:, -2:])[:, 0] for z in values]
        if min(gap.min() for gap in gaps) > near and np.diff(np.sort(gaps[0])).min() > near * (fraction < 1):
            for name, value in expected.items():
                np.testing.assert_allclose(
                    float(held[name]), value, rtol=1e-2 if "half" in kinds else 1e-4, err_msg=name
                )
        assert float(held.samples) == n
        assert not {"raises", "nothing", "pair", "not a number"} & {
            h for k, h in zip(kinds, habits) if k in ("module", "half", "double", "function")
        }
        assert found.to_html() and found.to_json()
    assert before is None or equal(before, split), "what was given is changed"
    for model, state in zip(models, states):
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(state, state_of(model)))
