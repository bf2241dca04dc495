"""What an explorer's file holds, as the objects it was made from."""

import torch
import xarray as xr
from torch import nn

from bqcore.metrics import planes
from studies import networks


def model_of(dataset: xr.Dataset) -> nn.Sequential:
    """Return the float classifier that *dataset*, of studies.explorer.network, holds."""
    model = networks.mlp((dataset.sizes["input"], dataset.sizes["hidden"], dataset.sizes["class"]), 0).eval()
    names = {"0.weight": "first", "0.bias": "first_bias", "2.weight": "second", "2.bias": "second_bias"}
    model.load_state_dict({key: torch.from_numpy(dataset[name].values) for key, name in names.items()})
    return model


def plane_of(dataset: xr.Dataset) -> planes.Plane:
    """Return the slice that *dataset*, of studies.explorer.network, holds."""
    values = (dataset[key].values for key in ("origin", "axes", "low", "high", "explained"))
    return planes.Plane(*values, (dataset.sizes["input"],))


def inputs_of(dataset: xr.Dataset) -> torch.Tensor:
    """Return the test inputs (N, D) that *dataset*, of studies.explorer.network, holds, as the model takes them."""
    pixels = torch.from_numpy(dataset.image.values).flatten(1)
    return pixels.float() / dataset.attrs["scale"]
