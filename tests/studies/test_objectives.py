"""The study of rounding objectives on a tiny data set."""

import numpy as np
import pytest
import xarray as xr

from bqcore._store import load_dataset
from bqcore._threads import one_thread
from bqcore.quantizers.objectives import PLAIN
from studies import __main__, catalogue, objectives, specs, sweeps


@pytest.mark.slow
def test_the_study_runs_resumes_and_learns_nothing_from_held_out_inputs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "FRESH", tmp_path)
    tiny = specs.Objectives(nodes=(11, 6), epochs=2, steps=3, examples=64)
    monkeypatch.setattr(specs, "BEYOND", {tiny: 2})
    many = catalogue.sweep(tiny, workers=1, progress=False)
    assert dict(many.sizes) | {"seed": 2, "bits": 1} == dict(many.sizes)
    assert set(objectives.families()) == {objectives.family_of(m) for m in many.method.values} - {"float"}
    kept = sorted(objectives.STUDY.folder(tiny).glob("*.nc"))
    assert [path.name for path in kept] == ["seed-000.nc", "seed-001.nc", "seeds-000-001.nc"]
    kept[2].unlink()
    times = [path.stat().st_mtime_ns for path in kept[:2]]
    assert catalogue.sweep(tiny, workers=1, progress=False).identical(many)
    assert [path.stat().st_mtime_ns for path in kept[:2]] == times
    out = tmp_path / "out.nc"
    assert __main__.main(["run", "objectives", "digits", "--workers", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"objectives, digits, mlp: 2 runs in {out}\n"
    assert load_dataset(out).identical(many)

    split = sweeps.split_of(tiny)
    model = sweeps.trained(tiny, split, sweeps.checkpoint_file(tiny))
    spoiled = split._replace(held_out_inputs=split.held_out_inputs.flip(0) * 0.5)
    with one_thread():  # as the sweep: two sum in another order
        found = objectives.measure(tiny, spoiled, model).sel(split="calibration")
    xr.testing.assert_equal(
        found.drop_vars("split"), many.sel(split="calibration", seed=0)[list(found)].drop_vars(["split", "seed"])
    )


def test_the_strength_is_chosen_on_inputs_apart_the_weaker_of_equals():
    names = [m for m, *_ in objectives.methods()]
    names = ["float", *objectives.BASELINES_OF, *names]
    flips = np.full((2, len(names)), 0.5)
    flips[1, names.index("kl 3")] = 0.4
    many = xr.Dataset(
        {"choosing_band_flips": (("seed", "method"), flips), "x": (("seed", "method"), flips * 0 + range(len(names)))},
        {"method": names, "seed": [0, 1]},
    )
    picked = objectives.chosen(many).sel(family="kl")
    assert picked.strength.values.tolist() == [0.3, 3.0]
    assert picked.x.values.tolist() == [names.index("kl 0.3"), names.index("kl 3")]
    found = objectives.compare(objectives.chosen(many.assign(x=many.x + many.seed * (many.method == "gptq"))).x, "gptq")
    assert found.difference.estimate == names.index("gptq") - names.index(PLAIN) + 0.5
    assert found.strict.low < found.difference.low and found.detectable > 0
    with pytest.raises(ValueError, match=r"Family is 'x': choose one of 'nearest', 'gptq'"):
        objectives.compare(objectives.chosen(many).x, "x")


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"granularity": "channel"}, r"granularity is 'channel': the objectives are compared with one step a tensor\."),
     ({"steps": 0}, r"steps is 0"), ({"examples": 31}, r"examples is 31")],
)  # fmt: skip
def test_specs_of_the_study_are_checked(changes, says):
    with pytest.raises(ValueError, match=says):
        specs.Objectives(**changes)
    with pytest.raises(ValueError, match=r"dataset is 'svhn': choose one of 'digits'"):
        specs.baseline("objectives", "svhn")
