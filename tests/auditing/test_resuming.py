"""One layer at a time from kept outputs: bit for bit the plain way, for models of every build, or the plain way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bqcore.auditing import _passes, resuming, sensitivity, streaming
from bqcore.quantizers.mixed_precision import mixed
from bqcore.quantizers.weights import weights
from tests.helpers.nets import normal

FIELDS = ("winner", "runner_up", "margin", "decision", "moved", "tied")


class Residual(nn.Module):
    """Adds its input in place, by a function, behind a dropout."""

    def __init__(self, width: int):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, x):
        y = self.drop(self.b(self.act(self.a(x))))
        y += x
        return functional.relu_(y) if y.shape[1] % 2 else functional.gelu(y) * 1.5


class Reused(nn.Module):
    """Calls one layer twice, and uses another's weight by a function before that layer runs."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.twice, self.last = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        early = functional.linear(x, self.last.weight)
        return self.last(self.twice(self.twice(self.first(x)).tanh())) + early


class Branches(nn.Module):
    """Takes a way by its inputs, and returns several things from a module."""

    def __init__(self, width: int):
        super().__init__()
        self.steps, self.left, self.right = nn.GRU(1, 3, batch_first=True), nn.Linear(width, width), nn.Linear(3, width)

    def forward(self, x):
        every, last = self.steps(x[..., None])
        x = self.left(x) if x.mean() > 0 else x
        return x + self.right(last[0]) + self.right(every[:, 0])


class Seen(nn.Module):
    """Writes to its input by a name that torch does not follow."""

    def __init__(self, width: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        y = self.inner(x)
        z = self.outer(y)
        y.data.mul_(2)
        return z + y


BLOCKS = {
    "linear": lambda w: nn.Linear(w, w),
    "activated": lambda w: nn.Sequential(nn.Linear(w, w), nn.BatchNorm1d(w), nn.ReLU(inplace=True)),
    "in place": lambda w: nn.Sequential(nn.Linear(w, w), nn.Hardtanh(-0.5, 0.5, inplace=True), nn.Linear(w, w)),
    "residual": Residual,
    "reused": Reused,
    "branches": Branches,
    "seen": Seen,
    "attention": lambda w: nn.Sequential(
        nn.Unflatten(1, (w, 1)), nn.Linear(1, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Linear(4, 1), nn.Flatten(),
    ),
    "convolutions": lambda w: nn.Sequential(
        nn.Unflatten(1, (1, w)), nn.Conv1d(1, 3, 3, padding=1), nn.ELU(inplace=True), nn.Conv1d(3, 1, 3, padding=1),
        nn.Flatten(),
    ),
}  # fmt: skip


def built(names, width: int, seed: int, *, tied: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [BLOCKS[name](width) for name in names]
        return nn.Sequential(*blocks, *(blocks[:1] if tied else []), nn.Linear(width, 4)).eval()


def both_ways(model, split, *, memory=resuming.MEMORY, batch_size=None):
    """Return the candidates that resume, with their decisions and those of the plain way."""
    candidates = {f"candidate {name!r}": mixed(model, {name: 3}) for name in weights(model)}
    functions = streaming.logits_functions(model, candidates, False)
    resumed = resuming.Resumed(model, functions, candidates, memory=memory)
    options = {"batch_size": batch_size, "alike": True}
    found, plain = (
        streaming.decide_split(each, split, "heldout", **options)[0] for each in (resumed.functions(), functions)
    )
    return resumed, found, plain


def assert_equal(found, plain):
    assert found.keys() == plain.keys()
    for name in plain:
        for field in FIELDS:
            assert np.array_equal(getattr(found[name], field), getattr(plain[name], field)), (name, field)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=4), st.integers(4, 7), st.integers(0, 999),
    st.booleans(), st.sampled_from([0, 3000, resuming.MEMORY]), st.sampled_from([None, 7, 20]),
)  # fmt: skip
def test_models_of_any_build_decide_as_in_the_plain_way(names, width, seed, tied, memory, size):
    model, x = built(names, width, seed, tied=tied), normal(40, width, seed=seed)
    before = [(module, vars(module).copy()) for module in model.modules()]
    _, found, plain = both_ways(model, x, memory=memory, batch_size=size)
    assert_equal(found, plain)
    assert all(vars(module).keys() == own.keys() and "forward" not in own for module, own in before)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "seen"])
def test_every_candidate_of_a_plain_build_resumes(name):
    model = built([name, name], 6, 1)
    resumed, found, plain = both_ways(model, normal(40, 6))
    assert_equal(found, plain)
    assert resumed.begins.keys() == resumed.candidates.keys() and len(resumed.bytes) > 0


def calls_in(model, run) -> dict[str, int]:
    """Count the calls of each layer in *run*."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, *_, name=name: seen.update({name: seen.get(name, 0) + 1}))
    run()
    return seen


def test_what_comes_before_a_layer_is_computed_once_and_not_for_each():
    class Counted(nn.Linear):
        count = 0

        def forward(self, x):
            Counted.count += len(x)
            return super().forward(x)

    model = nn.Sequential(*(nn.Sequential(Counted(6, 6), nn.ReLU(inplace=True)) for _ in range(10))).eval()
    x = normal(500, 6)
    sensitivity.one_at_a_time(model, x, (4,))
    resumed = Counted.count
    Counted.count = 0
    candidates = {f"candidate {name!r}": mixed(model, {name: 4}) for name in weights(model)}
    streaming.decide_split(streaming.logits_functions(model, candidates, False), x, "heldout", alike=True)
    # Of ten layers the plain way runs 100 for the candidates and 25 for the reference, with its first look; resumed
    # are 10 + 9 + … + 1, and eight rows in both ways.
    assert Counted.count == 500 * 125 and 500 * 80 < resumed < 500 * 80 + 8 * 220


def test_a_module_that_hides_what_it_writes_is_measured_in_the_plain_way():
    model = nn.Sequential(nn.Linear(5, 5), Seen(5), nn.Linear(5, 4)).eval()
    resumed, found, plain = both_ways(model, normal(40, 5))
    assert_equal(found, plain)
    assert "candidate '1.outer'" not in resumed.begins


def test_a_model_that_counts_its_calls_or_cannot_be_looked_at_is_measured_in_the_plain_way():
    class Counting(nn.Module):
        def __init__(self, least: int = 0):
            super().__init__()
            self.layer, self.last, self.least, self.count = nn.Linear(5, 5), nn.Linear(5, 4), least, 0

        def forward(self, x):
            if len(x) < self.least:
                raise RuntimeError(f"{len(x)} rows are too few")
            self.count += 1
            return self.last(self.layer(x) * 2.0)

    for least in (0, 10):
        resumed, found, plain = both_ways(Counting(least).eval(), normal(40, 5))
        assert_equal(found, plain)
        assert len(resumed.begins) == (0 if least else 2)


def test_the_batch_is_as_large_as_the_memory_and_the_outer_modules_come_first():
    model, x = built(["activated", "activated"], 6, 0), normal(200, 6)
    candidates = {f"candidate {name!r}": mixed(model, {name: 3}) for name in weights(model)}
    functions = streaming.logits_functions(model, candidates, False)
    # Kept are the two blocks' outputs, as the second block and the last layer begin behind them: 24 bytes a row each.
    for memory, size in ((48 * 50, 50), (48 * 10, 32), (1 << 29, 512)):
        resumed = resuming.Resumed(model, functions, candidates, memory=memory)
        assert resumed.batch_size(x, "A split") == resumed.batch_size((x, None), "A split") == size
        assert type(resumed.batch_size(x, "A split")) is int
        assert list(resumed.bytes.values()) == [24, 24]
    assert resuming.Resumed(model, functions, candidates).batch_size(iter([x]), "A split") is None
    assert len(resuming.Resumed(model, functions, candidates, memory=24 * 200)._kept(((x,), {}))) == 0


class Nested(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.turn, self.last = nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x, depth: int = 2):
        return self(torch.relu(self.turn(x)), depth - 1) if depth else self.last(x)


def test_a_model_that_calls_itself_is_recorded_as_one_pass():
    resumed, found, plain = both_ways(Nested().eval(), normal(40, 5))
    assert_equal(found, plain)
    assert "candidate 'last'" in resumed.begins  # behind the turns


def test_nests_are_equal_if_they_are_built_alike_of_equal_parts():
    one = {"a": [torch.ones(3), np.ones(3)], "b": (2, "x", None)}
    assert _passes.equal(one, {"a": [torch.ones(3), np.ones(3)], "b": (2, "x", None)})
    for other in (
        one | {"a": [torch.ones(3), np.zeros(3)]}, one | {"a": [torch.zeros(3), np.ones(3)]}, one | {"b": (2, "y", None)},
        one | {"a": [torch.ones(3), torch.ones(3)]}, one | {"a": [torch.ones(3).double(), np.ones(3)]}, {"a": one["a"]},
    ):  # fmt: skip
        assert not _passes.equal(one, other)
