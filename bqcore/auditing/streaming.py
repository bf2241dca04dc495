"""
Decisions of whole splits, pooled batch by batch, with what can be wrong with two classifiers or their data.

Of each sample only a few numbers are kept (decisions, margins), never its logits, so a million samples of a thousand
classes take no more memory than a batch and these numbers. The rates are those of :mod:`bqcore.metrics.decisions` on
all logits.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .._checks import is_module, is_tensor, to_numpy
from .._vocabulary import LONG_NAMES
from ..metrics import decisions, statistics
from . import adapters, batching, estimators, forms, samples

TITLES = {"calibration": "Calibration split", "heldout": "Held-out split"}
_RATES = """flip_rate right_to_wrong wrong_to_right wrong_to_other band_flip_rate pair_order_flip_rate
    band_pair_order_flip_rate accuracy_reference accuracy""".split()
RATES = {name: LONG_NAMES[name][0] for name in _RATES}
QUANTILES = [0.5, 0.95]
_REPEAT = 1e-5  # two passes over one batch may differ by this fraction of the logits' range: sums in another order
# How far from one a row of probabilities may sum. A softmax in 16 bits rounds exponentials, their sum, part by part,
# and quotients by up to 2^-11 in float16 and 2^-8 in bfloat16: twenty of these. In wider types only probabilities that
# are written with few digits are as far off.
_SUM, _SUM_16_BITS = 1e-3, {"float16": 1e-2, "bfloat16": 8e-2}
# One row of logits may look like probabilities, as (1, 0) does. So many rows are judged, whatever the batch size: a
# long split is refused once they are read, a shorter one at its end.
_JUDGED = 1000
_HEAD, _HEAD_VALUES = 2000, 20_000_000
_PIECE = 1 << 18  # logits looked at together
SEVERAL = (
    "The reference's scores all lie in [0, 1] and have no common sum, as sigmoids of several labels do. Are several "
    "right at once? The largest score is taken for the decision; else audit each label p, as (log(1 - p), log p)."
)


class Decided(NamedTuple):
    """What is kept of each sample of a split, arrays (N,)."""

    winner: np.ndarray  # the reference's decision a
    runner_up: np.ndarray  # its second class b
    margin: np.ndarray  # its top-2 margin z_a − z_b, float64
    decision: np.ndarray  # the candidate's decision
    moved: np.ndarray  # the candidate's z_a − z_b, float64
    tied: np.ndarray  # whether the candidate's z_a equals its largest score
    targets: np.ndarray | None  # true classes
    classes: int  # K

    def change(self) -> np.ndarray:
        """Return by how much the margin of the reference's pair changes; none where it stays infinite."""
        still = self.moved == self.margin
        return np.abs(np.subtract(self.moved, self.margin, out=np.zeros_like(self.margin), where=~still))

    def flipped(self) -> np.ndarray:
        """Mark the samples whose decision changes."""
        return self.winner != self.decision

    def band(self, fraction: float) -> np.ndarray:
        """Return the indices of the low-margin boundary band, by growing margin."""
        # Two logits m and 0 have the top-2 margin m: the rule stays in one place.
        finite = np.minimum(self.margin, np.finfo(np.float64).max)
        return decisions.boundary_band(np.stack([finite, np.zeros_like(finite)], axis=1), fraction)


def logits_functions(reference, candidates: Mapping, probabilities: bool) -> dict:
    """Return the reference and every candidate as functions to logits, of log-probabilities if *probabilities*."""
    named = {"reference": reference} | dict(candidates)
    functions = {name: adapters.logits_function(model, f"The {name}") for name, model in named.items()}
    if not probabilities:
        return functions
    return {name: _logarithm(function, name) for name, function in functions.items()}


def _logarithm(function, name: str):
    @functools.wraps(function)
    def logits(batch):
        p = function(batch)
        values = batching.as_array(p, f"The {name}'s probabilities")
        if not _are_probabilities(p):
            raise ValueError(
                f"The {name} does not give probabilities (non-negative, each row summing to 1): leave "
                "probabilities=True (--probabilities) out."
            )
        return np.log(np.maximum(values.astype(np.float64), estimators.TINY))

    return logits


def _are_probabilities(output) -> bool:
    z = to_numpy(output)
    if z.ndim != 2 or not (z >= 0).all():
        return False
    kind = str(getattr(output, "dtype", z.dtype)).removeprefix("torch.")  # the output's own: NumPy has no bfloat16
    tolerance = _SUM_16_BITS.get(kind, _SUM)
    return bool((np.abs(z.sum(axis=1, dtype=np.float64) - 1) < tolerance).all())


def decide_split(
    functions: Mapping,
    split,
    name: str,
    *,
    batch_size: int | None = None,
    known: np.ndarray | None = None,
    pictures: samples.Pictures | None = None,
    alike: bool = False,
    progress: str = "",
):
    """
    Measure a split in one pass: return what :class:`Decided` lists by candidate, the first inputs, and notes.

    The first of *functions*, from inputs to logits, is the reference. The first inputs are up to 2,000 samples and 2 ·
    10^7 values, of one shape. Notes are on classifiers whose answer depends on the rest of the batch, and on batches of
    several shapes. *known* are the names of the classes, if classes may be given by name. *pictures*, if the split's
    samples are to be listed, keep those of the first candidate's flips. Candidates that are *alike* are the reference
    with other weights, so that what is asked of the reference alone is known of them. *progress* names a bar. Refused
    are logits that are not finite, differ in their classes or look like probabilities, two answers to one batch, fewer
    than five samples, classes that are no columns of the logits, and a loader that shuffles samples that are to be
    listed.
    """
    title = TITLES[name]
    reference, *candidates = functions
    rows, targets, head, notes, held, classes, suspects = [], [], [], [], 0, 0, list(functions)
    shapes, first, bar = [], [], batching.bar(split, title, len(functions), progress)
    for batch in batching.batches(split, title, batch_size, known, listed=pictures is not None):
        outputs = {}
        for key, function in functions.items():
            outputs[key] = function(batch.inputs)
            if bar is not None:
                bar.update(batching.length(batch.inputs))
        read = {key: batching.decided(output, batch, f"{title}: {key} logits") for key, output in outputs.items()}
        logits = {key: z for key, (z, _) in read.items()}
        judged = slice(0, max(0, _JUDGED - batch.start))
        suspects = [key for key in suspects if _are_probabilities(outputs[key][judged])]
        first.append(logits[reference][judged].copy())  # a view would keep the batch
        if batch.start + len(logits[reference]) >= _JUDGED:
            _refuse_probabilities(suspects)
        if batch.start == 0:
            asked = [reference] if alike else list(logits)
            notes = [note for key in asked for note in _first_look(functions[key], batch, logits[key], key)]
            wanted = max(3, min(_HEAD, _HEAD_VALUES // max(1, batching.width(batch.inputs))))
            classes = logits[reference].shape[1]
        for key, z in logits.items():
            if z.shape[1] != classes:
                other = "the reference" if batch.start == 0 else "its first batch"
                raise ValueError(
                    f"The {key} gives {z.shape[1]} classes and {other} {classes}: both must know the same classes; "
                    "pick or reorder the columns in a function around the model."
                )
        if (shape := batching.shape(batch.inputs)) not in shapes[:2]:
            shapes.append(shape)
        if held < wanted and shape == shapes[0]:
            head.append(batching.take(batch.inputs, slice(0, wanted - held)))
            held += batching.length(head[-1])
        rows.append(_kept(list(read.values())))
        if pictures is not None:
            winner, _, margin, decision = rows[-1][:4]
            pictures.add(batch, margin, winner != decision)
        targets.append(batch.classes)
    if bar is not None:
        bar.close()
    _refuse_probabilities(suspects)
    if _several_labels(np.concatenate(first)):
        notes.append(SEVERAL)
    if len(shapes) > 1 and isinstance(shapes[0], tuple):
        notes.append(
            f"{title}: batches have samples of different shapes, {shapes[0]} and {shapes[1]}: slices and gradients "
            "take those of the first shape alone."
        )
    columns = [np.concatenate(column) for column in zip(*rows)]
    if (n := len(columns[0])) < 5:
        raise ValueError(f"{title} has {n} samples: a boundary band needs at least 5, and a flip rate of 1 % some 300.")
    y = None if targets[0] is None else np.concatenate(targets)
    if y is not None:
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"{title}: classes run from {y.min()} to {y.max()}, but the logits have columns 0 to {classes - 1}: "
                f"give each class as the index of its column, {forms.COLUMNS}."
            )
        y = y.astype(np.int64)  # batches of signed and of unsigned integers join to floats
    out = {key: Decided(*columns[:3], *columns[3 + 3 * i : 6 + 3 * i], y, classes) for i, key in enumerate(candidates)}
    return out, batching.join(head), notes


def _kept(read: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Return winner, runner-up and margin of a batch, then decision, pair margin and ties of each candidate."""
    n, classes = read[0][0].shape
    rows = max(1, _PIECE // classes)
    pieces = (slice(start, start + rows) for start in range(0, n, rows))
    parts = [_kept_of(*((z[piece], decision[piece]) for z, decision in read)) for piece in pieces]
    a, b, *columns = [np.concatenate(column) for column in zip(*parts)]
    out = [a, b, _difference(*columns[:2])]
    for first in range(2, len(columns), 4):
        decision, of_a, of_b, top = columns[first : first + 4]
        out += [decision, _difference(of_a, of_b), of_a == top]
    return out


def _kept_of(reference: tuple[np.ndarray, np.ndarray], *candidates: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """
    Return winner, runner-up and their logits, then decision, the logits of both and of it for each candidate.

    The rows are few enough to stay in a core's cache while they are looked at.
    """
    before, a = reference
    b = decisions.second_of(before, a)
    row, lowest = np.arange(len(a)), np.finfo(before.dtype).min
    if ((a == b) | (before[row, b] <= lowest)).any():  # where all others are masked, the first of them is second
        a, b = decisions.pair_of(np.maximum(before, lowest))
    out = [a.astype(np.int32), b.astype(np.int32), before[row, a], before[row, b]]
    for z, decision in candidates:
        out += [decision.astype(np.int32), z[row, a], z[row, b], z[row, decision]]
    return out


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first − second in float64, 0 if both are −∞."""
    return np.subtract(first, second, out=np.zeros(first.shape), where=first != second, dtype=np.float64)


def _several_labels(logits: np.ndarray) -> bool:
    """Return whether scores all lie in [0, 1] and have no common sum, as what is normalized in any way has."""
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    return inside and float(np.ptp(logits.sum(axis=1, dtype=np.float64))) > _SUM_16_BITS["bfloat16"]


def _refuse_probabilities(suspects: list[str]) -> None:
    """Refuse the first of the classifiers whose rows all looked like probabilities."""
    if suspects:
        raise ValueError(
            f"The {suspects[0]} seems to give probabilities (non-negative rows that sum to 1), whose margins mean "
            "something else: give logits, or say probabilities=True (--probabilities), which takes their logarithms."
        )


def _first_look(function, batch: batching.Batch, z: np.ndarray, key: str) -> list[str]:
    """Refuse chance in a classifier's first batch; note an answer that depends on the batch."""
    span = float(np.ptp(z[np.isfinite(z)].astype(np.float64))) or 1.0
    again = batching.read(function(batch.inputs), batch, f"The {key}'s logits")
    gap = np.abs(_difference(again, z)).max(axis=1)
    apart = int((gap > _REPEAT * span).sum())
    if apart:
        raise ValueError(
            f"The {key} answers one batch twice with different logits ({apart} of {len(gap)} rows, by up to "
            f"{gap.max():.3g}): {_why(function, batch)}."
        )
    half = len(z) // 2
    if half == 0:
        return []
    part = batch._replace(inputs=batching.take(batch.inputs, slice(0, half)))
    alone = batching.read(function(part.inputs), part, f"The {key}'s logits")
    gap = float(np.abs(_difference(alone, z[:half])).max())
    if gap <= 100 * _REPEAT * span:
        return []
    moved = int((alone.argmax(axis=1) != z[:half].argmax(axis=1)).sum())
    return [
        f"The {key}'s logits depend on what else is in the batch (by up to {gap:.3g} of a range of {span:.3g}, moving "
        f"{moved} of {half} decisions between batches of {len(z)} and {half}), as with activations quantized by the "
        "batch's own range: the numbers hold for this batch size."
    ]


def _why(function, batch: batching.Batch) -> str:
    """Say why a classifier gives two answers to one batch, and what to do."""
    model = getattr(function, "model", None)
    state = model.state_dict if is_module(model) else dict
    before = {key: to_numpy(value).copy() for key, value in state().items() if is_tensor(value)}
    function(batch.inputs)
    changed = [
        key for key, value in before.items() if not np.array_equal(value, to_numpy(state()[key]), equal_nan=True)
    ]
    if changed:
        return (
            f"its tensor {changed[0]} ({len(changed)} of {len(before)}) changes while it answers: freeze it "
            "(observers, running statistics, caches)"
        )
    return (
        "turn off what is drawn at random (dropout: .eval(); augmentation; sampling) or kept from one call to the next"
    )


def quantiles(values: np.ndarray) -> np.ndarray:
    """Return the :data:`QUANTILES` of what is not NaN."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.full(len(QUANTILES), np.nan)
    # Between a number and infinity there is nothing to interpolate.
    return np.quantile(values, QUANTILES, method="linear" if np.isfinite(values).all() else "higher")


def measures(decided: Decided, band: np.ndarray) -> dict:
    """
    Measure the rates of a split and its *band*, as :mod:`bqcore.metrics.decisions` does, each with its 95 % interval.

    By name of :data:`RATES` stands the rate in [0, 1], NaN where it needs classes that are not given, and with
    ``_events``, ``_low``, ``_high`` its count and Clopper–Pearson interval; beside them counts, margins and their
    change.
    """
    n, flipped, y = len(decided.margin), decided.flipped(), decided.targets
    reversed_pair = decided.moved < 0
    events = {
        "flip_rate": flipped, "band_flip_rate": flipped[band],
        "pair_order_flip_rate": reversed_pair, "band_pair_order_flip_rate": reversed_pair[band],
    }  # fmt: skip
    if y is not None:
        a, b = decided.winner == y, decided.decision == y
        events |= {
            "right_to_wrong": flipped & a, "wrong_to_right": flipped & b, "wrong_to_other": flipped & ~a & ~b,
            "accuracy_reference": a, "accuracy": b,
        }  # fmt: skip
    change = decided.change()
    out = {
        "samples": n, "band_samples": len(band), "near_ties": int((decided.margin < 1e-6).sum()),
        "band_margin": float(decided.margin[band[-1]]),
        "margin_change": ("quantile", quantiles(change)), "quantile": QUANTILES,
        "flips_in_band": int(flipped[band].sum()), "unchanged": int((change == 0).sum()),
        "tied_flips": int((flipped & decided.tied).sum()),
    }  # fmt: skip
    for name in RATES:
        rate, count, low, high = np.nan, -1, np.nan, np.nan
        if (found := events.get(name)) is not None:
            count = int(found.sum())
            rate, low, high = statistics.clopper_pearson(count, len(found))
        out |= {name: rate, f"{name}_events": count, f"{name}_low": low, f"{name}_high": high}
    return out
