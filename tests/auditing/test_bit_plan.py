"""Which bits for which layer: a plan beside uniform bits, and logits that collapse."""

import json

import numpy as np
import torch

import bqcore
from bqcore.auditing import sensitivity
from bqcore.metrics import decisions
from bqcore.quantizers import mixed_precision, uniform
from studies import networks


def test_a_plan_is_measured_beside_uniform_bits_at_no_more_bytes(deep):
    model, calibration, held = deep
    budget = mixed_precision.model_bytes(model, 4)
    plan = bqcore.plan_bits(model, calibration, held, budget=budget)
    ds = plan.dataset
    assert plan.uniform == 4 and set(plan.bits.values()) != {4}
    assert (
        ds.bytes.sel(way="uniform")
        == budget
        >= ds.bytes.sel(way="plan")
        == mixed_precision.model_bytes(model, plan.bits)
    )
    assert dict(zip(ds.layer.values.tolist(), ds.layer_bits.sel(way="plan").values)) == plan.bits
    with torch.no_grad():
        z = model(held[0])
        for way, q in (
            ("plan", mixed_precision.mixed(model, plan.bits)),
            ("uniform", uniform.quantize_model(model, 4)),
        ):
            here = ds.sel(split="heldout", way=way)
            assert float(here.band_flip_rate) == decisions.band_flip_rate(z, q(held[0]))
    assert plan.to_json() == json.dumps(json.loads(plan.to_json()), indent=1, ensure_ascii=False)  # for people to read
    assert str(plan).startswith(f"Within {budget} bytes the plan (0: ") and "4 bits for all" in str(plan)
    on = ds.sel(split="calibration")
    assert float(on.band_flip_rate.sel(way="plan")) < float(on.band_flip_rate.sel(way="uniform"))
    most = bqcore.plan_bits(model, calibration, held, budget=10**6)
    assert set(most.bits.values()) == {8} and most.uniform == 8
    batches = [tuple(half) for half in zip(*(part.split(200) for part in calibration))]
    again = bqcore.plan_bits(model, batches, iter([held]), budget=budget)  # the held-out split is gone through once
    assert again.bits == plan.bits


def test_a_plan_whose_logits_collapse_is_not_taken_for_a_quiet_one():
    model = networks.mlp((100, 64, 10), 1).eval()
    first = model.get_submodule("0").weight
    with torch.no_grad():
        first[0, 0] = 4 * first.std()  # one step for all: at 2 bits nearly every other weight is 0
        inputs = torch.from_numpy(np.random.default_rng(1).standard_normal((1000, 100), np.float32))
    budget, levels = mixed_precision.model_bytes(model, 3), (8, 3, 2)
    alone = sensitivity.one_at_a_time(model, inputs, levels)
    chosen = mixed_precision.spend(
        model, {key: sensitivity.margin_noise(part, 0.2) for key, part in alone.items()}, budget
    )
    assert chosen == {"0": 2, "2": 8}  # the margins of the band, which are small, move by little
    plan = bqcore.plan_bits(model, inputs, inputs, budget=budget, bits=levels)
    assert plan.bits == {"0": 3, "2": 3}


def test_the_plan_of_many_layers_is_said_by_their_number():
    model, x = networks.mlp((6, *[8] * 9, 4), 1).eval(), torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    plan = bqcore.plan_bits(model, x, x, budget=mixed_precision.model_bytes(model, 4), bits=(8, 4, 3))
    counts = {b: list(plan.bits.values()).count(b) for b in (8, 4, 3)}
    said = ", ".join(f"{b} bits for {count} of 10 layers" for b, count in counts.items() if count)
    assert len(set(plan.bits.values())) > 1 and f"the plan ({said}) changes" in plan.conclusion
