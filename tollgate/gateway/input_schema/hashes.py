"""The hashes by which callers name an input schema when they answer it.

MIP-003 fences an answer by the id of the status. The newest public callers send `input_schema_hash`
instead: SHA-256 of the canonical JSON of the schema *as they read it*. In the package masumi of
sokosumi, which is where this is done, that reading

- drops keys that it does not know; earlier versions do not know `default` but where listed below,
- turns a `min` or `max` that is a whole number of 0 or more into a number, and so the `step` and
  `default` of a range,
- and hashes the whole object in its newest version, the list in it in the versions before.

So one schema has several hashes. Each stands for this schema alone, so any of them will do.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import rfc8785

from tollgate.gateway.input_schema.fields import number_of

_LABELS = frozenset({"placeholder", "description"})
_CHOICES = frozenset({"values", "placeholder", "description"})
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset({"description"}),
    "color": frozenset({"default", "description"}),
    "range": frozenset({"description", "step", "default"}),
    "file": frozenset({"description", "outputFormat"}),
    "hidden": frozenset({"value", "description"}),
    "checkbox": frozenset({"label", "description", "default"}),
    "radio": _CHOICES - {"placeholder"},
    "option": _CHOICES,
    "multiselect": _CHOICES,
}
"""Keys of `data` that the earlier versions keep; of the kinds that are not here, `_LABELS`."""


def hashes_of(served: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the hashes of a served schema: first its own, then those of other readings.

    Args:
        served: what `InputSchema.served` returns.
    """
    readings = [served, _as_read(served, defaults=True), _as_read(served, defaults=False)]
    whole = [_hash(each) for each in readings]
    inner = [_hash(next(iter(each.values()))) for each in readings]
    return tuple(dict.fromkeys(whole + inner))


def _hash(document: object) -> str:
    return hashlib.sha256(rfc8785.dumps(cast("Any", document))).hexdigest()


def _as_read(served: Mapping[str, Any], *, defaults: bool) -> dict[str, Any]:
    if "input_data" in served:
        return {"input_data": list(_fields_as_read(served["input_data"], defaults))}
    return {
        "input_groups": [
            {**group, "input_data": list(_fields_as_read(group["input_data"], defaults))}
            for group in served["input_groups"]
        ]
    }


def _fields_as_read(fields: list[dict[str, Any]], defaults: bool) -> Iterator[dict[str, Any]]:  # noqa: FBT001
    for field in fields:
        read = dict(field)
        if "data" in field:
            known = _KNOWN.get(field["type"], _LABELS) | ({"default"} if defaults else set())
            read["data"] = {
                key: number_of(value)
                if field["type"] == "range" and key in {"step", "default"}
                else value
                for key, value in field["data"].items()
                if key in known
            }
        if "validations" in field:
            read["validations"] = [
                {**each, "value": _coerced(each["value"])}
                if each["validation"] in {"min", "max"}
                else each
                for each in field["validations"]
            ]
        yield read


def _coerced(value: str) -> str | int:
    number = number_of(value)
    return number if isinstance(number, int) and number >= 0 else value
