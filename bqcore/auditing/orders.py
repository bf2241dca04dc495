"""Rows and classes in one order: shuffled rows and permuted classes are found, and told apart."""

from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from .streaming import TITLES, Decided

_MOST = 2000  # classes that a permutation is looked for among, the most frequent ones: time grows with their cube
_SHOWN = 8


def order_fault(decided: Decided, name: str) -> str:
    """
    Say which of a split's decisions and classes are in another order; nothing if none is.

    First permuted classes, by :func:`renumbered`; then shuffled rows. Two lists of classes are shuffled if they hold
    the same classes equally often (their counts overlap by 0.7, and by 0.2 more than chance would agree) and yet agree
    row by row less than four standard deviations above chance, the agreement to expect of shuffled lists. Asked of at
    least 50 samples.
    """
    lists = {"the reference's decisions": decided.winner, "the candidate's": decided.decision}
    if decided.targets is not None:
        lists["the given classes"] = decided.targets
    pairs = list(combinations(lists, 2))
    for fault, says in ((_permuted, "numbered in another way"), (_shuffled, "in another order")):
        apart = {(a, b): found for a, b in pairs if (found := fault(a, b, lists[a], lists[b], decided.classes))}
        if apart:
            # With three lists, the one that agrees with neither of the others is the one that is out of order.
            odd = [key for key in lists if all(key in pair for pair in apart)]
            who = f"{odd[0]} are" if len(odd) == 1 else "one of them is"
            return f"{TITLES[name]}: {next(iter(apart.values()))}: {who} {says}"
    return ""


def renumbered(first: np.ndarray, second: np.ndarray, classes: int) -> dict[int, int]:
    """
    Return which class of *second* is each class of *first*, where the two lists number classes differently.

    Of the assignment of classes to classes by which most samples agree, the circles (0 to 1, 1 to 0) count in which
    over half of the samples agree by it, and more than as they are by four standard deviations.

    >>> renumbered(np.tile([0, 1, 2, 3], 25), np.tile([0, 3, 2, 1], 25), 4)
    {1: 3, 3: 1}
    """
    own, other = (np.bincount(values, minlength=classes) for values in (first, second))
    same = np.bincount(first[first == second], minlength=classes)
    doubtful = np.flatnonzero(2 * same < np.maximum(own, other))  # most of the rest is right as it is
    doubtful = np.sort(doubtful[np.argsort(-(own + other)[doubtful], kind="stable")[:_MOST]])
    place = np.full(classes, -1)
    place[doubtful] = np.arange(len(doubtful))
    a, b = place[first], place[second]
    among = (a >= 0) & (b >= 0)
    size = len(doubtful)
    table = np.bincount(a[among] * size + b[among], minlength=size * size).reshape(size, size)
    to = linear_sum_assignment(table + 0.5 * np.eye(size), maximize=True)[1]  # as they are, if nothing is gained
    out, left = {}, set(range(size))
    while left:
        circle = [left.pop()]
        while (following := int(to[circle[-1]])) != circle[0]:
            circle.append(following)
            left.discard(following)
        gained, kept = (int(table[circle, those].sum()) for those in (to[circle], circle))
        if len(circle) > 1 and 2 * gained > own[doubtful[circle]].sum() and gained - kept > 4 * np.sqrt(gained + kept):
            out |= {int(doubtful[c]): int(doubtful[to[c]]) for c in circle}
    return dict(sorted(out.items()))


def _permuted(a: str, b: str, first: np.ndarray, second: np.ndarray, classes: int) -> str:
    """Say how two lists number classes differently; nothing if they do not."""
    found = renumbered(first, second, classes)
    if not found:
        return ""
    so = np.arange(classes)
    so[list(found)] = list(found.values())
    agree = f"{(first == second).mean():.1%} of the samples as they are and on {(so[first] == second).mean():.1%} so"
    more = ", …" if len(found) > _SHOWN else ""
    ours, theirs = (", ".join(map(str, list(part)[:_SHOWN])) + more for part in (found, found.values()))
    return (
        f"{a} and {b} number the classes differently, what is {ours} in {a} is {theirs} in {b} (they agree on {agree})"
    )


def _shuffled(a: str, b: str, first: np.ndarray, second: np.ndarray, classes: int) -> str:
    """Say how little two lists agree if they look shuffled; nothing if they do not."""
    n = len(first)
    p, q = (np.bincount(values, minlength=classes) / n for values in (first, second))
    chance, overlap, agreement = float(p @ q), float(np.minimum(p, q).sum()), float((first == second).mean())
    apart = agreement < chance + 4 * np.sqrt(chance * (1 - chance) / n)
    alike = overlap - chance >= 0.2 and overlap >= 0.7
    if n < 50 or not apart or not alike:
        return ""
    return (
        f"{a} and {b} agree on {agreement:.1%} of the samples, as shuffled ones would ({chance:.1%}), though they hold "
        f"the same classes equally often (overlap {overlap:.0%})"
    )
