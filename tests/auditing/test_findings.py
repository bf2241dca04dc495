"""What an audit found, for other programs: all numbers as JSON and NetCDF, those of layers and bit-widths too."""

import json

import numpy as np

import bqcore
from bqcore import _store
from bqcore.quantizers import uniform
from tests.helpers.audits import held, of_logits


def test_results_go_to_json_and_netcdf(lively, tmp_path):
    split, model = lively
    found = bqcore.audit(
        model, uniform.quantize_model(model, 2), None, (split.test_inputs, split.test_classes), nodes=21,
    )  # fmt: skip
    _store.save_dataset(found.to_dataset(), tmp_path / "audit.nc")
    assert _store.load_dataset(tmp_path / "audit.nc").flip_rate.equals(found.dataset.flip_rate)
    assert not [name for name in found.dataset.data_vars if "long_name" not in found.dataset[name].attrs]
    content = json.loads(found.to_json(samples=3))
    assert content["conclusion"] == found.conclusion == found.dataset.conclusion
    rate = content["splits"]["heldout"]["flip_rate"]
    assert (rate["estimate"], rate["events"]) == (float(held(found).flip_rate), int(held(found).flip_rate_events))
    assert len(content["flipped"]) == 3 and content["flipped_left_out"] == rate["events"] - 3
    assert [set(row) for row in content["pairs"][:1]] == [{"from", "to", "flips"}]
    assert content["splits"]["heldout"]["outside"] == float(held(found).outside) > 0
    grids = content["splits"]["heldout"]["slices"]
    assert [row["nodes"] for row in grids] == [21, 11, 6]
    assert [row["junctions"] for row in grids] == held(found).junctions.values.tolist() != [[0, 0]] * 3
    assert sum(group["flips"] for group in content["groups"]) == rate["events"] > 0
    assert sum(group["samples"] for group in content["groups"]) == held(found).samples
    assert found.to_dict(3) == content and found.to_dict() == json.loads(found.to_json())
    assert found.to_json(samples=3) == json.dumps(content, indent=1, ensure_ascii=False)  # for people to read


def test_layers_and_levels_are_written_where_they_are_known(trained):
    split = trained.split
    calibration, heldout = (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)
    found = bqcore.audit(trained.model, uniform.quantize_model(trained.model, 3), None, heldout, nodes=0)
    assert not {"layers", "levels"} & set(found.to_dict())
    layers = bqcore.blame_layers(trained.model, heldout, bits=3, gradient_samples=0)
    levels = bqcore.sweep(trained.model, calibration, heldout, bits=(8, 3))
    content = json.loads(found.explain(layers=layers, sweep=levels).to_json())
    assert [one["layer"] for one in content["layers"]] == layers.layer.values.tolist()
    assert content["layers"][0]["band_flip_rate_high"] == float(layers.band_flip_rate_high[0])
    on = levels.dataset.sel(split="heldout")
    assert [(one["bits"], one["bytes"], one["band_flip_rate"]) for one in content["levels"]] == list(
        zip(on.bits.values.tolist(), on.bytes.values.tolist(), on.band_flip_rate.values.tolist())
    )


def test_groups_have_their_largest_margin():
    z = np.stack([np.arange(21.0, 0, -1), np.zeros(21)], axis=1)
    groups = of_logits(z, z).to_dict()["groups"]
    assert [one["margin"] for one in groups[:3]] == [3, 5, 7] and groups[-1] == {"samples": 2, "flips": 0, "margin": 21}
