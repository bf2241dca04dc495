"""Claims judged together: numbers of one choice or one run, and the readings of a direction."""

from itertools import combinations

import numpy as np

from .claims import Results, pick
from .formats import brief
from .verdicts import DIRECTIONS, NUMBERS, at_limits, numbers_of, together


def judge_joint(claim: dict, claims: list[dict], rows: dict[str, dict], results: Results, rule: dict) -> dict:
    """Judge claims together: numbers at one limit, in one ordered triple or as they are, directions as their worst."""
    members = [next(other for other in claims if other["id"] == name) for name in claim["together"]]
    if claim.get("over") == "triples":
        return _judge_triples(members, results, rule)
    if claim.get("over") == "limits":
        each = [(together(numbers), numbers) for numbers in at_limits(members, results, rule)]
        best, numbers = max(each, key=lambda pair: (NUMBERS.index(pair[0].verdict), len(pair[0].excluded)))
        count = sum(one.verdict != NUMBERS[0] for one, _ in each)
        note = f"at the limit that agrees best; all inside at once at {count} of {len(each)} limits"
    elif members[0]["kind"] == "value":
        numbers = [numbers_of(member, results, rule)[""] for member in members]
        best, note = together(numbers), ""
    else:
        found = [rows[name]["verdict"] for name in claim["together"]]
        return {"verdict": min(found, key=DIRECTIONS.index), "together": dict.fromkeys(claim["together"])}
    sides = {side: dict.fromkeys(getattr(best, side)) for side in ("excluded", "held")}
    ours = {name: one.interval.estimate for name, one in zip(claim["together"], numbers)}
    return {"verdict": best.verdict, "note": note, "together": ours} | sides


def _judge_triples(members: list[dict], results: Results, rule: dict) -> dict:
    """
    Judge three counts of one run in three transitions of descending bits, over all such triples.

    A triple agrees where the reported counts are no stranger among the seeds' counts than 1 − ``level`` of these.
    """
    values = pick(results.load(members[0]["from"]), members[0]["select"]).transpose("seed", members[0]["at_any"])
    places, counts = values[members[0]["at_any"]].values.tolist(), values.values.astype(np.float64)
    reported = np.array([member["reported"] for member in members], dtype=np.float64)
    if len(places) < 3:
        raise ValueError(f"there are {len(places)} transitions, and three in order are judged: run more bit-widths.")
    triples = list(combinations(range(len(places)), 3))
    names = {triple: "triple " + ", ".join(places[i] for i in triple) for triple in triples}
    p = {triple: rank_p(counts[:, triple], reported) for triple in triples}
    best, limit = max(p, key=p.get), 1 - rule["level"]
    held, excluded = {}, {}
    for other in triples:
        if other != best:
            chance = rank_p(counts[:, best], counts[:, other].mean(axis=0))
            (held if chance > limit else excluded)[names[other]] = None
    inside = [names[triple] for triple in triples if p[triple] > limit]
    place = names[best].removeprefix("triple ")
    note = f"in {place}, with p = {brief(p[best], '.3f')}; {len(inside)} of {len(triples)} ordered triples agree"
    ours = dict(zip((member["id"] for member in members), counts[:, best].mean(axis=0).tolist()))
    verdict = NUMBERS[bool(inside) + bool(inside and not held)]
    return {"verdict": verdict, "excluded": excluded, "held": held, "note": note, "together": ours}


def rank_p(runs: np.ndarray, one: np.ndarray) -> float:
    """
    Return the fraction of *runs* (seeds, values) and *one* that are as far from the mean of all as *one* is.

    The distance is Mahalanobis's, with the mean and covariance of all of them together. If *one* is a run like the
    others, the fraction is at most α with a probability of at most α, whatever the distribution.
    """
    everyone = np.vstack([runs, one])
    off = everyone - everyone.mean(axis=0)
    distances = np.einsum("ij,jk,ik->i", off, np.linalg.pinv(np.cov(off.T)), off)
    return float(np.mean(distances >= distances[-1] * (1 - 1e-9)))
