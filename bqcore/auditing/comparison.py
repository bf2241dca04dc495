"""Audit any classifier: would this candidate (quantized, pruned, converted) decide as the reference does?"""

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from .. import _vocabulary
from .._checks import check_integer, check_share, is_module
from .._store import along, package_versions
from . import loaders, samples
from .adapters import class_names, runnable
from .findings import ENDS, Audit
from .geometry import gradient_measures, slice_measures
from .limits import check_limits
from .orders import order_fault
from .streaming import RATES, Decided, decide_split, logits_functions, measures
from .verdict import COMMANDS, NO_MODULE

SPLITS = ("calibration", "heldout")


def audit(
    reference, candidate, calibration, heldout, *, fraction: float = 0.2, nodes: int = 101,
    gradient_samples: int = 1000, probabilities: bool = False, check_order: bool = True, batch_size: int | None = None,
    ids=None, limits: Mapping[str, float] | None = None,
) -> Audit:  # fmt: skip
    """
    Compare the decisions of two classifiers on the same inputs.

    Parameters
    ----------
    reference, candidate : classifiers, inputs -> logits (N, K)
        The float one and the quantized one: torch modules, ONNX Runtime sessions, scikit-learn estimators, or any
        callables; see :func:`bqcore.auditing.adapters.logits_function`.
    calibration, heldout : inputs, (inputs, classes), an iterable of batches of either, or a function that gives one
        Two disjoint splits. *calibration* may be None. Inputs are arrays, tensors, data frames, sparse matrices, or
        dictionaries of them. Classes are column indices of the logits (or one-hot, or a column), or the classes that a
        scikit-learn estimator knows as its ``classes_``. A data set, such as torch's, is gone through in its order.
    fraction : float, of the inputs that make the low-margin boundary band, in (0, 1]
    nodes : int
        Nodes a side of the slice grid, with every second and every fourth of them as coarser grids; between every
        second one logits are interpolated, for the tolerance Jaccard distance. At least 2, or 0, which leaves slices
        out.
    gradient_samples : int
        Held-out samples, the first ones, that displacement is measured on; 0 leaves it out. The radius is taken on as
        many as make 20,000 pairs of sample and class.
    probabilities : bool, take the logarithm of what both classifiers return
    check_order : bool
        Refuse decisions that agree no better than shuffled ones would, or by other numbers of the classes; else a note.
    batch_size : int, optional
        Samples at once; by default 512, or as many as hold 2^24 values. Slices and gradients choose their own number.
    ids : sequence of N names, optional
        Of the held-out samples, by which those that flip are listed; by default the index of a data frame, or the files
        of a folder of images.
    limits : mapping of measure to fraction, optional
        The largest that the verdict lets pass: ``flip_rate``, ``band_flip_rate``, ``accuracy_loss``, or another rate.
        Those stated take the place of the defaults, 0.01, 0.05 and 0.005.

    Returns
    -------
    Audit
        ``conclusion`` in words, ``notes`` on what was left out and what to doubt, ``verdict`` with ``word`` (*ship*,
        *look* or *do not ship*), ``reasons``, ``next_steps`` and ``samples_needed``, and ``dataset``; each variable
        says in its ``long_name`` what it is. Rates are fractions in [0, 1] with 95 % Clopper–Pearson intervals, lengths
        are in the units of the inputs.

    Raises
    ------
    ValueError
        If *fraction* is not in (0, 1] or *nodes* is 1; the classifiers differ in their classes; one gives logits that
        are not finite, or probabilities, is in training mode, takes integers where the data hold others, or answers one
        batch twice with logits that differ by more than 1e-5 of their range; *ids* are not one for each sample, or the
        held-out split comes from a loader that shuffles; a split has fewer than five samples, or its rows or classes
        are in another order, by the rules of :func:`bqcore.auditing.orders.order_fault`. What stops slices or gradients
        alone becomes a note.

    Examples
    --------
    >>> import bqcore
    >>> float_model = lambda x: np.stack([3 * x[:, 0], 1 - x[:, 0]], axis=1)
    >>> rounded = lambda x: float_model(x + 0.0105)
    >>> found = bqcore.audit(float_model, rounded, None, np.linspace(0, 1, 401)[:, None], nodes=0)
    >>> print(found.conclusion)
    The candidate changes 4 of 401 held-out decisions (1.0 %, 95 % interval 0.3 to 2.5 %), 4 of them among the 81 of
    lowest float margin (4.9 %).
    """
    fraction = check_share("Band fraction", fraction)
    nodes = check_integer("Nodes a side", nodes, 0)
    gradient_samples = check_integer("Gradient samples", gradient_samples, 0)
    # What would be refused once all decisions are measured is refused before.
    if fraction == 0:
        raise ValueError("Band fraction is 0: the boundary band would be empty.")
    check_limits(limits or {})
    if nodes == 1:
        raise ValueError("Nodes a side is 1: give at least 2, or 0 to leave slices out.")
    reference, candidate = runnable(reference), runnable(candidate)
    known = class_names({"reference": reference, "candidate": candidate})
    functions = logits_functions(reference, {"candidate": candidate}, probabilities)
    parts, found, notes = {}, {}, []
    names, pictures = samples.names_of(heldout, ids), samples.Pictures()
    for name, split in (("calibration", calibration), ("heldout", heldout)):
        if split is None and name == "calibration":
            continue
        decided, head, remarks = decide_split(
            functions, split, name, batch_size=batch_size, known=known, pictures=pictures if name == "heldout" else None
        )
        found[name] = decided["candidate"], head
        notes += [split.note] if hasattr(split, "note") else []  # of a folder of images, on what in it is none
        notes += remarks
        if fault := order_fault(decided["candidate"], name):
            if check_order:
                raise ValueError(
                    f"{fault}; bring all into one order, or say check_order=False (--no-order-check) if the model "
                    "really is that bad."
                )
            notes.append(f"{fault}.")
        band = decided["candidate"].band(fraction)
        parts[name] = measures(decided["candidate"], band)
    out = along("split", list(parts), list(parts.values()))
    decided, head = found["heldout"]
    out = out.merge(_moved(decided, band))
    if known is not None and len(known) == decided.classes:
        out["class_name"] = "class", known.astype(str)
    if names is not None:
        named = samples.flipped_names(names, out.flipped_sample.values, len(decided.winner))
        if isinstance(named, str):  # all is measured by now, and must not be lost
            notes.append(named)
        else:
            out["flipped_id"] = "flip", named
    elif note := loaders.order_note(heldout):
        notes.append(note)
    models, heads = {"reference": reference, "candidate": candidate}, {name: head for name, (_, head) in found.items()}
    sliced = slice_measures(models, functions, heads, nodes, probabilities=probabilities)
    local = gradient_measures(models, functions, head, gradient_samples, decided.classes, probabilities=probabilities)
    for measure, says in ((sliced, "Slices"), (local, "Radius and displacement")):
        if isinstance(measure, xr.Dataset):
            out = out.merge(measure)
        elif measure:
            notes.append(f"{says} are left out: {measure}.")
    notes += _remarks(out) + _chance(decided) + _left(reference, candidate)
    notes, conclusion = list(dict.fromkeys(notes)), conclude(out.sel(split="heldout"))
    says = {"title": "Audit: decisions of a candidate against a reference", "conclusion": conclusion, "share": fraction}
    describe(out, says | {"notes": json.dumps(notes, ensure_ascii=False)})
    asked = COMMANDS if is_module(reference) else NO_MODULE
    return Audit(out, conclusion, tuple(notes), pictures.made(), limits, commands=asked)


def _moved(decided: Decided, band: np.ndarray) -> xr.Dataset:
    """List the flipped held-out samples by growing float margin, the class pairs that moved, and the classes."""
    flipped = np.flatnonzero(decided.flipped())
    order = flipped[np.argsort(decided.margin[flipped], kind="stable")]
    pairs = decided.winner[order].astype(np.int64) * decided.classes + decided.decision[order]
    found, counts = np.unique(pairs, return_counts=True)
    largest = np.argsort(-counts, kind="stable")
    # Of samples in ten groups of equal size by growing margin, how many flip.
    by_margin, y = np.argsort(decided.margin, kind="stable"), decided.targets
    groups = np.array_split(by_margin, min(10, len(by_margin)))
    counted = {"reference": decided.winner, "candidate": decided.decision, "both": decided.winner[~decided.flipped()]}
    columns = {
        "flip": {
            "flipped_sample": order, "flipped_margin": decided.margin[order], "flipped_moved": decided.moved[order],
            "flipped_from": decided.winner[order], "flipped_to": decided.decision[order],
            "flipped_in_band": np.isin(order, band),
            "flipped_target": np.full(len(order), -1, np.int64) if y is None else y[order].astype(np.int64),
        },
        "pair": dict(zip(("pair_from", "pair_to"), np.divmod(found[largest], decided.classes)))
        | {"pair_flips": counts[largest]},
        "class": {f"decided_{of}": np.bincount(x, minlength=decided.classes) for of, x in counted.items()},
        "group": {
            "group_samples": list(map(len, groups)), "group_flips": [int(decided.flipped()[g].sum()) for g in groups],
            "group_margin": [decided.margin[g[-1]] for g in groups],
        },
    }  # fmt: skip
    return xr.Dataset({name: (dim, values) for dim, each in columns.items() for name, values in each.items()})


def _remarks(out: xr.Dataset) -> list[str]:
    """Return what to know when reading the numbers, from the numbers."""
    held, notes = out.sel(split="heldout"), []
    high, count = float(held.flip_rate_high), int(held.samples)
    if high - float(held.flip_rate) > 0.05:
        notes.append(
            f"{count} held-out samples are few: the flip rate could be as high as {high:.1%}; take some hundreds."
        )
    if int(held.near_ties):
        notes.append(
            f"{int(held.near_ties)} held-out samples have a float top-2 margin below 1e-6: a rounding decides them."
        )
    if out.sizes["split"] == 2:
        cal = out.sel(split="calibration")
        if float(cal.flip_rate_high) < float(held.flip_rate_low):
            notes.append(
                f"Held-out decisions change more often ({float(held.flip_rate):.2%}) than those of the calibration "
                f"split ({float(cal.flip_rate):.2%}), with intervals apart: the reference was trained or the "
                "candidate fitted on that split, or the two differ."
            )
    if int(held.unchanged) == count:
        notes.append("The candidate's margins equal the reference's on every held-out sample: was it changed at all?")
    missing = int(((out.decided_reference > 0) & (out.decided_candidate == 0)).sum())
    if missing:
        notes.append(f"The candidate never decides for {missing} of the classes that the reference decides for.")
    return notes


def _chance(decided: Decided) -> list[str]:
    """Doubt a reference that knows no more than one class: weights not loaded, inputs scaled otherwise."""
    if decided.targets is None:
        return []
    right = int((decided.winner == decided.targets).sum())
    if right > (most := int(np.bincount(decided.targets).max())):
        return []
    return [
        f"The reference is right on {right} of {len(decided.targets)} held-out samples, and one class for all would be "
        f"on {most}: are its weights loaded, its inputs scaled as in training, its columns in the order of the classes?"
    ]


def _left(reference, candidate) -> list[str]:
    """Say which weights of a torch module are the same in a candidate of the same layers."""
    if not (is_module(reference) and is_module(candidate)) or reference is candidate:
        return []
    from ..quantizers.weights import same_in

    said = same_in(reference, candidate).sentence("of the weights are the same in the candidate, not quantized")
    return [said.strip()] if said else []


def conclude(held: xr.Dataset) -> str:
    """Say in one plain sentence what the held-out numbers *held* show."""
    n, k, high = int(held.samples), int(held.flip_rate_events), float(held.flip_rate_high)
    before, after = float(held.accuracy_reference), float(held.accuracy)
    accuracy = "; accuracy stays " if before == after else f"; accuracy goes from {before:.4f} to "
    accuracy = f"{accuracy}{after:.4f}" if np.isfinite(after) else ""
    ties = (
        f", {count} of them ties of its largest scores, which the order of the columns decides"
        if (count := int(held.tied_flips))
        else ""
    )
    if k == 0:
        return (
            f"The candidate changes none of {n} held-out decisions (95 % interval 0 to {100 * high:.2f} %){accuracy}."
        )
    return (
        f"The candidate changes {k} of {n} held-out decisions ({100 * k / n:.1f} %, 95 % interval "
        f"{100 * float(held.flip_rate_low):.1f} to {100 * high:.1f} %), {int(held.flips_in_band)} of them among the "
        f"{int(held.band_samples)} of lowest float margin ({100 * float(held.band_flip_rate):.1f} %){ties}{accuracy}."
    )


def describe(dataset: xr.Dataset, attributes: Mapping) -> xr.Dataset:
    """Write its long name into every variable, and *attributes* and the versions of what made it into the dataset."""
    _vocabulary.describe(dataset)
    for name, variable in dataset.variables.items():
        base, _, end = name.rpartition("_")
        if base in RATES and end in ENDS:
            variable.attrs = {"long_name": f"{RATES[base]}, {ENDS[end]}"}
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    dataset.attrs = {**attributes, "versions": versions}
    return dataset
