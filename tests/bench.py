"""
Our measures beside those of other packages, in one run: `make bench` prints how many times faster ours are.

Every group holds "ours" and other ways to the same result, which is checked, and some hold what no way to it can do
without: a plain copy of the bytes, one reading of the files, one pass forward and one back. On a machine that does other
work, ``ARGS=--benchmark-timer=time.process_time`` compares the processor's time.

Aims: a radius 30 times faster than foolbox, a label grid 15 times faster than scikit-learn, a quantizer at least as fast
as torch's own and within 2.5 times a copy, an audit of files within twice the time of reading them, a slice through a CNN
at 0.8 of its forward speed. Ten classes cost each of foolbox's steps nine passes forward and nine back, and the radius one
forward and, layer by layer, one back for all of them. Half of the radius's time is one matrix product, which runs at the
processor's peak: the first aim is met in some runs against foolbox's DeepFool as it comes, and in none against a single
step of it, which gives the same lengths. The audit of files is near its aim: it looks for the largest logit of each row,
which also tells whether all are finite, and in the reference for the second largest. The audit of a network beside its
two models' passes is behind 1 by its first batch, which it asks for a second time, whole and in part.
"""

import contextlib
import copy
import os
import resource
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import foolbox
import matplotlib.pyplot as plt
import numpy as np
import psutil
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import DecisionBoundaryDisplay

import bqcore
from bqcore._threads import one_thread
from bqcore.auditing import loading
from bqcore.metrics import decisions
from bqcore.metrics.exact_slices import exact_slice
from bqcore.metrics.label_grids import label_grid
from bqcore.metrics.margins import radius
from bqcore.metrics.planes import pca_plane
from bqcore.quantizers.uniform import level_range, quantize, quantize_model
from bqcore.quantizers.weights import weights
from studies.networks import build, mlp
from studies.training import fit
from tests.helpers.nets import resnet50

# --- radius ---

STEP = "foolbox DeepFool, one step: the same result"
DEEPFOOL = "foolbox DeepFool, its 50 steps at most"
PASSES = "one pass forward and one back"
PRODUCT = "the one matrix product of its pass back"


@pytest.mark.benchmark(group="Radius of 450 digits (aim: 30)")
@pytest.mark.parametrize("way", ["ours", STEP, DEEPFOOL, PASSES, PRODUCT])
def test_radius(trained, timed, way):
    model, inputs = trained.model, trained.split.test_inputs
    decisions = model(inputs).argmax(1)
    fooled = foolbox.PyTorchModel(model, bounds=(-1e3, 1e3))
    attack = foolbox.attacks.L2DeepFoolAttack(**({"steps": 1, "overshoot": 0.0} if way == STEP else {}))

    by_hidden, weight = torch.ones(9, len(inputs), 64), model[0].weight.detach()  # nine rivals

    def passes():
        leaf = inputs.clone().requires_grad_()
        model(leaf).sum().backward()
        return leaf.grad

    calls = {
        "ours": lambda: radius(model, inputs),
        PASSES: passes,
        PRODUCT: lambda: (by_hidden @ weight)[0],
        STEP: lambda: attack.run(fooled, inputs, decisions),
        DEEPFOOL: lambda: attack.run(fooled, inputs, decisions),
    }
    result = timed(calls[way], 100)
    if way == STEP:
        with one_thread():
            lengths = (calls[way]() - inputs).norm(dim=1).numpy()
        np.testing.assert_allclose(lengths - 1e-4, radius(model, inputs).radius, atol=2e-6)
    assert len(result if way != "ours" else result.radius) == 450


# --- grid ---


class OnPlane(ClassifierMixin, BaseEstimator):
    """What scikit-learn asks for: a fitted classifier of slice coordinates."""

    def __init__(self, label=None):
        self.label = label
        self.classes_ = np.arange(10)

    def fit(self, X, y=None):  # noqa: N803
        return self

    def predict(self, X):  # noqa: N803
        return self.label(X[:, 0], X[:, 1])


SCIKIT_LEARN = "scikit-learn's DecisionBoundaryDisplay"
FORWARD = "a plain forward pass, 4096 nodes at a time"


@pytest.mark.benchmark(group="300 x 300 label grid of a digits slice (aim: 15)")
@pytest.mark.parametrize("way", ["ours", SCIKIT_LEARN, FORWARD])
def test_grid(trained, timed, way):
    model, double = trained.model, copy.deepcopy(trained.model).double()
    plane = pca_plane(trained.split.train_inputs)

    def label(a, b):
        with torch.inference_mode():
            parts = torch.from_numpy(plane.points(a, b)).split(4096)
            return torch.cat([double(part).argmax(1) for part in parts]).numpy()

    def scikit_learn():
        box = np.stack([plane.low, plane.high])
        display = DecisionBoundaryDisplay.from_estimator(
            OnPlane(label), box, grid_resolution=300, eps=0.0, response_method="predict"
        )
        plt.close(display.figure_)
        return display.response

    def forward():
        a, b = plane.nodes(300)
        return label(*(x.ravel() for x in np.broadcast_arrays(a, b[:, None]))).reshape(300, 300)

    calls = {"ours": lambda: label_grid(model, plane, 300), SCIKIT_LEARN: scikit_learn, FORWARD: forward}
    assert np.array_equal(timed(calls[way], 30), label_grid(model, plane, 300))


CONVOLUTIONS = "a plain forward pass in float64, 64 nodes at a time"


@pytest.mark.benchmark(group="300 x 300 slice through the small CNN of CIFAR-10 (aim: 0.8)")
@pytest.mark.parametrize("way", ["ours", CONVOLUTIONS])
def test_slice_through_a_cnn(timed, way):
    model = build("cnn", (3, 32, 32), 10, width=16, seed=0).eval()
    double = copy.deepcopy(model).double()
    plane = pca_plane(torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0)))

    def forward():
        a, b = plane.nodes(300)
        labels = []
        with torch.inference_mode():
            for row in b:  # the points are made as they are needed: all at once would take 2 GB
                points = torch.from_numpy(plane.points(a, row)).view(-1, 3, 32, 32)
                labels += [double(part).argmax(1) for part in points.split(64)]
        return torch.cat(labels).numpy().reshape(300, 300)

    calls = {"ours": lambda: label_grid(model, plane, 300), CONVOLUTIONS: forward}
    assert timed(calls[way], 1, warmup=0).shape == (300, 300)  # 10 s each
    coarse = label_grid(model, plane, 7)
    a, b = plane.nodes(7)
    points = torch.from_numpy(plane.points(a, b[:, None])).view(-1, 3, 32, 32)
    assert np.array_equal(double(points).argmax(1).view(7, 7).numpy(), coarse)


# --- study ---


@pytest.mark.benchmark(group="The 100-seed digits study (aims: 180 s, 1500 MB)")
def test_study(tmp_path, benchmark):
    """Run it in a process of its own and look at the memory of that and its workers, shared pages counted once."""
    benchmark.extra_info["way"] = "ours"
    peak = [0]

    def study():
        command = [sys.executable, "-m", "studies", "run", "levels", "digits"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        process = psutil.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            total = 0
            for part in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += part.memory_full_info().pss
            peak[0] = max(peak[0], total)
            time.sleep(0.5)
        return process.returncode

    assert benchmark.pedantic(study, rounds=1) == 0
    benchmark.extra_info["says"] = f"peak memory {peak[0] / 1e6:.0f} MB"


# --- exact slices ---

LABELS = "a 400 x 400 grid of labels (not exact)"


@pytest.fixture(scope="module")
def sizes(trained) -> dict[str, tuple]:
    """Return for each size a network, trained where its data are at hand, and its slice."""
    inputs, classes = trained.split.train_inputs, trained.split.train_classes
    deep = fit(mlp((64, 128, 64, 10), 0), inputs, classes, epochs=20, seed=0)
    noise = torch.rand(500, 784, generator=torch.Generator().manual_seed(0))
    # Of an untrained network the lines cross far outside of the data: a box so wide that it holds nearly all crossings.
    return {
        "64-64-10": (trained.model, pca_plane(inputs)),
        "64-128-64-10": (deep, pca_plane(inputs)),
        "784-128-10": (mlp((784, 128, 10), 0), pca_plane(20 * noise, padding=1)),
        "784-256-256-10": (mlp((784, 256, 256, 10), 0), pca_plane(20 * noise, padding=1)),
    }


@pytest.mark.parametrize("way", ["ours", LABELS])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=pytest.mark.benchmark(group=f"Exact slice of {size} (aim: {aim})"))
        for size, aim in (
            ("64-64-10", "10 ms"),
            ("64-128-64-10", "1.5 s"),
            ("784-128-10", "1 s"),
            ("784-256-256-10", "1 s"),
        )
    ],
)
def test_exact_slice(sizes, timed, way, size, benchmark):
    model, plane = sizes[size]
    calls = {"ours": lambda: exact_slice(model, plane), LABELS: lambda: label_grid(model, plane, 400)}
    timed(calls[way], 20)
    exact, labels = exact_slice(model, plane), label_grid(model, plane, 400)
    benchmark.extra_info["says"] = f"{exact.cells} cells" if way == "ours" else ""
    share = np.bincount(labels.ravel(), minlength=10) / labels.size
    np.testing.assert_allclose(exact.areas / exact.areas.sum(), share, atol=0.01)


# --- quantizer ---

LARGEST = "torch.fake_quantize, step from torch.aminmax"
GIVEN = "torch.fake_quantize, step given"
COPY = "a plain copy of the same bytes"


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))


@pytest.mark.benchmark(group="Quantizing 4096 x 4096 weights to 8 bits, one step for all (aims: 1; copy: 0.4)")
@pytest.mark.parametrize("way", ["ours", LARGEST, GIVEN, COPY])
def test_quantize(weight, timed, way):
    given = (weight.abs().max() / 127).item()

    def fake_quantize(step):
        return torch.fake_quantize_per_tensor_affine(weight, step, 0, *level_range(8))

    def largest():
        low, high = torch.aminmax(weight)
        return fake_quantize((torch.maximum(-low, high) / 127).item())

    calls = {
        "ours": lambda: quantize(weight, 8),
        LARGEST: largest,
        GIVEN: lambda: fake_quantize(given),
        COPY: weight.clone,
    }
    assert torch.equal(timed(calls[way], 30), weight if way == COPY else quantize(weight, 8))


@pytest.mark.benchmark(group="Quantizing 4096 x 4096 weights to 8 bits, a step per channel (aims: 1; copy: 0.4)")
@pytest.mark.parametrize("way", ["ours", LARGEST, GIVEN, COPY])
def test_quantize_by_channel(weight, timed, way):
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    given = weight.abs().amax(1) / 127

    def fake_quantize(step):
        return torch.fake_quantize_per_channel_affine(weight, step, zeros, 0, *level_range(8))

    def largest():
        # amin and amax: torch.aminmax along an axis takes three times as long
        return fake_quantize(torch.maximum(-weight.amin(1), weight.amax(1)) / 127)

    calls = {
        "ours": lambda: quantize(weight, 8, granularity="channel"),
        LARGEST: largest,
        GIVEN: lambda: fake_quantize(given),
        COPY: weight.clone,
    }
    assert torch.equal(timed(calls[way], 30), weight if way == COPY else quantize(weight, 8, granularity="channel"))


# --- audit ---

IN_MEMORY = "bqcore.metrics.decisions on all logits of a tenth, in memory"


@pytest.mark.benchmark(
    group="Audit of 1,000,000 x 1,000 logits, streamed (aim: 60 s; the other way does a tenth of it)"
)
@pytest.mark.parametrize("way", ["ours", IN_MEMORY])
def test_audit(timed, way, capsys):
    generator = np.random.default_rng(0)
    z, noise = 3 * generator.standard_normal((2, 5000, 1000), dtype=np.float32)

    def batches(count):
        for i in range(count):
            yield {"reference": z, "candidate": z + np.float32(0.01 + i % 5 * 0.001) * noise}

    def ours():
        return bqcore.audit(lambda batch: batch["reference"], lambda batch: batch["candidate"], None, batches(200))

    def in_memory():
        parts = [np.concatenate(part) for part in zip(*(batch.values() for batch in batches(20)))]
        return decisions.flips(*parts).rate, decisions.band_flip_rate(*parts), decisions.pair_order_flip_rate(*parts)

    call = {"ours": ours, IN_MEMORY: in_memory}[way]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = timed(call, 1, warmup=0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with capsys.disabled():
        print(f"\n{way}: peak memory {before // 1024} MB before, {after // 1024} MB after")
    if way == "ours":
        held = result.dataset.sel(split="heldout")
        rates = [float(held[name]) for name in ("flip_rate", "band_flip_rate", "pair_order_flip_rate")]
        np.testing.assert_allclose(rates, in_memory(), atol=2e-4)  # other ties of equal margins fall into the band


FORWARDS = "both networks' passes forward alone, 512 images at a time"


@pytest.mark.benchmark(group="Audit of a residual network on 2,000 images, decisions alone (aim: 0.8)")
@pytest.mark.parametrize("way", ["ours", FORWARDS])
def test_audit_of_a_network(timed, way):
    model, inputs = resnet50(10, 10).eval(), torch.randn(2000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    candidate = quantize_model(model, 4)

    def forwards():
        with torch.inference_mode():
            return [torch.cat([network(part) for part in inputs.split(512)]) for network in (model, candidate)]

    def ours():
        return bqcore.audit(model, candidate, inputs[:256], inputs, nodes=0, gradient_samples=0)

    result = timed({"ours": ours, FORWARDS: forwards}[way], 3, warmup=1)
    if way == "ours":
        before, after = (logits.argmax(1) for logits in forwards())
        assert float(result.dataset.flip_rate.sel(split="heldout")) == (before != after).double().mean()


READING = "reading both files, memory-mapped, and adding them up"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write the logits of two classifiers, 400 MB each: a tenth of a million samples of a thousand classes."""
    paths, generator = [tmp_path_factory.mktemp("logits") / f"{name}.npy" for name in "ab"], np.random.default_rng(0)
    z, noise = 3 * generator.standard_normal((2, 5000, 1000), dtype=np.float32)
    for path, values in zip(paths, (z, z + np.float32(0.01) * noise)):
        array = np.lib.format.open_memmap(path, "w+", np.float32, (100_000, 1000))
        for i in range(20):
            array[i * 5000 : (i + 1) * 5000] = np.roll(values, i, axis=1)
    yield paths
    for path in paths:
        path.unlink()


@pytest.mark.benchmark(group="Audit of the logits of 100,000 x 1,000 in two .npy files (aim: 0.5)")
@pytest.mark.parametrize("way", ["ours", READING])
def test_audit_of_files(files, timed, way):
    columns = itemgetter("reference"), itemgetter("candidate")

    def ours():
        return bqcore.audit(*columns, None, loading.read_logits(*files), nodes=0, gradient_samples=0)

    def reading():
        arrays = [np.load(path, mmap_mode="r") for path in files]
        return [float(array[i : i + 4096].sum()) for array in arrays for i in range(0, len(array), 4096)]

    result = timed({"ours": ours, READING: reading}[way], 10, warmup=1)
    if way == "ours":
        before, after = (np.load(path, mmap_mode="r").argmax(axis=1) for path in files)
        assert float(result.dataset.flip_rate.sel(split="heldout")) == (before != after).mean()


# --- sensitivity ---

ONE_BY_ONE = "AIMET's way: a pass over all data for each layer"  # its QuantAnalyzer needs another torch than ours


@pytest.mark.benchmark(group="Sensitivity of 54 layers, 9 million parameters, on 2,000 images (aims: 60 s, and 1)")
@pytest.mark.parametrize("way", ["ours", "ours, without gradients", ONE_BY_ONE])
def test_sensitivity(timed, way):
    model = resnet50(40, 100)
    inputs = torch.randn(2000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = list(weights(model))

    def one_by_one():
        with torch.inference_mode():
            before = torch.cat([model(part) for part in inputs.split(641)]).argmax(1)
            for name in names:
                candidate = quantize_model(model, 4, skip=[other for other in names if other != name])
                after = torch.cat([candidate(part) for part in inputs.split(641)]).argmax(1)
                yield name, float((before != after).double().mean())

    samples = {"ours": {}, "ours, without gradients": {"gradient_samples": 0}}
    call = (
        (lambda: dict(one_by_one()))
        if way == ONE_BY_ONE
        else lambda: bqcore.blame_layers(model, inputs, **samples[way])
    )
    found = timed(call, 1, warmup=0)
    if way != ONE_BY_ONE:
        rates = dict(zip(found.layer.values.tolist(), found.flip_rate.values.tolist()))
        some = names[::9]
        assert {name: rates[name] for name in some} == {name: rate for name, rate in one_by_one() if name in some}
