"""The multiverse on CIFAR-10: rulers that nest, quantizers, bands; and what is judged of it."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from bqcore.metrics import decisions, label_grids, margins, masks, planes
from bqcore.quantizers import uniform
from studies import catalogue, ledger, networks, specs
from studies.data.splits import StoppingSplit
from studies.multiverse import cifar, cifar_claims, judging, roundings
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def split() -> StoppingSplit:
    """Random images of three classes, 40 for each part."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(3):
        parts += [torch.rand(40, 3, 8, 8, generator=generator), torch.arange(40) % 3]
    return StoppingSplit(*parts)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small network with batch norms that have seen other inputs than they are given."""
    model = networks.build("strided-resnet", (3, 8, 8), 3, width=4, seed=1)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(2))
            norm.weight.copy_(torch.linspace(0.2, 3.0, len(norm.weight)))
    return model.eval()


def test_readings_are_those_of_the_library(split, model):
    candidate = uniform.quantize_model(model, 4)
    found = cifar.reader(model, split, 21)(candidate)
    with torch.no_grad():
        z, q = model(split.held_out_inputs), candidate(split.held_out_inputs)
    held_out = found.sel(split="held-out")
    assert float(held_out.flip_rate) == decisions.flips(z, q).rate
    lost = (decisions.decide(z) == split.held_out_classes.numpy()).mean()
    lost -= (decisions.decide(q) == split.held_out_classes.numpy()).mean()
    assert float(held_out.accuracy_lost) == pytest.approx(lost, abs=1e-12)
    for share in cifar.SHARES:
        band = decisions.boundary_band(z, share)
        here = held_out.sel(share=share, nearness="margin")
        assert float(here.band_flip_rate) == decisions.flips(z[band], q[band]).rate
        assert float(here.band_pair_order_flip_rate) == decisions.pair_order_flip_rate(z[band], q[band])
    nearest = np.argsort(margins.radius(model, split.held_out_inputs).radius, kind="stable")[:8]
    assert (
        float(held_out.band_flip_rate.sel(share=0.2, nearness="radius")) == decisions.flips(z[nearest], q[nearest]).rate
    )


@pytest.mark.parametrize("nodes", [21, 11])
def test_every_ruler_is_a_part_of_one_grid(split, model, nodes):
    """The range alone, from a plane of its own without a padding, and its coarser grids."""
    candidate = uniform.quantize_model(model, 3)
    found = cifar.reader(model, split, 21)(candidate).boundary_jaccard
    plane = planes.pca_plane(split.held_out_inputs)
    thin = [masks.boundary_mask(label_grids.label_grid(one, plane, nodes)) for one in (model, candidate)]
    here = found.sel(plane="held-out PCA", extent="range", nodes=nodes)
    for cells in cifar.THICKNESS:
        pair = [masks.thickened(mask, cells) if cells else mask for mask in thin]
        assert float(here.sel(thickness=cells)) == pytest.approx(masks.boundary_jaccard(*pair).distance, abs=1e-12)
    wide = planes.pca_plane(split.held_out_inputs, padding=0.1)
    labels = [label_grids.label_grid(one, wide, 12 * (nodes - 1) // 10 + 1) for one in (model, candidate)]
    distance = masks.boundary_jaccard(*map(masks.boundary_mask, labels)).distance
    of_wide = found.sel(plane="held-out PCA", extent="range and a tenth more", nodes=nodes, thickness=0)
    assert float(of_wide) == pytest.approx(distance, abs=1e-12)
    fifth = 2 * (nodes - 1) // 10
    inner = [
        masks.boundary_mask(grid[fifth + fifth // 2 :][: 3 * fifth + 1, fifth + fifth // 2 :][:, : 3 * fifth + 1])
        for grid in labels
    ]
    of_inner = found.sel(plane="held-out PCA", extent="inner 60 %", nodes=nodes, thickness=0)
    assert float(of_inner) == pytest.approx(masks.boundary_jaccard(*inner).distance, abs=1e-12)


def test_folding_moves_a_tensor_s_steps_and_no_channel_s(split, model):
    folded = cifar.folded(model)
    x = split.held_out_inputs
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), atol=1e-4)
        of_tensor = [uniform.quantize_model(one, 4)(x) for one in (model, folded)]
        of_channel = [uniform.quantize_model(one, 4, granularity="channel")(x) for one in (model, folded)]
    assert not torch.allclose(*of_tensor, atol=1e-2)
    assert torch.allclose(*of_channel, atol=1e-3)
    assert cifar.folded(networks.build("cnn", (3, 8, 8), 3, width=2, seed=0)) is None


def test_a_model_that_is_lent_stays_as_it_was(split, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cifar.reader(model, split, 11)(uniform.quantize_model(model, 4))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> xr.Dataset:
    """Readings of two tiny networks of digits, of which one has fewer nodes, called the CIFAR-10 subset."""
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("readings"))
    spec = specs.Readings(dataset="digits", networks=("mlp 16 3", "mlp 8 2 11"), nodes=21)
    found = catalogue.sweep(spec, 3, workers=1, progress=False)
    patch.undo()
    return found.assign_attrs(spec=found.attrs["spec"].replace('"digits"', '"cifar-10"'))


def test_networks_and_seeds_are_joined_in_their_places(tiny):
    assert tiny.trained.values.tolist() == ["mlp 16 3", "mlp 8 2"]
    assert tiny.nodes.values.tolist() == [21, 11]
    coarse = tiny.sel(trained="mlp 8 2").boundary_jaccard.sel(step="a tensor")
    assert np.isnan(coarse.sel(nodes=21)).all() and np.isfinite(coarse.sel(nodes=11)).all()
    assert np.isnan(tiny.flip_rate.sel(step="a tensor, batch norms folded")).all()
    one = cifar.measure(cifar.Network("digits", "mlp", 8, 2, 2, 11))
    assert np.allclose(one.flip_rate, tiny.flip_rate.sel(trained="mlp 8 2", seed=2), equal_nan=True)


def test_bits_are_chosen_by_calibration_data_alone(tiny):
    found = cifar_claims.of_subset(tiny)
    here = {"trained": "mlp 16 3", "step": "a tensor", "scheme": "full"}
    lost = tiny.accuracy_lost.sel(here | {"split": "calibration"}).transpose("seed", "bits").values
    bits = found["C1"].values.sel(here | {"drop": 0.01, "path": "any level"}).values
    expected = [min(b for b, one in zip(cifar.BITS, row) if one <= 0.01 + 1e-12) for row in lost]
    assert bits.tolist() == expected
    flips = tiny.flip_rate.sel(here | {"split": "held-out"})
    chosen = found["C2"].values.sel(here | {"drop": 0.01, "path": "any level"})
    assert chosen.values.tolist() == [float(flips.sel(seed=s, bits=b)) for s, b in zip(tiny.seed.values, expected)]


def test_a_rule_looks_at_the_calibration_slice_of_the_same_ruler(tiny):
    ruler = {"extent": "inner 60 %", "nodes": 11, "thickness": 1}
    here = {"trained": "mlp 8 2", "step": "a channel", "scheme": "narrow"}
    seen = tiny.boundary_jaccard.sel(here | ruler | {"plane": "calibration PCA"}).transpose("seed", "bits").values
    expected = []
    for row in seen:
        level = 0
        while level + 1 < len(row) and row[level + 1] <= 0.5 + 1e-12:
            level += 1
        expected.append(cifar.BITS[level] if row[0] <= 0.5 else cifar.BITS[0])
    where = here | ruler | {"rule": "jaccard ≤ 0.5", "path": "going down"}
    found = cifar_claims.of_subset(tiny)
    assert found["C4"].values.sel(where | {"plane": "held-out PCA"}).values.tolist() == expected
    of_held_out = tiny.boundary_jaccard.sel(here | ruler | {"plane": "held-out PCA"})
    ours = found["C6"].values.sel(where | {"plane": "held-out PCA"}).values
    assert np.allclose(ours, [float(of_held_out.sel(seed=s, bits=b)) for s, b in zip(tiny.seed.values, expected)])


@pytest.fixture(scope="module")
def stated() -> tuple[dict, list[dict]]:
    return ledger.load_claims(ROOT / ledger.CLAIMS)


def test_what_was_not_measured_is_no_specification(tiny, stated):
    rule, claims = stated
    judged = cifar_claims.judge(tiny, claims, rule)
    assert {"C1", "C2", "C3", "C4", "C5", "C6", "K1", "K2"} <= set(judged)
    shares = judging.shares(judged)
    c3 = judged["C3"]
    there = c3.there.values
    assert 0 < there.mean() < 1 and not np.isfinite(c3.estimate.values[~there]).any()
    assert shares["C3"] == pytest.approx(c3.holds.values[there].mean())
    assert not c3.holds.values[~there].any()


def test_the_region_is_where_all_agree_and_the_nearest_is_the_nearest(tiny, stated):
    rule, claims = stated
    judged = cifar_claims.judge(tiny, claims, rule)
    region = cifar_claims.region(judged, "cifar-10")
    assert set(region.dims) == set(cifar_claims.CELL)
    numbers = {claim["id"]: claim["reported"] for claim in claims}
    where, ours = cifar_claims.nearest(judged, numbers, "cifar-10")
    spread = {n: float(judged[n].estimate.where(judged[n].there).std()) for n in ours}
    best = sum(((ours[n] - numbers[n]) / spread[n]) ** 2 for n in ours)
    rng = np.random.default_rng(0)
    for _ in range(200):  # no specification drawn at random is nearer
        at = {dim: rng.integers(judged["C6"].sizes[dim]) for dim in (*cifar_claims.CELL, "rule")}
        drop, paths = rng.integers(4), rng.integers(2, size=2)
        total = 0.0
        for n in ours:
            free = {"drop": drop, "path": paths[0]} if n in ("C1", "C2", "C3") else {"path": paths[1]}
            one = judged[n].estimate
            total += (
                (float(one.isel({d: i for d, i in (at | free).items() if d in one.dims})) - numbers[n]) / spread[n]
            ) ** 2
        assert not total < best - 1e-9


def test_a_correlation_is_over_seeds_and_bits(tiny, stated):
    judged = cifar_claims.judge(tiny, stated[1], stated[0])
    here = {
        "trained": "mlp 16 3",
        "step": "a tensor",
        "scheme": "narrow",
        "extent": "range",
        "nodes": 21,
        "thickness": 0,
    }
    pair = [
        tiny.boundary_jaccard.sel(here | {"plane": f"{name} PCA"}).values.ravel()
        for name in ("calibration", "held-out")
    ]
    assert float(judged["K1"].estimate.sel(here)) == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)


def test_a_main_effect_is_the_variance_of_the_means(tiny, stated):
    judged = cifar_claims.judge(tiny, stated[1], stated[0])["C3"]
    whole = judged.sel(trained=["mlp 16 3"], step=["a tensor", "a channel"])
    effects = cifar_claims.main_effects(whole)
    for dim, share in effects.items():
        means = whole.estimate.mean([d for d in whole.estimate.dims if d != dim])
        assert share == pytest.approx(float(means.var() / whole.estimate.var()), abs=1e-6)


def test_little_and_much_optimization_are_crossed():
    spec = specs.Roundings(
        dataset="digits",
        networks=("mlp 8 2",),
        nodes=11,
        bits=(4, 3),
        steps=(2, 4, 6),
        examples=(32, 64),
        gaps=(0.0, 1.0),
    )
    job = roundings.jobs(spec, 1)[0]
    found = roundings.join({job: roundings.measure(job)}, spec)
    assert found["method"].values.tolist() == ["layers", "layers, a channel", "logits", "gap 1"]
    flips = found.flip_rate.isel(seed=0, trained=0).sel(split="held-out", bits=3)
    measured = np.isfinite(flips).transpose("method", "optimization_steps", "examples").values
    assert (
        measured[0].all() and measured[1:, :2, :1].all() and not measured[1:, 2].any() and not measured[1:, :, 1].any()
    )
    four = found.sel(split="held-out", bits=4).isel(seed=[0, 0])
    measures = cifar_claims.of_roundings(found.isel(seed=[0, 0]))
    order = four.band_pair_order_flip_rate.sel(optimization_steps=4, examples=32, nearness="margin", share=0.2)
    where = {"eta": 1.0, "optimization_steps": 4, "examples": 32, "nearness": "margin", "share": 0.2}
    difference = order.sel({"method": "logits"}).values - order.sel({"method": "gap 1"}).values
    assert np.allclose(measures["R8"].values.sel(where).values, difference)


@pytest.mark.parametrize("name", ["cnn 16", "vgg 16 3", "cnn x 3", ""])
def test_a_network_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="model, width and epochs"):
        specs.Readings(networks=(name,))


def test_a_joint_claim_holds_where_all_that_it_joins_hold():
    place = {"rule": [0, 1], "nodes": [81, 41, 21]}
    first = xr.DataArray([True, False], {"rule": place["rule"]}, ("rule",))
    second = xr.DataArray([[True, True, False], [True, True, True]], place, ("rule", "nodes"))
    there = xr.DataArray([True, True, False], {"nodes": place["nodes"]}, ("nodes",))
    judged = {"A": xr.Dataset({"holds": first}), "B": xr.Dataset({"holds": second, "there": there})}
    claims = [{"id": "A"}, {"id": "B"}, {"id": "A+B", "together": ["A", "B"]}, {"id": "A+C", "together": ["A", "C"]}]
    assert cifar_claims.shares([judged], claims) == {"A": 1 / 2, "B": 1.0, "A+B": 1 / 2}
    other = {"A": xr.Dataset({"holds": xr.DataArray([True] * 6, dims="rule")})}
    assert cifar_claims.shares([judged, other], claims)["A"] == 7 / 8  # of all specifications, wherever they are


def test_counts_hold_in_transitions_in_their_order():
    transition = ["8→7", "7→6", "6→5", "5→4"]
    flags = {"J2": [1, 0, 0, 1], "J3": [0, 1, 1, 0], "J4": [1, 0, 0, 1]}
    judged = {
        name: xr.Dataset({"holds": xr.DataArray(np.array(one, bool), {"transition": transition}, ("transition",))})
        for name, one in flags.items()
    }
    claims = [{"id": "J2+J3+J4", "together": ["J2", "J3", "J4"]}]
    assert cifar_claims.shares([judged], claims)["J2+J3+J4"] == 2 / 4  # 0, 1, 3 and 0, 2, 3 of the four triples
