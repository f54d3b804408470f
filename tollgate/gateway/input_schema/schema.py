"""An agent's input schema, as MIP-003 defines it: read, served, hashed, and checked against."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

from tollgate.gateway.input_schema.fields import Field, suggest
from tollgate.gateway.input_schema.hashes import hashes_of
from tollgate.gateway.input_schema.reader import Path, read_field, read_text
from tollgate.gateway.input_schema.values import is_left_out, wrong_default, wrong_with

FIELDS_MAX: Final = 200
"""Most fields of a schema, and most groups."""
UNKNOWN_MAX: Final = 20
"""Most fields reported that the schema does not have."""
_NEEDS_NO_VALUE: Final = frozenset({"none", "hidden"})


class Problem(NamedTuple):
    """One thing that is wrong in a schema."""

    path: Path
    """Where: keys and positions from the outside in, such as ("input_data", 3, "type")."""
    message: str

    def __str__(self) -> str:
        """Return both on one line."""
        place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in self.path)
        return f"{place.lstrip('.') or 'the schema'}: {self.message}"


class SchemaError(ValueError):
    """A schema is wrong. Carries all its problems, in the order in which they stand."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


@dataclass(frozen=True)
class Group:
    """Fields under a title."""

    id: str
    title: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class InputSchema:
    """The fields that a job, or one round of human input, asks for."""

    fields: tuple[Field, ...]
    """All of them, in order, also those in groups."""
    groups: tuple[Group, ...] | None = None
    """None if the schema has `input_data` of its own."""

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Self:
        """Read a schema, as `json.loads` returns it.

        Keys that are not known are dropped, and a null counts as a key that is not there.

        Args:
            told: has either `input_data`, a list of fields, or `input_groups`, a list of groups.

        Raises:
            SchemaError: it is wrong; its `problems` name every place.
        """
        reader = _Reader()
        schema = reader.read(told)
        if reader.problems or schema is None:
            raise SchemaError(tuple(reader.problems))
        return cls(*schema)

    def served(self) -> dict[str, Any]:
        """Return the schema as `/input_schema` and `/status` show it.

        Only known keys, no nulls, and exactly one of `input_data` and `input_groups`.
        """
        if self.groups is None:
            return {"input_data": [one.served() for one in self.fields]}
        return {
            "input_groups": [
                {
                    "id": group.id,
                    "title": group.title,
                    "input_data": [one.served() for one in group.fields],
                }
                for group in self.groups
            ]
        }

    @cached_property
    def _hashes(self) -> tuple[str, ...]:
        return hashes_of(self.served())

    def hash(self) -> str:
        """Return SHA-256 of the canonical JSON (RFC 8785) of what is served, in hexadecimal."""
        return self._hashes[0]

    def hashes(self) -> frozenset[str]:
        """Return every hash by which a public caller may name this schema; `hash()` is one.

        Callers hash what they read of the schema, and their versions read it differently: see
        `hashes`. An answer is for this schema if its `input_schema_hash` is one of these.
        """
        return frozenset(self._hashes)

    def check(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong with the values of a job's input, field by field.

        Args:
            values: `input_data` as a caller sends it: any JSON object, however large its numbers.

        Returns:
            What is wrong, in plain words, by the id of the field: a value that is missing, or does
            not fit, or belongs to no field. Empty if all is good.
        """
        wrong = {}
        for one in self.fields:
            if one.id in values:
                found = wrong_with(one, values[one.id])
            else:
                needed = one.type not in _NEEDS_NO_VALUE and not is_left_out(one, None)
                found = "is missing" if needed else ""
            if found:
                wrong[one.id] = found
        return wrong | self._unknown(values)

    def _unknown(self, values: Mapping[str, Any]) -> dict[str, str]:
        known = {one.id for one in self.fields}
        unknown: dict[str, str] = {}
        for key in values:
            if len(unknown) == UNKNOWN_MAX:
                break
            if key not in known:
                printable = key[:100].encode("utf-8", "backslashreplace").decode()
                unknown[printable] = f"is no field of this schema{suggest(key, known)}"
        return unknown


class _Reader:
    """Reads one schema and collects its problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._count = 0
        self._ids: set[str] = set()

    def report(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message))

    def read(self, told: object) -> tuple[tuple[Field, ...], tuple[Group, ...] | None] | None:
        if not isinstance(told, Mapping):
            self.report((), "must be an object")
            return None
        found = [key for key in ("input_data", "input_groups") if told.get(key) is not None]
        if len(found) != 1:
            self.report((), "must have exactly one of 'input_data' and 'input_groups'")
            return None
        if found == ["input_data"]:
            return self._fields(told["input_data"], ("input_data",)), None
        groups = self._groups(told["input_groups"], ("input_groups",))
        return tuple(one for group in groups for one in group.fields), groups

    def _groups(self, told: object, at: Path) -> tuple[Group, ...]:
        if not isinstance(told, list | tuple) or not told:
            self.report(at, "must be a list of groups, with at least one")
            return ()
        if len(told) > FIELDS_MAX:
            self.report(at, f"must be at most {FIELDS_MAX} groups, not {len(told)}")
            return ()
        seen: set[str] = set()
        groups = [self._group(one, (*at, index), seen) for index, one in enumerate(told)]
        return tuple(group for group in groups if group is not None)

    def _group(self, told: object, at: Path, seen: set[str]) -> Group | None:
        if not isinstance(told, Mapping):
            self.report(at, "must be an object")
            return None
        identifier, title = (read_text(told, key, at, self.report) for key in ("id", "title"))
        if identifier in seen:
            self.report((*at, "id"), "is the id of an earlier group too")
        fields = self._fields(told.get("input_data"), (*at, "input_data"))
        if told.get("input_data") == []:
            self.report((*at, "input_data"), "must have at least one field")
        if identifier is None or title is None:
            return None
        seen.add(identifier)
        return Group(identifier, title, fields)

    def _fields(self, told: object, at: Path) -> tuple[Field, ...]:
        if not isinstance(told, list | tuple):
            self.report(at, "must be a list of fields")
            return ()
        self._count += len(told)
        if self._count > FIELDS_MAX:
            self.report(at, f"must be at most {FIELDS_MAX} fields in all, not {self._count}")
            return ()
        return tuple(
            one
            for index, each in enumerate(told)
            if (one := self._field(each, (*at, index))) is not None
        )

    def _field(self, told: object, at: Path) -> Field | None:
        identifier = told.get("id") if isinstance(told, Mapping) else None
        if isinstance(identifier, str):
            if identifier in self._ids:
                self.report((*at, "id"), "is the id of an earlier field too")
            self._ids.add(identifier)
        read = read_field(told, at, self.report)
        if read is not None and (wrong := wrong_default(read)):
            self.report((*at, "data", "default"), wrong)
        return read
