"""Forward passes of a torch module, call by call: recorded, and replayed up to where a weight has changed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as trees

KNOWN = (torch.Tensor, int, float, str, type(None))  # of what an output may consist


class _Call(NamedTuple):
    """One call of a module; time is counted in the beginnings and ends of calls."""

    module: nn.Module
    parent: int  # index of the call around it, -1 if there is none
    start: int
    end: int
    size: int  # calls in it, itself included


class _Changed(Exception):
    """Ends a pass that calls other modules than the recorded one."""


class Pass:
    """The calls of one forward pass in their order, and the outputs of those to *keep*, copies of those in *copied*."""

    def __init__(self, given, keep=lambda index: False, copied=frozenset()):
        self.given, self.keep, self.copied = trees.tree_map(_copy, given), keep, copied
        self.calls, self.open, self.time = [], [], 0
        self.outputs, self.versions = {}, {}

    def run(self, module: nn.Module, forward: Callable, given: tuple):
        """Call the *forward* of a module."""
        index, start = len(self.calls), self.time
        self.calls.append(_Call(module, self.open[-1] if self.open else -1, start, -1, 0))
        self.open.append(index)
        self.time += 1
        try:
            out = forward(*given[0], **given[1])
        finally:
            self.open.pop()
        self.calls[index] = self.calls[index]._replace(end=self.time, size=len(self.calls) - index)
        self.time += 1
        if self.keep(index):
            self.outputs[index] = trees.tree_map(_copy, out) if index in self.copied else out
            self.versions[index] = _versions(self.outputs[index])
        return out

    def written(self) -> set[int]:
        """Return the calls whose outputs have been written to since they were kept."""
        return {index for index, out in self.outputs.items() if _versions(out) != self.versions[index]}

    def depth(self, index: int) -> int:
        """Return how many calls are around one."""
        return 0 if (parent := self.calls[index].parent) < 0 else 1 + self.depth(parent)


class Replay:
    """One candidate on one batch: calls that had ended before its weights are used return what was kept of them."""

    def __init__(self, passes: list[Pass], begin: int, model: nn.Module, copied: set[int]):
        self.passes, self.begin, self.model, self.copied = iter(passes), begin, model, copied
        self.one, self.at = None, None  # the recorded pass, and the next of its calls; none behind the beginning

    def around(self, module: nn.Module, forward: Callable) -> Callable:
        """Return the forward of a module as the candidate is to run it."""

        def call(*args, **named):
            if module is self.model and self.one is None:
                return self._whole(forward, args, named)
            return self._part(module, forward, args, named)

        return call

    def _whole(self, forward: Callable, args: tuple, named: dict):
        one = next(self.passes, None)
        if one is None or not equal(one.given, (args, named)):
            return forward(*args, **named)
        self.one, self.at = one, 1
        try:
            out = forward(*args, **named)
            if not one.written():
                return out
        except _Changed:
            pass
        finally:
            self.one = self.at = None
        one.outputs.clear()
        args, named = trees.tree_map(_copy, one.given)
        return forward(*args, **named)

    def _part(self, module: nn.Module, forward: Callable, args: tuple, named: dict):
        if self.at is None:
            return forward(*args, **named)
        index, calls = self.at, self.one.calls
        if index >= len(calls) or calls[index].start >= self.begin:
            self.at = None
            return forward(*args, **named)
        if calls[index].module is not module:
            raise _Changed
        if calls[index].end < self.begin and index in self.one.outputs:
            self.at += calls[index].size
            return trees.tree_map(_copy if index in self.copied else lambda leaf: leaf, self.one.outputs[index])
        self.at += 1
        return forward(*args, **named)


@contextmanager
def patched(model: nn.Module, around: Callable) -> Iterator[None]:
    """Call *around*(module, forward) instead of each module's forward within the context."""
    changed = []
    try:
        for module in model.modules():
            own, forward = vars(module), module.forward
            changed.append((own, own.get("forward")))
            own["forward"] = around(module, forward)
        yield
    finally:
        for own, before in changed:
            if before is None:
                own.pop("forward", None)
            else:
                own["forward"] = before


def _copy(leaf):
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _versions(out) -> list[int]:
    """Return how often each tensor of an output has been written to, also by another name or through a view."""
    return [leaf._version for leaf in trees.tree_leaves(out) if isinstance(leaf, torch.Tensor)]


def equal(a, b) -> bool:
    """Return whether two nests of tensors and arrays are equal in all values."""
    (first, one), (second, two) = trees.tree_flatten(a), trees.tree_flatten(b)
    return one == two and all(map(_same, first, second))


def _same(x, y) -> bool:
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return (x.dtype, x.device, x.shape) == (y.dtype, y.device, y.shape) and torch.equal(x, y)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return np.array_equal(x, y)
    return x is y or (isinstance(x, KNOWN) and isinstance(y, KNOWN) and x == y)
