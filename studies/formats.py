"""How numbers read: one format for each kind of quantity, in tables, sentences and the ledger alike."""

import math
from typing import NamedTuple

from .specs import FLOAT

NONE = "none"
# Data sets as the ledger names them.
DATASETS = {
    "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10 subset", "full-cifar-10": "full CIFAR-10"
}  # fmt: skip


class Ends(NamedTuple):
    """An estimate between two ends, as :class:`bqcore.metrics.statistics.Interval` is one."""

    estimate: float
    low: float
    high: float


def number(value, form: str = ".4f", sign: str = "") -> str:
    """
    Write a number in a form of :func:`format`, zero without a minus; what is not a number is "none".

    >>> number(-0.00001), number(0.125, ".0%"), number(float("nan"))
    ('0.0000', '12%', 'none')
    """
    value = float(value)
    return format(value, f"{sign}z{form}") if value == value else NONE


def short(value, form: str = "") -> str:
    """
    Write a number with three significant figures and four decimals at most, whatever the *form*; whole ones as such.

    >>> short(0.96889), short(0.00222), short(27.02), short(412.0), short(0)
    ('0.969', '0.0022', '27.0', '412', '0')
    """
    size = abs(float(value))
    if size != size or size.is_integer():
        return number(value, ".0f")
    return number(value, f".{min(4, max(0, 2 - math.floor(math.log10(size) + 1e-9)))}f")


def signed(value, form: str = ".4f") -> str:
    """
    Write a difference with its sign, and zero without one.

    >>> signed(0.25, ".2f"), signed(-0.001, ".2f")
    ('+0.25', '0.00')
    """
    text = number(value, form, "+")
    return text if any(digit in text for digit in "123456789") else text.removeprefix("+")


def percent(value, digits: int = 0) -> str:
    """
    Write a fraction in percent.

    >>> percent(0.98765), percent(0.98765, 1)
    ('99%', '98.8%')
    """
    return number(value, f".{digits}%")


def ends(found, form: str = ".4f", write=number) -> str:
    """
    Write the two ends of an interval.

    >>> ends(Ends(0.1, 0.05, 0.2), ".2f")
    '[0.05, 0.20]'
    """
    return f"[{write(found.low, form)}, {write(found.high, form)}]"


def interval(found, form: str = ".4f", write=number) -> str:
    """
    Write an estimate with its interval; *write* is :func:`number`, or :func:`signed` for a difference.

    >>> interval(Ends(0.1, -0.05, 0.2), ".2f", signed)
    '+0.10 [-0.05, +0.20]'
    """
    return f"{write(found.estimate, form)} {ends(found, form, write)}"


def span(low, high, form: str = ".4f", write=number) -> str:
    """
    Write a range of values.

    >>> span(0.5, 2, ".1f")
    '0.5 to 2.0'
    """
    return f"{write(low, form)} to {write(high, form)}"


def brief(value, form: str = ".4f") -> str:
    """
    Write a value as the ledger does: decimals without zeros at the end; words stay, and nothing is "".

    >>> brief(0.1230), brief(-0.00001), brief(7), brief(None), brief("fewer")
    ('0.123', '0', '7', '', 'fewer')
    """
    if isinstance(value, float):
        return number(value, form).rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def level(bits) -> str:
    """
    Name a bit-width; 32 is the float classifier.

    >>> level(8), level(32)
    ('8 bits', 'float')
    """
    return "float" if bits == FLOAT else f"{int(bits)} bits"


def listed(names: list[str]) -> str:
    """
    Write names as a list in a sentence; of none, "none".

    >>> listed(["J", "flips", "d_eff"]), listed([])
    ('J, flips and d_eff', 'none')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or NONE
