"""Makes input schemas: random good ones by seed, and broken ones of every kind."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

KINDS: Final = (
    "text", "textarea", "number", "boolean", "option", "none", "email", "password", "tel", "url",
    "date", "datetime-local", "time", "month", "week", "color", "range", "file", "hidden", "search",
    "checkbox", "radio", "string", "multiselect",
)  # fmt: skip
"""The 22 of MIP-003's attachment 01, and two that are met beside them."""

LIMITS: Final = {
    "date": ("2024-02-29", "2026-12-31"),
    "datetime-local": ("2024-02-29T08:00", "2026-12-31T23:59:59"),
    "time": ("09:00", "17:30"),
    "month": ("2024-02", "2026-12"),
    "week": ("2024-W01", "2026-W53"),
    "number": (-1.5, 120),
    "range": (0, 100),
    "option": (1, 2),
    "multiselect": ("1", "2"),
    "radio": ("1", "1"),
    "file": ("1", 3),
}
"""A good `min` and `max` of a kind; of the others, a length."""
FORMATS: Final = {
    "text": ("nonempty", "url", "email"),
    "string": ("nonempty", "url", "email"),
    "textarea": ("nonempty",),
    "search": ("nonempty",),
    "number": ("integer",),
    "email": ("email", "nonempty"),
    "url": ("url",),
    "tel": ("tel-pattern", "tel_pattern"),
}
DEFAULTS: Final = {
    "textarea": "a text", "number": 7, "range": "5", "boolean": False, "checkbox": True,
    "radio": "b", "color": "#1a73e8", "email": "ada@example.com", "url": "https://example.com",
    "date": "2025-01-31", "time": "10:00", "month": "2025-01", "week": "2025-W01",
}  # fmt: skip
NO_LIMITS: Final = {"boolean", "checkbox", "color", "hidden", "none"}


def schema(random: Random) -> dict[str, Any]:
    """Return a good schema, in one of the ways in which people write it."""
    fields = [field(random, f"f{index}") for index in range(random.randint(1, 5))]
    if random.random() < 0.8:
        return {"input_data": fields}
    return {"input_groups": [{"id": "g", "title": "A group", "input_data": fields}]}


def field(random: Random, identifier: str) -> dict[str, Any]:
    kind = random.choice(KINDS)
    made: dict[str, Any] = {"id": identifier, "type": kind, "name": f"Field {identifier}"}
    data = data_of(random, kind)
    if data or random.random() < 0.5:
        made["data"] = data
    validations = validations_of(random, kind)
    if validations:
        made["validations"] = validations
    elif random.random() < 0.3:
        made["validations"] = random.choice([None, []])
    if random.random() < 0.2:
        made["unknown"] = {"nested": [1]}
    return made


def data_of(random: Random, kind: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in (("description", "What it is"), ("placeholder", "Such as this")):
        if random.random() < 0.4:
            data[key] = random.choice([value, value, None])
    if kind in DEFAULTS and random.random() < 0.4:
        data["default"] = DEFAULTS[kind]
    if kind in {"option", "multiselect", "radio"}:
        data["values"] = ["a", "b", "c"]
    if kind == "hidden":
        data["value"] = "secret"
    if kind == "file" and random.random() < 0.5:
        data["outputFormat"] = "url"
    if kind == "range" and random.random() < 0.5:
        data |= {"min": random.choice([0, "0"]), "max": 100, "step": random.choice([1, "5", 0.5])}
    return data


def validations_of(random: Random, kind: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if random.random() < 0.4:
        made.append({"validation": "optional", **random.choice([{}, {"value": "true"}])})
    if kind not in NO_LIMITS:
        low, high = LIMITS.get(kind, (1, "300"))
        made += [{"validation": "min", "value": low}] * random.randint(0, 1)
        made += [{"validation": "max", "value": high}] * random.randint(0, 1)
    if kind in FORMATS and random.random() < 0.4:
        made.append({"validation": "format", "value": random.choice(FORMATS[kind])})
    if kind == "file" and random.random() < 0.4:
        made.append({"validation": "accept", "value": "image/*,.pdf"})
    random.shuffle(made)
    return made


def fields_of(told: dict[str, Any]) -> list[Any]:
    """Return all fields of a schema, also those in groups."""
    groups = told.get("input_groups", [told])
    return [each for group in groups for each in group["input_data"]]


Break = Callable[[dict[str, Any]], None]


def _set(key: str, value: Any) -> Break:
    return lambda field: field.update({key: value})


def _drop(key: str) -> Break:
    return lambda field: field.pop(key, None) and None


def _set_data(key: str, value: Any) -> Break:
    return lambda field: field.update(data={**(field.get("data") or {}), key: value})


def _add(validation: Any, value: Any) -> Break:
    one = {"validation": validation, "value": value}
    return lambda field: field.update(validations=[*(field.get("validations") or []), one])


BREAKS: Final[tuple[Break, ...]] = (
    _drop("id"), _drop("name"), _drop("type"), _set("id", ""), _set("id", 7), _set("name", ""),
    _set("name", None), _set("type", "texr"), _set("type", "Text"), _set("type", None),
    _set("data", "text"), _set("data", []), _set("validations", {"min": 1}),
    _set("validations", "optional"), _set("validations", [7]), _set("validations", [{}]),
    _set_data("values", []), _set_data("values", "abc"), _set_data("values", ["a", ""]),
    _set_data("values", ["a", 1]), _set_data("values", ["a", "a"]), _set_data("value", ""),
    _set_data("value", 7), _set_data("outputFormat", "base64"), _set_data("description", 7),
    _set_data("default", []), _set_data("default", "no value fits this"), _set_data("step", "0"),
    _set_data("min", "low"), _add("min", "three"), _add("max", "-1"), _add("min", "1000000"),
    _add("max", "2020-02-30"), _add("min", None), _add("mim", "3"), _add(None, "3"),
    _add("optional", "perhaps"), _add("optional", 7), _add("format", "emial"),
    _add("format", "integer"), _add("format", "url"), _add("format", None), _add("accept", ""),
    _add("accept", ".pdf"), _add("max", "0"), _add("min", "1.5"), _add("min", []),
    _set("name", "x" * 10_001), _set("validations", [{"validation": "optional"}] * 21),
    _set_data("values", [str(one) for one in range(1_001)]),
)  # fmt: skip


def broken() -> list[dict[str, Any]]:
    """Return a schema for each kind and each change; the change is wrong for most kinds."""
    made = []
    for kind in KINDS:
        for change in BREAKS:
            one = plain(kind)
            change(one)
            made.append({"input_data": [one]})
        made.append({"input_data": [plain(kind), plain(kind)]})  # two fields of one id
    return made


def plain(kind: str) -> dict[str, Any]:
    """Return a field of a kind with nothing that it does not need."""
    made: dict[str, Any] = {"id": "f", "type": kind, "name": "Field"}
    data = {
        "option": {"values": ["a", "b", "c"]},
        "multiselect": {"values": ["a", "b", "c"]},
        "radio": {"values": ["a", "b", "c"]},
        "hidden": {"value": "secret"},
        "file": {"outputFormat": "url"},
        "range": {"min": 0, "max": 100},
    }
    return made | ({"data": data[kind]} if kind in data else {})
