"""Batch norms folded into the layers before them, as deployment tools do before they quantize."""

import copy
from collections import Counter

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from .weights import LAYERS, quoted


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """
    Copy *model* with each batch norm folded into the convolution or linear layer before it; in eval mode.

    A layer without a bias gets one, and an identity stands where the batch norm stood. "Before it" means in one
    ``nn.Sequential``, also inside of other modules, as residual blocks have them.

    Parameters
    ----------
    model : torch module

    Returns
    -------
    torch module of the type of *model*, with the same outputs but for rounding

    Raises
    ------
    ValueError
        If a batch norm cannot be folded: it keeps no running statistics, follows no convolution or linear layer in an
        ``nn.Sequential``, or it or that layer is used in several places.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.fold_batchnorm(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)))
    Sequential( (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1)) (1): Identity() )
    """
    out = copy.deepcopy(model).eval()
    places = Counter(id(m) for _, m in out.named_modules(remove_duplicate=False))
    # A weight shared by two layers would be scaled in both.
    owners = Counter(id(p) for m in out.modules() for p in m.parameters(recurse=False))
    for parent in list(out.modules()):
        names = list(parent._modules) if isinstance(parent, nn.Sequential) else []
        for before, after in zip(names, names[1:]):
            layer, norm = parent._modules[before], parent._modules[after]
            if not isinstance(layer, LAYERS) or not isinstance(layer.weight, nn.Parameter):
                continue  # a computed weight cannot be scaled in place of the batch norm
            if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
                continue
            if places[id(layer)] == places[id(norm)] == 1 and owners[id(layer.weight)] == 1:
                fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
                parent._modules[before], parent._modules[after] = fuse(layer, norm), nn.Identity()
    left = [name for name, module in out.named_modules() if isinstance(module, _BatchNorm)]
    if left:
        raise ValueError(
            f"Batch norm {quoted(left)} cannot be folded: it needs running statistics and, before it in an "
            "nn.Sequential, a convolution or linear layer of its own."
        )
    return out
