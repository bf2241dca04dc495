"""
Use bqcore as it is installed where this script runs, without pytest and outside of the clone.

    python -I installed.py [MODEL.onnx]     without torch the doctests that need none, and audits; with torch all doctests

The audits are of functions, saved logits, a scikit-learn pipeline and an ONNX Runtime session, as far as the packages
are installed.
"""

import doctest
import importlib
import pkgutil
import pydoc
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import bqcore
from bqcore import __main__, _store
from bqcore.metrics import statistics

TORCH = find_spec("torch") is not None
# What works on torch modules alone: all other modules are imported without torch.
OF_TORCH = (
    "bqcore.metrics._gradients", "bqcore.metrics._tiles", "bqcore.quantizers.",
    *(f"bqcore.auditing.{name}" for name in ("_passes", "bit_plan", "bit_sweep", "joint", "resuming", "sensitivity", "vendors")),
)  # fmt: skip


def doctests() -> int:
    """Run the examples in all docstrings, those that mention torch only where it is installed; return how many."""
    run, runner = 0, doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for found in pkgutil.walk_packages(bqcore.__path__, "bqcore."):
        if not TORCH and found.name.startswith(OF_TORCH):
            continue
        module = importlib.import_module(found.name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples and (TORCH or "torch" not in test.docstring):
                runner.run(test)
                run += 1
    if runner.failures or run < 20:
        sys.exit(f"{runner.failures} examples failed in {run} docstrings, of which there are more than 20")
    return run


def audits(model: str | None = None) -> list[str]:
    """Audit classifiers of each kind that is installed against the same one rounded; return the kinds."""
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) % 5 - 2
    float_one, rounded = (lambda x: x @ (weight + 0.3 * np.cos(7 * weight))), (lambda x: x @ weight)
    y, done = float_one(x).argmax(axis=1), ["functions", "saved logits"]
    expected = bqcore.audit(float_one, rounded, (x, y), (x, y), nodes=21)
    held = expected.dataset.sel(split="heldout")
    assert held.flip_rate > 0 and held.boundary_jaccard.max() > 0 and expected.conclusion in expected.to_html()
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, name) for name in ("float.npy", "rounded.npy", "classes.npy")]
        for name, values in zip(names, (float_one(x), rounded(x), y)):
            np.save(name, values)
        words = [f"--reference-logits={names[0]}", f"--candidate-logits={names[1]}", f"--heldout-classes={names[2]}"]
        assert __main__.main(["audit", *words, f"--out={folder}"]) == 0
        kept = _store.load_dataset(Path(folder, "audit.nc"))
        time.sleep(1.1)
        _store.save_dataset(kept, Path(folder, "again.nc"))  # the same bytes, which do not hold the time
        assert _store.digest(Path(folder, "again.nc")) == _store.digest(Path(folder, "audit.nc"))
    assert kept.flip_rate.sel(split="heldout") == held.flip_rate
    assert statistics.paired_bootstrap([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], rng=0).low > 0
    others = {}
    if find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        last = LogisticRegression()
        last.classes_, last.coef_, last.intercept_ = np.arange(4), weight.T, np.zeros(4)
        others["scikit-learn"] = make_pipeline("passthrough", last)
    if find_spec("onnxruntime") and model:
        import onnxruntime

        others["ONNX Runtime"] = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for kind, other in others.items():
        found = bqcore.audit(float_one, other, (x, y), (x, y), nodes=21).dataset
        assert found.sel(split="heldout").flip_rate == held.flip_rate, kind
    return [*done, *others]


def refusals() -> None:
    """Ask without torch for what needs it: one line must say what to install, and help must be there."""
    assert "quantize(*given, **options)" in pydoc.plain(pydoc.render_doc(bqcore))
    for call in (lambda: bqcore.radius(np.sin, np.ones((5, 2))), lambda: bqcore.quantize(np.ones((2, 2)), 4)):
        try:
            call()
        except ValueError as error:
            assert "pip install 'bqcore[torch]'" in str(error), error
        else:
            sys.exit("what needs torch did not ask for it")


if __name__ == "__main__":
    if not TORCH:
        refusals()
    print(f"{doctests()} doctests; audits: {', '.join(audits(*sys.argv[1:]))}; torch: {TORCH}")
