"""Which weights are quantized: each Parameter once in all its places, every kind of layer, what stays in float said."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bqcore
from bqcore.metrics import decisions
from bqcore.quantizers import mixed_precision, weights
from studies import networks
from tests.helpers.nets import SEEDS, normal, shared


class Conv1D(nn.Module):
    """A linear layer as Hugging Face's GPT-2 has it: its weight is (in, out)."""

    def __init__(self, out: int, taken: int):
        super().__init__()
        self.nf = out
        self.weight, self.bias = nn.Parameter(torch.randn(taken, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Pooled(nn.Module):
    """An embedding of tokens, a recurrent layer that gives its last state, and logits."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.tokens, self.steps, self.head = nn.Embedding(11, 8), kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.steps(self.tokens(x))[0][:, -1])


KINDS = {  # module, names of its weights, the axis of output channels
    "linear": (nn.Linear(3, 4), [""], 0),
    "bilinear": (nn.Bilinear(3, 2, 4), [""], 0),
    "convolution": (nn.Conv2d(2, 4, 3, groups=2), [""], 0),
    "transposed": (nn.ConvTranspose2d(2, 3, 2), [""], 1),
    "transposed, 1 axis": (nn.ConvTranspose1d(2, 3, 2), [""], 1),
    "Conv1D": (Conv1D(4, 3), [""], 1),
    "embedding": (nn.Embedding(5, 3), [""], 0),
    "bag": (nn.EmbeddingBag(5, 3), [""], 0),
    "attention": (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj"], 0),
    "attention to others": (
        nn.MultiheadAttention(4, 2, kdim=3), ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"], 0
    ),
    "LSTM": (nn.LSTM(3, 4, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"], 0),
    "GRU": (
        nn.GRU(3, 4, bidirectional=True),
        ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"], 0,
    ),
    "cell": (nn.LSTMCell(3, 4), ["weight_ih", "weight_hh"], 0),
}  # fmt: skip


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_is_quantized_along_its_output_channels(kind, granularity):
    layer, names, axis = copy.deepcopy(KINDS[kind])
    for parameter in layer.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    model = nn.ModuleDict({"of": layer})
    assert list(weights.weights(model)) == [f"of.{name}".rstrip(".") for name in names]
    rounded = bqcore.quantize_model(model, 3, granularity=granularity)
    size = 0
    for path, before in model.named_parameters():
        expected = before.detach()
        if "bias" not in path:
            turned = expected.transpose(0, axis)
            expected = bqcore.quantize(turned, 3, granularity=granularity).transpose(0, axis)
            size += -(-before.numel() * 3 // 8) + 4 * (1 if granularity == "tensor" else len(turned))
        else:
            size += 4 * before.numel()
        assert torch.equal(rounded.get_parameter(path), expected), path
    assert bqcore.model_bytes(model, 3, granularity=granularity) == size


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_classifier_is_swept_as_its_quantized_copies_are(kind):
    torch.manual_seed(0)
    model, x = Pooled(kind).eval(), torch.randint(11, (150, 5), generator=torch.Generator().manual_seed(0))
    found = bqcore.sweep(model, x, x, bits=(8, 3)).dataset.sel(split="heldout")
    assert all(a is b for a, b in zip(model.steps._flat_weights, model.steps.parameters(), strict=True))
    with torch.no_grad():
        expected = [decisions.flips(model(x), bqcore.quantize_model(model, b)(x)).rate for b in (8, 3)]
    assert found.flip_rate.values.tolist() == expected and expected[1] > 0


# One Parameter in several places


def tied(seed: int) -> nn.Module:
    """Return a network two layers of which have one weight, and biases of their own."""
    model = networks.mlp((6, 6, 6, 4), seed)
    model[2].weight = model[0].weight
    return model.eval()


class Language(nn.Module):
    """Tokens come in and logits over tokens come out by one table, in a block that runs twice."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens, self.block = nn.Embedding(4, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh())
            self.again, self.out = self.block, nn.Linear(6, 4, bias=False)
        self.out.weight = self.tokens.weight
        self.eval()

    def forward(self, x):
        return self.out(self.again(self.block(x @ self.tokens.weight.T @ self.tokens.weight)))


def plainly(model: nn.Module, bits: int, **options) -> nn.Module:
    """Return a copy with every matrix rounded."""
    out = copy.deepcopy(model)
    for parameter in out.parameters():  # each once
        if parameter.ndim > 1:
            parameter.data = bqcore.quantize(parameter.data, bits, **options)
    return out


@settings(max_examples=20)
@given(st.sampled_from([shared, tied, Language]), SEEDS, st.sampled_from(["narrow", "full"]))
def test_a_weight_of_several_places_is_quantized_once_in_all_of_them(make, seed, scheme):
    model, x = make(seed % 1000), normal(60, 6, seed=seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = bqcore.sweep(model, x, x, bits=(4, 2), scheme=scheme)
    each = bqcore.blame_layers(model, x, bits=2, scheme=scheme)
    names = list(weights.weights(model))
    assert sorted(each.layer.values) == sorted(names) and len(names) == 2
    bqcore.plan_bits(model, x, x, budget=bqcore.model_bytes(model, 4), bits=(8, 4, 2), scheme=scheme)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for b in (4, 2):
            expected, ours = plainly(model, b, scheme=scheme), bqcore.quantize_model(model, b, scheme=scheme)
            assert torch.equal(ours(x), expected(x))
            rate = found.dataset.flip_rate.sel(split="heldout", bits=b)
            assert float(rate) == decisions.flips(model(x), expected(x)).rate
            if scheme == "full":  # a second rounding would clip the largest weight anew
                assert torch.equal(mixed_precision.mixed(model, dict.fromkeys(names, b), scheme=scheme)(x), expected(x))


def test_a_weight_that_is_tied_counts_its_bytes_once_and_is_named_by_its_first_place():
    model = tied(0)
    assert list(weights.weights(model)) == ["0", "4"]
    biases = 4 * (6 + 6 + 4)
    assert bqcore.model_bytes(model, 8) == bqcore.model_bytes(model, {"0": 8, "4": 8}) == 36 + 4 + 24 + 4 + biases
    with pytest.raises(ValueError, match="There is no layer '2' to quantize: choose from '0', '4'"):
        bqcore.model_bytes(model, {"2": 8})


def test_parameters_are_back_in_their_places_after_an_error():
    model = shared(0)
    places = [(module, slot, value) for module in model.modules() for slot, value in module._parameters.items()]
    with pytest.raises(ZeroDivisionError), weights.replaced(model, {"0.weight": torch.zeros(6, 6)}):
        assert float(model[2].weight.sum()) == 0
        raise ZeroDivisionError
    assert all(module._parameters[slot] is value for module, slot, value in places)


# What is left out


def test_skipped_layers_stay_in_float_with_what_they_share():
    model, x = Pooled().eval(), torch.randint(11, (60, 5))
    kept = bqcore.quantize_model(model, 2, skip=["steps", "tokens"])
    same = {name for name, value in kept.named_parameters() if torch.equal(value, model.get_parameter(name))}
    assert {name for name, _ in model.named_parameters()} - same == {"head.weight"}
    assert bqcore.blame_layers(model, x, skip="steps").layer.values.tolist() in (["tokens", "head"], ["head", "tokens"])
    plan = bqcore.plan_bits(model, x, x, budget=10**6, bits=(8, 2), skip=["head", "steps.weight_hh_l0"])
    assert list(plan.bits) == ["tokens", "steps.weight_ih_l0"]
    both = tied(0)
    assert list(weights.weights(both, skip="2")) == ["4"]  # the first layer has its weight
    with pytest.raises(
        ValueError, match="There is no layer 'tail' to skip: choose from 'tokens', 'steps.weight_ih_l0'"
    ):
        bqcore.sweep(model, x, x, skip="tail")
    with pytest.raises(ValueError, match="All layers that could be quantized are to be skipped: nothing to quantize"):
        bqcore.quantize_model(nn.Sequential(nn.Linear(2, 2)), 4, skip=["0"])
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3)).eval()
    x = normal(60, 4)
    assert bqcore.plan_bits(computed, x, x, budget=10**6, bits=(8, 2), skip="0").bits == {"1": 8}
    says = " 62.5 % of the weights stay in float ("
    assert says in str(bqcore.sweep(computed, x, x, bits=(8,), skip="0"))
    with pytest.raises(ValueError, match="Layer '0': its weight is computed from other parameters"):
        bqcore.sweep(computed, x, x, bits=(8,))


class Odd(nn.Module):
    """Has most of its weights where no walk over known layers finds them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 30))
        self.norm, self.head = nn.LayerNorm(30), nn.Linear(30, 4)

    def forward(self, x):
        return self.head(self.norm(x @ self.table))


def test_what_stays_in_float_is_said():
    torch.manual_seed(0)
    model, x = Odd().eval(), normal(60, 6)
    says = " 60.0 % of the weights stay in float ('table')."
    assert str(bqcore.sweep(model, x, x, bits=(8, 4))).endswith(says)
    assert str(bqcore.plan_bits(model, x, x, budget=10**6)).endswith(says)
    found = bqcore.blame_layers(model, x)
    assert (found.float_weights, found.float_layers) == (180 / 300, "table")
    model, x = Pooled().eval(), torch.randint(11, (60, 5))
    count = {name: weight.parameter.numel() for name, weight in weights.weights(model).items()}
    left = count["steps.weight_ih_l0"] + count["steps.weight_hh_l0"] + count["head"]
    says = f" {100 * left / sum(count.values()):.1f} % of the weights stay in float ("
    text = bqcore.sweep(model, x, x, bits=(8,), skip=["steps", "head"]).conclusion
    assert text.endswith(f"{says}'steps.weight_ih_l0', 'steps.weight_hh_l0', 'head').")
    every = bqcore.sweep(model, x, x, bits=(8,))
    assert "stay in float" not in every.conclusion and every.dataset.float_weights == 0


def test_an_audit_says_which_weights_are_the_same_in_the_candidate():
    torch.manual_seed(0)
    model, x = Odd().eval(), normal(60, 6)
    found = bqcore.audit(model, bqcore.quantize_model(model, 4), None, x, nodes=0)
    assert "60.0 % of the weights are the same in the candidate, not quantized ('table')." in found.notes
    plain = networks.mlp((6, 5, 4), 0).eval()
    for other in (bqcore.quantize_model(plain, 8), nn.Sequential(plain, nn.Identity()).eval(), plain):
        assert "not quantized" not in str(bqcore.audit(plain, other, None, x, nodes=0))


class Detached(nn.Module):
    """Computes with a copy of its layer's weight, which no walk over layers finds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("copy", self.layer.weight.detach().T.clone())

    def forward(self, x):
        return x @ self.copy


def test_a_model_that_does_not_compute_with_its_weights_is_no_robust_one():
    model, x = Detached().eval(), normal(60, 6)
    assert str(bqcore.sweep(model, x, x, bits=(8, 2))).endswith(
        " At 8, 2 bits weights change and no margin does: does the model compute with them?"
    )
    with torch.no_grad():
        model.layer.weight.fill_(0.25)  # nothing to change
    assert "compute with them" not in str(bqcore.sweep(model, x, x, bits=(8, 2)))


# Weights that are all equal


@given(st.sampled_from([0.0, -0.3, 1e-30, 7.0, 3e38]), st.integers(2, 16), st.sampled_from(["narrow", "full"]),
       st.sampled_from(["tensor", "channel"]))  # fmt: skip
def test_equal_weights_are_exact(value, bits, scheme, granularity):
    weight = torch.full((3, 4), value)
    assert torch.equal(bqcore.quantize(weight, bits, scheme=scheme, granularity=granularity), weight)


def test_a_layer_of_equal_weights_stops_nothing():
    model, x = networks.mlp((6, 5, 4), 0).eval(), normal(60, 6)
    for value in (0.0, 0.5):
        with torch.no_grad():
            model[0].weight.fill_(value)
        assert np.isfinite(bqcore.sweep(model, x, x, bits=(4,), scheme="full").dataset.flip_rate).all()
        for rounded in (
            bqcore.quantize_model(model, 3), bqcore.gptq(model, x, 3),
            *(bqcore.optimize_rounding(model, x, 3, seed=0, steps=5, on=on)[0] for on in ("layers", "logits")),
        ):  # fmt: skip
            assert torch.equal(rounded[0].weight, model[0].weight)
            assert not torch.equal(rounded[2].weight, model[2].weight)
