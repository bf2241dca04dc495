"""How functions grow: the exponent of a made-up clock is found, and each case is given what it says that it counts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqcore import _store
from studies import __main__, growth, times


@given(st.floats(0.1, 3), st.floats(1e-6, 1), st.lists(st.integers(1, 100), min_size=4, max_size=4, unique=True))
def test_the_exponent_of_calls_that_take_a_power_of_their_size_is_found(power, scale, sizes):
    now = [0.0]  # its rounding stays far below the shortest call, since sizes differ by 100 at most

    def make(size):
        calls = []

        def call():
            calls.append(size)
            now[0] += scale * (2 * size) ** power * (1 if len(calls) == 3 else 1.5)  # one round of five is undisturbed

        return 2 * size, call

    case = growth.Case("parts", tuple(sizes), make)
    found = growth.measure({"ours": case, "theirs": case}, rounds=4, clock=lambda: now[0])
    assert found.function.values.tolist() == ["ours", "theirs"] and found.counts.values.tolist() == ["parts"] * 2
    assert found.given.values.tolist() == [[2 * size for size in sizes]] * 2
    np.testing.assert_allclose(found.seconds, scale * found.given.astype(float) ** power, rtol=1e-6)
    np.testing.assert_allclose(found.exponent, power, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", growth.CASES)
def test_each_function_runs_at_its_smallest_size_and_is_given_more_at_the_next(name):
    case = growth.CASES[name]
    (first, call), (second, _) = (case.make(size) for size in case.sizes[:2])
    assert len(case.sizes) == 4 and 1.2 * first < second and call() is not None


def test_the_command_keeps_and_prints_what_it_found(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = growth.Case("parts", (2, 4, 8, 1000), lambda size: (size, lambda: sum(range(100 * size))))
    monkeypatch.setattr(growth, "CASES", {"add": case})
    assert __main__.main(["growth"]) == 0
    found = _store.load_dataset(times.GROWTH)
    assert found.command == "python -m studies growth" and json.loads(found.spec)["study"] == "growth"
    assert all({"long_name", "units"} <= found[name].attrs.keys() for name in found.data_vars)
    said = capsys.readouterr().out
    assert said == f"{times.growth_table(found)}\n{found.machine}\n"
    row = said.splitlines()[2].split("|")[1:-1]
    assert [cell.strip() for cell in row[:4]] == ["add", "parts", "2", "1,000"]
    assert row[-1].strip() == f"{found.exponent.item():.2f}"
