"""The pictures of the definitions draw and keep what the library measures."""

import numpy as np
import pandas as pd
import pytest
import torch

import bqcore as bq
from studies.figures import definitions
from studies.figures.source_data import attached


def linear(weight) -> torch.nn.Linear:
    model = torch.nn.Linear(2, 3).double()
    model.load_state_dict({"weight": torch.tensor(weight).double(), "bias": torch.tensor([0.1, 0.0, -0.1]).double()})
    return model


F = linear([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.1]])
SQUARE = bq.Plane(np.zeros(2), np.eye(2), np.full(2, -1.0), np.full(2, 1.0), np.ones(2) / 2, (2,))


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("nodes", [7, 17])
def test_the_overview_holds_what_the_library_measures(bits, nodes):
    q, x = bq.quantize_model(F, bits), torch.tensor([[0.5, 0.3]], dtype=torch.float64)
    data = attached(definitions.overview_figure(F, q, x, SQUARE, nodes))
    assert float(data.radius) == bq.radius(F, x).radius[0]
    assert float(data.displacement) == bq.displacement(F, q, x)[0]
    masks = [bq.boundary_mask(bq.label_grid(model, SQUARE, nodes)) for model in (F, q)]
    assert float(data.boundary_jaccard) == bq.boundary_jaccard(*masks).distance
    foot = torch.from_numpy(data.foot_of_radius.values[None])  # on the boundary: two classes are equal there
    np.testing.assert_allclose(bq.margin(F(foot).detach()), 0, atol=1e-12)
    assert data.in_band.sum() == 24 and (data.margin_float >= 0).all()
    assert (
        (data.margin_quantized[data.flipped & (data.margin_quantized > 0)]).size == 0
    )  # of two classes near, one wins
    slices = attached(definitions.mask_figure(F, q, SQUARE, nodes))
    np.testing.assert_array_equal(slices.boundary_cell, masks)


def test_the_ruler_draws_each_grid_with_its_step():
    shifts = np.linspace(0, 0.02, 5)
    measured = pd.DataFrame([{"nodes": n, "shift": d, "boundary_jaccard": d * n / 9, "effective_displacement": d}
                             for n in (51, 101) for d in shifts])  # fmt: skip
    figure = definitions.ruler_figure(measured)
    dashed = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([1 / 50, 1 / 100])
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    np.testing.assert_allclose([line.get_ydata() for line in dots], [shifts * 51 / 9, shifts * 101 / 9])


def test_every_name_of_the_library_that_is_told_is_public():
    assert [name for name in definitions.names()["name in bqcore"] if name not in bq.__all__] == []
