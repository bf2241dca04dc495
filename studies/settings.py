"""``name=value`` settings: fields that say what they mean, and their values read, checked and written."""

import difflib
import json
import math
from dataclasses import field

from bqcore._checks import check_integer


def setting(default, says: str):
    """Return a field of a dataclass with its default and what it means, for lists of settings."""
    return field(default=default, metadata={"says": says})


def integers(name: str, values, low: int, high: int | None = None, *, distinct: bool = True) -> tuple[int, ...]:
    """Return *values* as a tuple of integers from *low* to *high*; refuse other values, none, and repeated ones."""
    _check_list(name, values, "integers, such as [8, 4]")
    out = tuple(check_integer(name, value, low, high) for value in values)
    _check_distinct(name, values if distinct else ())
    return out


def numbers(name: str, values) -> tuple[float, ...]:
    """Return *values* as a tuple of finite numbers of at least 0; refuse other values, none, and repeated ones."""
    _check_list(name, values, "numbers, such as [0, 0.1]")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}: give numbers of at least 0.")
    _check_distinct(name, values)
    return tuple(float(value) for value in values)


def _check_list(name: str, values, of: str) -> None:
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name} is {values!r}: give a list of {of}.")


def _check_distinct(name: str, values) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{name} is {list(values)}: give each value once.")


def text(value) -> str:
    """Write a value as it is written in ``name=value``."""
    return json.dumps(value, separators=(",", ":")) if not isinstance(value, str) else value


def read(given: list[str], known: dict) -> dict:
    """
    Read ``name=value`` settings of *known* names, each with a default of the type that its value must have.

    >>> read(["bits=[8,5]"], {"bits": (8, 7), "scheme": "narrow"})
    {'bits': [8, 5]}
    """
    out = {}
    for one in given:
        name, equals, written = one.partition("=")
        if not equals:
            raise ValueError(f"{one!r} is no setting: write name=value, such as seed=3.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"There is no parameter {name!r}: "
                + (f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}.")
            )
        if name in out:
            raise ValueError(f"{name} is given twice: give it once.")
        try:
            value = json.loads(written)
        except json.JSONDecodeError:
            value = written
        kind = list if isinstance(known[name], tuple) else type(known[name])
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            raise ValueError(
                f"{name} is {written!r}: give a value of type {kind.__name__}, such as {text(known[name])}."
            )
        out[name] = value
    return out
