"""Audits in tests, searches and pipelines: they fail by the verdict, score by flips, and the workflow runs as written."""

import os
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn

from bqcore.metrics import decisions
from bqcore.quantizers.uniform import quantize_model
from bqcore.testing import KeptDecisions, assert_decisions_kept

ROOT = Path(__file__).resolve().parents[1]
X = np.random.default_rng(0).normal(size=(400, 5))
W = np.random.default_rng(1).normal(size=(5, 3))


def flipping(count: int):
    """Return a copy of the classifier X W that decides otherwise on the first samples."""
    rows = {row.tobytes() for row in X[:count]}

    def logits(x):
        return np.stack([-row @ W if row.tobytes() in rows else row @ W for row in x])

    return logits


def test_what_is_kept_is_returned_and_what_is_not_fails_with_the_verdict():
    def float_model(x):
        return x @ W

    found = assert_decisions_kept(float_model, flipping(4), X, limits={"flip_rate": 0.01})  # at the limit
    assert found.verdict.word == "look" and float(found.dataset.sel(split="heldout").flip_rate) == 0.01
    with pytest.raises(AssertionError, match="(?s)^The candidate changes 4 of 400.*\nLook: .*\nNext:"):
        assert_decisions_kept(float_model, flipping(4), X, limits={"flip_rate": 0.01}, ship_only=True)
    with pytest.raises(AssertionError, match=r"\ndecisions? .*|\n.*: 0\.0125 exceeds the limit 0\.01\nLook"):
        assert_decisions_kept(float_model, flipping(5), X, limits={"flip_rate": 0.01})
    with pytest.raises(AssertionError, match="Do not ship"):
        assert_decisions_kept(float_model, flipping(100), X)  # by the limits that are the default
    with pytest.raises(ValueError, match="fewer|at least 5"):
        assert_decisions_kept(float_model, flipping(0), X[:3])


@pytest.mark.parametrize("fraction", [1.0, 0.2])
def test_the_score_is_the_fraction_of_decisions_kept_and_chooses_in_a_search(fraction):
    y = np.array(["a", "b"])[(X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)]
    reference = LogisticRegression(C=0.01).fit(X, y)
    score = pickle.loads(pickle.dumps(KeptDecisions(reference, fraction=fraction)))
    other = LogisticRegression(C=100.0).fit(X, y)
    z, q = (np.stack([np.zeros(400), model.decision_function(X)], axis=1) for model in (reference, other))
    assert score(other, X) == score(other, X, y) == pytest.approx(1 - decisions.band_flip_rate(z, q, fraction))
    search = GridSearchCV(LogisticRegression(), {"C": [100.0, 0.011]}, scoring=score, cv=3).fit(X, y)
    assert search.best_params_ == {"C": 0.011}


def test_a_score_refuses_other_classes_and_an_empty_band():
    y = (X[:, 0] > 0).astype(int)
    score = KeptDecisions(LogisticRegression().fit(X, y))
    with pytest.raises(ValueError, match="both must know the same classes"):
        score(LogisticRegression().fit(X, y + 1), X)
    with pytest.raises(ValueError, match="Fraction is 0: no sample"):
        KeptDecisions(score.reference, fraction=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 2])
def test_the_workflow_runs_as_it_is_written(tmp_path, bits):
    text = "import torch\n\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))\n"
    (tmp_path / "my_model.py").write_text(text, encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.as_tensor(np.random.default_rng(2).normal(size=(600, 5)), dtype=torch.float32)
    np.savez(tmp_path / "heldout.npz", inputs=x.numpy(), classes=model(x).argmax(1).numpy())
    save_file(model.state_dict(), tmp_path / "float.safetensors")
    save_file(quantize_model(model, bits).state_dict(), tmp_path / "quantized.safetensors")
    (steps,) = (job["steps"] for job in yaml.safe_load((ROOT / "book/audit-workflow.yml").read_text())["jobs"].values())
    runs = [step["run"] for step in steps if "run" in step]
    assert runs.pop(0) == 'pip install "./bqcore[torch]"'  # tests/test_wheel.py installs it
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (tmp_path / "bin/python").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(tmp_path / "shown.md")}
    told = [
        subprocess.run(["bash", "-e", "-c", run], cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
        for run in runs
    ]
    failed = bits == 2
    assert [one.returncode for one in told] == [int(failed), 0], told
    assert ("::error title=Audit::" in told[0].stdout) == failed and "::notice title=Audit::" in told[0].stdout
    suite = ET.parse(tmp_path / "audit/junit.xml").getroot()
    assert suite.get("tests") == "3" and (int(suite.get("failures")) > 0) == failed
    assert (tmp_path / "shown.md").read_text(encoding="utf-8").startswith("## ❌" if failed else "## ")
