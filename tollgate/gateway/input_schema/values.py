"""Checking the value of one field: what a caller sends for it.

Public callers do not send the same. For a choice, sokosumi's form sends the list of the positions
that were chosen, from 0, also for a `radio`; the npm package masumi-schema-validator-component
sends the position alone for a `radio`; MIP-003's own example sends the value. All of these are
taken: values are texts and positions are numbers, so none is mistaken for another.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

from tollgate.gateway.input_schema.fields import (
    NUMBER_MAX,
    VALUES_MAX,
    Family,
    Field,
    display,
    exact,
    is_text,
    number_of,
)
from tollgate.gateway.input_schema.formats import MOMENTS, URL, moment_order


def is_left_out(one: Field, value: object) -> bool:
    """Tell whether a value means that the field was not filled in, and that it need not be."""
    if one.kind.family == "none":
        return value is None or value == ""
    if one.kind.family == "hidden" and value is None:
        return True
    # Public forms send an empty list where nothing was chosen.
    empty = value is None or value == "" or (value == [] and one.kind.family in {"choice", "file"})
    return one.is_optional and empty


def wrong_with(one: Field, value: object) -> str:
    """Return what is wrong with the value of a field, in plain words, or "" if it is good.

    Args:
        one: the field.
        value: any JSON value. NaN and infinite numbers are wrong, and raise nothing.
    """
    if is_left_out(one, value):
        return ""
    if value is None:
        return "is missing"
    return "; ".join(_CHECKS[one.kind.family](one, value))


def wrong_default(one: Field) -> str:
    """Return what is wrong with the `default` of a field, or "" if it is good or there is none."""
    default = one.data.get("default")
    if default is None:
        return ""
    if one.kind.family == "number":
        number = number_of(default)  # forms write it as a text too
        return "must be a number" if number is None else wrong_with(one, number)
    if one.kind.family == "choice" and default not in one.values:
        return f"{display(default)} is none of the values"
    return wrong_with(one, default)


def _text(one: Field, value: object) -> list[str]:
    if not isinstance(value, str):
        return [f"must be a text, not {_kind_of(value)}"]
    if not is_text(value):
        return ["must be valid Unicode"]
    wrong = [
        f"must be {form.title} such as {form.example}" for form in one.forms if not form.fits(value)
    ]
    length = len(value)
    if not length and one.fewest:
        return ["must not be empty"]
    if length < one.fewest:
        wrong.append(f"must be at least {one.fewest} characters, not {length}")
    if isinstance(one.most, int) and length > one.most:
        wrong.append(f"must be at most {one.most} characters, not {length}")
    return wrong


def _number(one: Field, value: object) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [f"must be a number, not {_kind_of(value)}"]
    if isinstance(value, float) and not math.isfinite(value):
        return ["must be a finite number"]
    if abs(value) > NUMBER_MAX:
        return [f"must lie between -{NUMBER_MAX} and {NUMBER_MAX}"]
    wrong = []
    if "integer" in one.formats and value != int(value):
        wrong.append(f"must be a whole number, not {value!r}")
    if isinstance(one.least, int | float) and value < one.least:
        wrong.append(f"must be at least {one.least!r}, not {value!r}")
    if isinstance(one.most, int | float) and value > one.most:
        wrong.append(f"must be at most {one.most!r}, not {value!r}")
    if one.step is not None and ((exact(value) - one.step_base) / one.step).denominator != 1:
        wrong.append(f"must be a step of {_plain(one.step)} from {_plain(one.step_base)} on")
    return wrong


def _flag(one: Field, value: object) -> list[str]:  # noqa: ARG001 - one of the checks
    return [] if isinstance(value, bool) else [f"must be true or false, not {_kind_of(value)}"]


def _moment(one: Field, value: object) -> list[str]:
    form = MOMENTS[one.type]
    if not isinstance(value, str) or not form.fits(value):
        return [f"must be {form.title} such as {form.example}"]
    wrong = []
    if isinstance(one.least, str) and moment_order(value) < moment_order(one.least):
        wrong.append(f"must not be before {one.least}")
    if isinstance(one.most, str) and moment_order(value) > moment_order(one.most):
        wrong.append(f"must not be after {one.most}")
    return wrong


def _choice(one: Field, value: object) -> list[str]:
    chosen = value if isinstance(value, list | tuple) else [value]
    if len(chosen) > VALUES_MAX:
        return [f"must be at most {VALUES_MAX} values"]
    positions = [_position(one, each) for each in chosen]
    for position, each in zip(positions, chosen, strict=True):
        if position is None:
            return [f"{display(each)} is none of the values, and no position of one"]
    wrong = []
    if len(set(positions)) < len(positions):
        wrong.append("must not have a value twice")
    return wrong + _amount(one, len(chosen), "value", "chosen")


def _position(one: Field, chosen: object) -> int | None:
    """Return the position of a value that is told by itself, or by its position."""
    if isinstance(chosen, str):
        return one.values.index(chosen) if chosen in one.values else None
    if isinstance(chosen, bool) or not isinstance(chosen, int | float):
        return None
    # JSON has one kind of number: 1.0 is 1. NaN and infinite ones are in no range.
    return int(chosen) if chosen in range(len(one.values)) else None


def _file(one: Field, value: object) -> list[str]:
    files = value if isinstance(value, list | tuple) else [value]
    if len(files) > VALUES_MAX:
        return [f"must be at most {VALUES_MAX} files"]
    if not all(isinstance(each, str) and is_text(each) and URL.fits(each) for each in files):
        return [f"must be {URL.title} such as {URL.example}, or a list of them"]
    return _amount(one, len(files), "file", "given")


def _amount(one: Field, amount: int, noun: str, verb: str) -> list[str]:
    low, high = one.shortest, one.longest
    if amount < low:
        return [f"at least {low} {noun}{'s' * (low != 1)} must be {verb}, not {amount}"]
    if high is not None and amount > high:
        return [f"at most {high} {noun}{'s' * (high != 1)} may be {verb}, not {amount}"]
    return []


def _hidden(one: Field, value: object) -> list[str]:
    expected = one.data["value"]
    same = isinstance(value, str) and value == expected
    return [] if same else [f"must be {display(expected)}, or be left out"]


def _none(one: Field, value: object) -> list[str]:  # noqa: ARG001 - one of the checks
    return ["takes no value: it only shows a text"]


_CHECKS: Final[dict[Family, Callable[[Field, Any], list[str]]]] = {
    "text": _text,
    "number": _number,
    "flag": _flag,
    "moment": _moment,
    "choice": _choice,
    "file": _file,
    "hidden": _hidden,
    "none": _none,
}


def _kind_of(value: object) -> str:
    match value:
        case str():
            return "a text"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case _:
            return display(value)


def _plain(number: Fraction) -> str:
    return repr(number.numerator if number.denominator == 1 else float(number))
