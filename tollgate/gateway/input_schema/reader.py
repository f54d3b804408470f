"""Reading one field of an input schema: every problem is reported, with its place."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from tollgate.gateway.input_schema.fields import (
    KINDS,
    TEXT_MAX,
    VALUES_MAX,
    Field,
    Number,
    Validation,
    display,
    exact,
    is_text,
    number_of,
    suggest,
)
from tollgate.gateway.input_schema.formats import MOMENTS, moment_order

Path: TypeAlias = tuple[str | int, ...]
Report: TypeAlias = Callable[[Path, str], None]
"""Takes the place of a problem, and what is wrong there."""

VALIDATIONS_MAX: Final = 20
"""Most validations of a field."""
_SERVES_NO_VALIDATIONS = frozenset({"hidden", "none"})
_VALIDATIONS = ("min", "max", "format", "accept", "optional")


def read_text(told: Mapping[str, Any], key: str, at: Path, report: Report) -> str | None:
    """Return a text that must be there and not be empty; report what is wrong, and return None."""
    value = told.get(key)
    if value is None:
        report((*at, key), "is missing")
    elif not is_text(value):
        report((*at, key), "must be a text")
    elif not value:
        report((*at, key), "must not be empty")
    elif len(value) > TEXT_MAX:
        report((*at, key), f"must have at most {TEXT_MAX} characters")
    else:
        return str(value)
    return None


def read_field(told: object, at: Path, report: Report) -> Field | None:
    """Return the field that is told, or None.

    Args:
        told: what stands in the schema.
        at: where it stands.
        report: takes each problem.
    """
    if not isinstance(told, Mapping):
        report(at, "must be an object")
        return None
    identifier, name = (read_text(told, key, at, report) for key in ("id", "name"))
    kind_name = read_text(told, "type", at, report)
    if kind_name is None:
        return None
    if kind_name not in KINDS:
        hint = suggest(kind_name, KINDS)
        report((*at, "type"), f"{display(kind_name)} is no kind of field{hint}")
        return None
    data = _read_data(told.get("data"), kind_name, (*at, "data"), report)
    read = _read_validations(told.get("validations"), kind_name, (*at, "validations"), report)
    if identifier is None or name is None or data is None or read is None:
        return None
    made = _field(identifier, kind_name, name, data, read)
    if wrong := _impossible(made):
        report((*at, "validations"), wrong)
        return None
    return made


def _field(
    identifier: str, kind_name: str, name: str, data: dict[str, Any], read: list[tuple[str, Any]]
) -> Field:
    kind = KINDS[kind_name]
    optional = ("optional", "true") in read
    lows = [value for key, value in read if key == "min"]
    highs = [value for key, value in read if key == "max"]
    if kind_name == "range":
        lows += [number_of(data["min"])] if "min" in data else []
        highs += [number_of(data["max"])] if "max" in data else []
    served = [
        Validation(key, _numeral(value))
        for key, value in read
        if kind_name not in _SERVES_NO_VALIDATIONS
        and not (key == "optional" and value == "false")
        and not (key == "format" and value in kind.formats_not_served)
    ]
    return Field(
        id=identifier,
        type=kind_name,
        name=name,
        data=data,
        validations=tuple(served),
        is_optional=optional,
        least=max(lows, default=None),
        most=min(highs, default=None),
        formats=frozenset(value for key, value in read if key == "format"),
    )


def _numeral(value: Number | str) -> str:
    return value if isinstance(value, str) else repr(value)


def _read_data(told: object, kind_name: str, at: Path, report: Report) -> dict[str, Any] | None:
    if told is None:
        told = {}
    if not isinstance(told, Mapping):
        report(at, "must be an object")
        return None
    kept: dict[str, Any] = {}
    is_good = True
    for key in KINDS[kind_name].data:
        value = told.get(key)
        if key == "outputFormat" and value is None:
            value = "url"  # there is no other, and public callers need it told
        if key not in {"values", "value"} and value in (None, ""):
            continue
        kept[key] = list(value) if isinstance(value, tuple) else value
        if wrong := _DATA_CHECKS.get(key, _wrong_label)(value):
            is_good = False
            report((*at, key), wrong)
    return kept if is_good else None


def _wrong_values(told: object) -> str:
    if not isinstance(told, list | tuple) or not told:
        return "must be a list of texts, with at least one"
    if len(told) > VALUES_MAX:
        return f"must be at most {VALUES_MAX} values, not {len(told)}"
    if not all(is_text(one) and 0 < len(one) <= TEXT_MAX for one in told):
        return f"must be texts of 1 to {TEXT_MAX} characters"
    seen: set[str] = set()
    for one in told:
        if one in seen:
            return f"has {display(one)} twice"
        seen.add(one)
    return ""


def _wrong_value(told: object) -> str:
    good = isinstance(told, str) and is_text(told) and 0 < len(told) <= TEXT_MAX
    return "" if good else f"must be a text of 1 to {TEXT_MAX} characters"


def _wrong_label(told: object) -> str:
    good = isinstance(told, str) and is_text(told) and len(told) <= TEXT_MAX
    return "" if good else f"must be a text of at most {TEXT_MAX} characters"


def _wrong_step(told: object) -> str:
    number = number_of(told)
    return "must be a number above 0" if number is None or number <= 0 else ""


_DATA_CHECKS: Final[Mapping[str, Callable[[object], str]]] = {
    "values": _wrong_values,
    "value": _wrong_value,
    "outputFormat": lambda told: "" if told == "url" else "must be 'url': MIP-003 knows no other",
    "min": lambda told: "must be a number" if number_of(told) is None else "",
    "max": lambda told: "must be a number" if number_of(told) is None else "",
    "step": _wrong_step,
    "default": lambda _: "",  # judged when the rest of the field is known
}


def _read_validations(
    told: object, kind_name: str, at: Path, report: Report
) -> list[tuple[str, Any]] | None:
    """Return kind and value of each validation, None if one is wrong."""
    if told is None:
        return []
    if not isinstance(told, list | tuple):
        report(at, "must be a list of objects with 'validation' and 'value'")
        return None
    if len(told) > VALIDATIONS_MAX:
        report(at, f"must be at most {VALIDATIONS_MAX}, not {len(told)}")
        return None
    read = [
        _read_validation(one, kind_name, (*at, index), report) for index, one in enumerate(told)
    ]
    good = [one for one in read if one is not None]
    return good if len(good) == len(read) else None


def _read_validation(
    told: object, kind_name: str, at: Path, report: Report
) -> tuple[str, Any] | None:
    if not isinstance(told, Mapping):
        report(at, "must be an object with 'validation' and 'value'")
        return None
    name, value = read_text(told, "validation", at, report), told.get("value")
    if name is None:
        return None
    if name not in KINDS[kind_name].validations:
        if name in _VALIDATIONS:
            message = f"'{name}' does not fit a field of kind '{kind_name}'"
        else:
            message = f"{display(name)} is no validation{suggest(name, _VALIDATIONS)}"
        report((*at, "validation"), message)
        return None
    reader = {"optional": _optional, "format": _format, "accept": _accept}.get(name, _limit)
    read = reader(value, kind_name)
    if isinstance(read, _Wrong):
        report((*at, "value"), read)
        return None
    return name, read


class _Wrong(str):
    """What is wrong with a value."""

    __slots__ = ()


def _optional(told: object, kind_name: str) -> str | _Wrong:  # noqa: ARG001 - one of four readers
    word = told.lower() if isinstance(told, str) else told
    if word is None or word is True or word == "true":
        return "true"
    if word is False or word == "false":
        return "false"
    return _Wrong("must be 'true' or 'false', or be left out")


def _format(told: object, kind_name: str) -> str | _Wrong:
    kind = KINDS[kind_name]
    fitting = (*kind.formats, *kind.formats_not_served)
    if isinstance(told, str) and told in fitting:
        return told
    known = {name for each in KINDS.values() for name in (*each.formats, *each.formats_not_served)}
    if isinstance(told, str) and told in known:
        return _Wrong(f"'{told}' does not fit a field of kind '{kind_name}'")
    return _Wrong(f"{display(told)} is no format{suggest(told, fitting)}")


def _accept(told: object, kind_name: str) -> str | _Wrong:  # noqa: ARG001 - one of four readers
    if isinstance(told, str) and is_text(told) and 0 < len(told) <= TEXT_MAX:
        return told
    return _Wrong("must be a text such as 'image/*,.pdf'")


def _limit(told: object, kind_name: str) -> Number | str | _Wrong:
    kind = KINDS[kind_name]
    if kind.family == "moment":
        form = MOMENTS[kind_name]
        if isinstance(told, str) and form.fits(told):
            return told
        return _Wrong(f"{display(told)} is not {form.title} such as '{form.example}'")
    number = number_of(told)
    if number is None:
        return _Wrong(f"{display(told)} is no number")
    if kind.family != "number" and (isinstance(number, float) or number < 0):
        return _Wrong(f"{display(told)} is no whole number of 0 or more")
    return number


# --- what no value could satisfy ------------------------------------------------------------------


def _impossible(one: Field) -> str:
    """Return why no value could satisfy the field's validations, or nothing."""
    family = one.kind.family
    if family == "moment" and one.least and one.most:
        if moment_order(str(one.least)) > moment_order(str(one.most)):
            return f"no value fits: min {one.least} is after max {one.most}"
    elif family == "number":
        low = None if one.least is None else exact(one.least)
        high = None if one.most is None else exact(one.most)
        if low is not None and high is not None and one.next_fitting(low) > high:
            return f"no value fits between min {one.least} and max {one.most}"
    elif family in {"text", "choice", "file"}:
        if {"email", "url"} <= {*one.formats, one.type}:
            return "no value fits: nothing is an email address and a url"
        if one.longest is not None and one.shortest > one.longest:
            return f"no value fits: it has at least {one.shortest}, and at most {one.longest}"
    return ""
