"""Claims judged together: numbers at one limit and as they stand, three counts of one run, readings of a direction."""

import re
from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from studies import joint, verdicts
from tests.helpers.claims import (
    DIRECTION,
    NOISE,
    RAMP,
    TOGETHER,
    by_bits,
    judge_many,
    judge_stopping,
    published_rows,
    stopping_runs,
    value,
)


def joint_of(names: list[str], **other) -> dict:
    return {"id": "+".join(names), "kind": "joint", "reported": "joint", "together": names, "first_rule": None} | other


def test_numbers_are_taken_together_at_one_limit(tmp_path):
    many = stopping_runs(0)
    # At Jaccard up to 0.4 (and 0.02 noise) the rule keeps 6 bits: flips near 0.004, Jaccard near 0.35.
    six, five = (many.sel(bits=bits, split="held-out") for bits in (6, 5))
    flips, jaccard = float(six.flip_rate.median()), float(six.boundary_jaccard.median())
    *singles, both = judge_stopping(tmp_path, (flips, jaccard), many)
    assert both["verdict"] == "reproduced" and [row["verdict"] for row in singles] == ["not reproduced"] * 2
    assert [both[key] for key in ("estimate", "low", "high", "first_verdict")] == [None] * 4
    assert both["note"].startswith("at the limit that agrees best; all inside at once at ")
    assert both["note"].endswith(" of 39 limits") and both["together"] == {
        "X1": pytest.approx(flips, rel=0.02), "X2": pytest.approx(jaccard, rel=0.02),
    }  # fmt: skip
    # Each number is right at some limit, but never both at the same one.
    both = judge_stopping(tmp_path, (flips, float(five.boundary_jaccard.median())), many)[-1]
    assert (both["verdict"], both["note"]) == (
        "not reproduced",
        "at the limit that agrees best; all inside at once at 0 of 39 limits",
    )
    # Flips that are as many at all bits tell nothing: what Jaccard tells is enough.
    same = many.copy(deep=True)
    same["flip_rate"] = same.flip_rate * 0 + 0.01 * (1 + 0.001 * np.arange(12)[:, None, None])
    rows = judge_stopping(
        tmp_path, (0.01005, float(many.sel(bits=8, split="held-out").boundary_jaccard.median())), same
    )
    assert [row["verdict"] for row in rows] == ["compatible", "reproduced", "reproduced"]


def test_numbers_as_they_stand_are_all_inside_or_not(tmp_path):
    first, second = value(0.7) | {"id": "A"}, value(0.6) | {"id": "B"}
    for four, b, expected in (
        (9.0, {}, "reproduced"),
        (0.5, {}, "compatible"),
        (9.0, {"reported": 1.5}, "not reproduced"),
    ):
        rows = judge_many(tmp_path, [joint_of(["A", "B"]), first, second | b], by_bits(RAMP, four))
        assert [row["id"] for row in rows] == ["A+B", "A", "B"] and rows[0]["verdict"] == expected
        assert rows[0]["together"] == {"A": 0.5, "B": 0.5} and rows[1]["together"] is None


def test_directions_together_are_as_the_worst_of_them(tmp_path):
    many = xr.Dataset({name: ("seed", NOISE + x) for name, x in (("up", 2), ("same", 0), ("down", -2))})
    of = {n: DIRECTION | {"id": n, "first": {"measure": n}, "than": 0.0, "first_rule": None} for n in many.data_vars}
    for one in of.values():
        one.pop("second")
    for names, expected in ((["up", "same"], "no difference seen"), (["up", "same", "down"], "opposite"), (["up", "up"], "reproduced")):  # fmt: skip
        stated = [joint_of(names, id="all"), *(of[name] for name in dict.fromkeys(names))]
        assert judge_many(tmp_path, stated, many)[0]["verdict"] == expected


def of_triples(folder, counts: np.ndarray, reported: list[float]) -> dict:
    """Judge three counts in transitions of one run."""
    places = [f"{8 - i}→{7 - i}" for i in range(counts.shape[1])]
    many = xr.Dataset({"m": (("seed", "transition"), counts)}, {"transition": places})
    singles = [
        value(x, select={"measure": "m"}, span="transition", at_any="transition") | {"id": name}
        for name, x in zip("ABC", reported)
    ]
    return judge_many(folder, [*singles, joint_of(["A", "B", "C"], over="triples")], many)[-1]


def test_three_counts_are_of_one_run_in_order(tmp_path):
    generator = np.random.default_rng(0)
    size = generator.normal(0, 1, 100)  # of a network: large ones have more of all
    counts = np.array([10, 20, 30, 60.0]) + 5 * size[:, None] + generator.normal(0, 0.5, (100, 4))
    row = of_triples(tmp_path, counts, [15, 25, 35])
    assert row["verdict"] == "reproduced" and row["held"] == {} and len(row["excluded"]) == 3
    assert re.fullmatch(r"in 8→7, 7→6, 6→5, with p = [\d.]+; 1 of 4 ordered triples agree", row["note"])
    assert row["together"] == dict(zip("ABC", (pytest.approx(mean) for mean in counts[:, :3].mean(axis=0))))
    # Each count is one of many runs, but no run is large in one transition and small in the next; nor is the order free.
    for wrong in ([15, 15, 35], [25, 15, 35]):
        row = of_triples(tmp_path, counts, wrong)
        assert row["verdict"] == "not reproduced" and row["note"].endswith("; 0 of 4 ordered triples agree")
    # Where the second and third transition give the same, no triple tells them apart.
    counts[:, 2] = counts[:, 1] + generator.normal(0, 0.5, 100)
    row = of_triples(tmp_path, counts, [15, 25, 65])
    assert row["verdict"] == "compatible" and len(row["held"]) == 1
    with pytest.raises(
        ValueError, match=r"claim A\+B\+C cannot be judged from x\.nc: there are 2 transitions, and three in"
    ):
        of_triples(tmp_path, counts[:, :2], [15, 25, 65])


def test_three_transitions_have_one_triple_which_nothing_can_rival(tmp_path):
    counts = np.array([10, 20, 30.0]) + np.random.default_rng(0).normal(0, 1, (50, 3))
    row = of_triples(tmp_path, counts, [10, 20, 30])
    assert row["verdict"] == "reproduced" and row["note"].endswith("; 1 of 1 ordered triples agree")


@given(st.integers(0, 2**32 - 1), st.integers(8, 30))
def test_the_strangeness_of_a_run_is_its_rank(seed, count):
    """Of runs that are alike, each is as strange as the others: the fractions, each run left out in turn, are the ranks."""
    runs = np.random.default_rng(seed).normal(size=(count, 3)) @ [[1, 0.5, 0], [0, 1, 2], [0, 0, 1]]
    found = sorted(joint.rank_p(np.delete(runs, i, axis=0), runs[i]) for i in range(count))
    np.testing.assert_allclose(found, np.arange(1, count + 1) / count)
    far = runs.mean(axis=0) + 1e6
    assert joint.rank_p(runs, far) == pytest.approx(1 / (count + 1))
    scale = [1.0, 10.0, 0.1]  # counts of any unit
    assert joint.rank_p(runs * scale, runs[0] * scale) == joint.rank_p(runs, runs[0])


@pytest.mark.slow
def test_the_published_claims_taken_together_follow_from_their_parts():
    rows = {row["id"]: row for row in published_rows()}
    for name, parts in TOGETHER.items():
        of_parts = [rows[part] for part in parts]
        assert list(rows[name]["together"]) == parts and rows[name]["kind"] == "joint"
        if name in ("C1+C2+C3", "R1+R2", "R3+R4"):
            inside = all(part["verdict"] != "not reproduced" for part in of_parts)
            assert (rows[name]["verdict"] != "not reproduced") == inside
            names = {neighbour for part in of_parts for neighbour in part["held"] | part["excluded"]}
            assert set(rows[name]["excluded"]) == {n for part in of_parts for n in part["excluded"]}
            assert set(rows[name]["held"]) | set(rows[name]["excluded"]) == names
    assert len(list(combinations(range(6), 3))) == len(rows["J2+J3+J4"]["held"] | rows["J2+J3+J4"]["excluded"]) + 1
    worst = min((rows[part]["verdict"] for part in rows["R6"]["together"]), key=verdicts.DIRECTIONS.index)
    assert rows["R6"]["verdict"] == worst
