"""A network of the multiverse, in every reading: the baseline's reading has the baseline's numbers."""

import numpy as np
import pytest
import torch

from studies import specs, sweeps
from studies.multiverse import choices


def test_scales_and_splits():
    of = {(scale, split): choices.split_of(choices.Network(3, 8, 1, scale, split, 21))
          for scale in choices.SCALES for split in choices.SPLITS}  # fmt: skip
    for split in choices.SPLITS:
        plain, scaled = of[choices.SCALES[0], split], of[choices.SCALES[1], split]
        mean, deviation = scaled.train_inputs.mean(0), scaled.train_inputs.std(0, correction=0)
        assert float(mean.abs().max()) < 1e-5
        still = plain.train_inputs.std(0, correction=0) == 0
        np.testing.assert_allclose(deviation, (~still).float(), atol=1e-5)
        assert still.any() and torch.equal(scaled[-1], plain[-1])
        assert len(plain[-1]) == 450
        images = choices.three_images(plain)
        first = [plain.train_classes[(plain.train_inputs == image).all(1)][0].item() for image in images]
        assert len(set(first)) == 3
    assert torch.equal(of["pixels / 16", "75/25"][-2], of["pixels / 16", "50/25/25"][-2])  # held out of both


@pytest.mark.slow
def test_a_universe_holds_the_baseline():
    """In the baseline's reading a universe has the numbers of the studies that the ledger judges, of the same network."""
    kind = {"seed": 2, "width": 12, "epochs": 4}
    usual = {"bits": choices.BITS, **kind}
    levels = sweeps.measure(specs.Levels(nodes=(41, 21, 81), **usual))
    stopping = sweeps.measure(specs.Stopping(nodes=(41, 21), **usual))
    tables, of_rules = (
        choices.measure(choices.Network(**kind, scale="pixels / 16", split=split, nodes=81)).sel(
            scheme="narrow", granularity="tensor"
        )
        for split in choices.SPLITS
    )
    rounding = 2.0**-15 + 1e-6  # of how the multiverse keeps shares, and of float32 in its displacements
    for name in ("accuracy", "flip_rate"):
        np.testing.assert_allclose(tables[name], levels[name].sel(bits=tables.bits), atol=1e-12)
    cells = tables.boundary_jaccard.sel(plane="training PCA", mask="cells").transpose("slice_bits", "nodes")
    expected = levels.boundary_jaccard.sel(bits=[8, 4], nodes=tables.nodes.values).transpose("bits", "nodes")
    np.testing.assert_allclose(cells, expected, atol=rounding)
    shift = tables.displacement.sel(place="test inputs", gradient="float gradient", pair="top-2 pair")
    np.testing.assert_allclose(shift, levels.displacement.sel(quantile=0.5, bits=[8, 4, 2]), atol=rounding)
    counts = tables.junctions.sel(grid="41 nodes, 11 steps", count="corner cells")
    for summary, name in (("union", "junction_union"), ("union where it changes", "junction_union_changed")):
        np.testing.assert_array_equal(counts.sel(summary=summary), levels[name])
    near = tables.share_near.sel(grid="41 nodes, 11 steps", kind="changed cells")
    np.testing.assert_allclose(near, levels.share_near.mean("transition"), atol=rounding)

    of_bits = stopping.sel(bits=list(choices.BITS)).transpose("split", "bits", ...)
    flips = of_rules.stopping_flip_rate.transpose("part", "bits")
    np.testing.assert_allclose(flips, of_bits.flip_rate, atol=1e-12)
    masks = of_rules.stopping_jaccard.sel(mask="cells").transpose("part", "bits", "stopping_nodes")
    np.testing.assert_allclose(masks, of_bits.boundary_jaccard.sel(nodes=[41, 21]), atol=rounding)
