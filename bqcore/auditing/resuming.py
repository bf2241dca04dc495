"""
Forward passes that begin where a changed weight first matters: what the layers before it gave is kept and returned.

A candidate that differs from a model in a few weights computes the same until the first of them is used. Of each batch
the model's own pass is recorded: the outputs of its modules, in the order in which they ran. A candidate then runs the
model's own code, in which each module that had ended before that use returns what it gave. What stands between modules
runs again, so residual connections, shared modules and branches need no graph. Bits are those of the plain way, which
is taken wherever the two differ on the first rows, or a pass calls other modules than the recorded one.
"""

import functools
import itertools
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as trees

from ..quantizers.mixed_precision import Mixed
from . import batching
from ._passes import KNOWN, Pass, Replay, equal, patched

MEMORY = 1 << 29  # bytes of outputs that are kept of one batch
_FEW, _LEAST = 8, 32  # rows to compare the two ways on; rows of a batch below which convolutions slow down


class _Uses(TorchFunctionMode):
    """Note when each of the *watched* tensors, by id, is first used, by whatever function of torch."""

    def __init__(self, watched: Mapping[int, str], now: Callable[[], int]):
        super().__init__()
        self.watched, self.now, self.first = watched, now, {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        # A layer's type, shape or device is asked for by others, and stays as it is.
        if getattr(function, "__name__", "") != "__get__" or isinstance(out, torch.Tensor):
            for value in trees.tree_leaves((args, kwargs)):
                if (path := self.watched.get(id(value))) is not None:
                    self.first.setdefault(path, self.now())
        return out


class Resumed:
    """
    Candidates that are a torch module with a few other weights, as functions that share what comes before these.

    Parameters
    ----------
    model : torch module
    functions : mapping, from batches to logits
        First that of *model*, called "reference", then those of its *candidates*, as
        :func:`bqcore.auditing.streaming.logits_functions` returns them.
    candidates : mapping of :class:`bqcore.quantizers.mixed_precision.Mixed`, by the names of the functions
    memory : int, bytes of outputs that are kept of one batch
        Of more, those of outer modules are kept before those of the modules in them.
    """

    def __init__(self, model: nn.Module, functions: Mapping, candidates: Mapping[str, Mixed], *, memory: int = MEMORY):
        self.model, self.plain, self.candidates, self.memory = model, functions, candidates, memory
        # What is compiled would be compiled anew for each change of a forward.
        self.looked = any(type(module).__name__ == "OptimizedModule" for module in model.modules())
        self.begins: dict[str, int] = {}  # when a candidate's weights are first used; none: the plain way
        self.bytes: dict[int, int] = {}  # of a row, by the calls whose outputs are needed, the outer ones first
        self.copied: set[int] = set()  # calls whose outputs are written to later in the pass
        self.passes: list[Pass] = []  # of the last batch

    def functions(self) -> dict[str, Callable]:
        """Return the functions: the reference records each batch, by which the candidates resume."""
        return {name: self._recorded(name) if name == "reference" else self._resumed(name) for name in self.plain}

    def batch_size(self, split, title: str) -> int | None:
        """Return how many samples a batch may have for all outputs to be kept, or None if any number is as good."""
        inputs = batching.whole_inputs(split, title)
        if inputs is None:
            return None
        self._look(inputs)
        each = sum(self.bytes.values())
        return min(batching.usual(inputs), max(_LEAST, self.memory // each)) if each else None

    def _recorded(self, name: str) -> Callable:
        @functools.wraps(self.plain[name])
        def function(batch):
            self._look(batch)
            self.passes = []
            with patched(self.model, self._record):
                return self.plain[name](batch)

        return function

    def _resumed(self, name: str) -> Callable:
        @functools.wraps(self.plain[name])
        def function(batch):
            if name not in self.begins:
                return self.plain[name](batch)
            replay = Replay(self.passes, self.begins[name], self.model, self.copied)
            with patched(self.model, replay.around):
                return self.plain[name](batch)

        return function

    def _record(self, module: nn.Module, forward: Callable) -> Callable:
        def call(*args, **named):
            first = module is self.model and not (self.passes and self.passes[-1].open)
            if first:
                self.passes.append(Pass((args, named), self._kept((args, named)).__contains__, self.copied))
            one = self.passes[-1]
            out = one.run(module, forward, (args, named))
            if first:
                one.outputs = {index: one.outputs[index] for index in one.outputs.keys() - one.written()}
            return out

        return call

    def _kept(self, given: tuple) -> set[int]:
        """Return the calls whose outputs are kept of a batch, until the memory is full."""
        rows = max((len(leaf) for leaf in trees.tree_leaves(given) if getattr(leaf, "ndim", 0)), default=0)
        sums = itertools.accumulate(rows * each for each in self.bytes.values())
        return {index for index, total in zip(self.bytes, sums) if total <= self.memory}

    def _look(self, inputs) -> None:
        """Find on the first rows where each candidate begins, which outputs that needs, and whether it is as it was."""
        if self.looked:
            return
        self.looked = True
        few = batching.take(inputs, slice(0, _FEW))
        try:
            self._find(few)
            self._recorded("reference")(few)
            same = {}
            for name, candidate in self.candidates.items():
                if (paths := tuple(candidate.names)) not in same and name in self.begins:
                    same[paths] = equal(self._resumed(name)(few), self.plain[name](few))
            self.begins = {name: at for name, at in self.begins.items() if same[tuple(self.candidates[name].names)]}
        except Exception:  # whatever keeps a model from being looked at is said when it runs in the plain way
            self.begins, self.bytes = {}, {}

    def _find(self, few) -> None:
        paths = {path for candidate in self.candidates.values() for path in candidate.names}
        watched = {id(self.model.get_parameter(path)): path for path in paths}
        looks: list[Pass] = []

        def look(module, forward):
            def call(*args, **named):
                if module is self.model and not (looks and looks[-1].open):
                    looks.append(Pass((args, named), lambda index: True))
                return looks[-1].run(module, forward, (args, named))

            return call

        with patched(self.model, look):
            with _Uses(watched, lambda: looks[0].time if looks else 0) as uses:
                self.plain["reference"](few)
            count = len(looks)
            self.plain["reference"](few)  # without a mode, which some modules compute otherwise under
        one = looks[count]
        first = uses.first if looks[0].calls == one.calls else _by_holders(one, watched)
        self.copied = one.written()
        for name, candidate in self.candidates.items():
            if all(path in first for path in candidate.names):
                self.begins[name] = min(first[path] for path in candidate.names)
        times = set(self.begins.values())
        for index in sorted(one.outputs, key=lambda index: (one.depth(index), index)):
            call, leaves = one.calls[index], trees.tree_leaves(one.outputs[index])
            end = one.calls[call.parent].end if call.parent >= 0 else -1
            if any(call.end < time <= end for time in times) and all(isinstance(leaf, KNOWN) for leaf in leaves):
                total = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
                self.bytes[index] = -(-total // batching.length(few))


def _by_holders(one: Pass, watched: Mapping[int, str]) -> dict[str, int]:
    """Return when the innermost called module that holds each of the *watched* tensors first begins."""
    inside = [{id(parameter) for parameter in call.module.parameters()} & watched.keys() for call in one.calls]
    within: list[set] = [set() for _ in inside]
    for call, held in zip(one.calls, inside):
        if call.parent >= 0:
            within[call.parent] |= held
    first: dict[str, int] = {}
    for call, held, further in zip(one.calls, inside, within):
        for key in held - further:
            first.setdefault(watched[key], call.start + 1)
    return first
