"""Reads an agent from `agent.toml` or from Python, and says where each error is."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tollgate import user_code
from tollgate.domain.exceptions import TollgateError
from tollgate.gateway.agent import Agent
from tollgate.gateway.input_schema.fields import KINDS, suggest
from tollgate.gateway.input_schema.schema import InputSchema, SchemaError

SCHEMA_FILE: Final = "input_schema"
"""The key that names a JSON file with the input schema, in place of the schema itself."""
SCHEMA_KEYS: Final = ("input_data", "input_groups")
FIELD_KEYS: Final = ("id", "type", "name", "data", "validations")
VALIDATION_KEYS: Final = ("validation", "value")
GROUP_KEYS: Final = ("id", "title", "input_data")
FILE_BYTES: Final = 1_000_000

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


class AgentFileError(TollgateError):
    """The agent cannot be used. `problems` has a line for each error."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the lines; each begins with the file, and the number of the line in it."""
        super().__init__("\n".join(problems))
        self.problems = [*problems]


def load(source: str) -> Agent:
    """Return the agent of a TOML file, or the one that `module:name` names.

    Raises:
        AgentFileError: the file or the module cannot be read, or something in it is wrong.

    """
    path = Path(source)
    if ":" in source and path.suffix != ".toml" and not path.exists():
        return _of_module(source)
    return _of_file(path)


def located(source: str, place: Place, why: str) -> str:
    """Return the line about an error in an agent that was loaded."""
    path = Path(source)
    line = f":{line_of(_read(path), place)}" if path.exists() else ""
    return f"{source}{line}: {_named(place)}{why}"


def _of_module(source: str) -> Agent:
    try:
        agent = user_code.load(source)
    except user_code.NotLoadedError as fault:
        raise AgentFileError([str(fault)]) from None
    if not isinstance(agent, Agent):
        kind = type(agent).__qualname__
        raise AgentFileError([f"{source} is a {kind}, not a tollgate.gateway.Agent"])
    return agent


def _of_file(path: Path) -> Agent:
    text = _read(path)
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise AgentFileError(
            [f"{path}:{_line_in(str(fault), text)}: this is no TOML: {fault}"]
        ) from None
    except RecursionError:
        raise AgentFileError([f"{path}: it is nested too deeply"]) from None
    source = path.parent / str(told[SCHEMA_FILE]) if SCHEMA_FILE in told else None
    if source is not None:
        if given := [key for key in SCHEMA_KEYS if key in told]:
            line = line_of(text, (given[0],))
            raise AgentFileError(
                [f"{path}:{line}: {given[0]}: {SCHEMA_FILE} names a file with the schema already"]
            )
        del told[SCHEMA_FILE]
        told |= _schema_in(source)
    _find_token(told, path.parent)
    found: list[str] = []
    for place, why in [*(_unknown_keys(told) if source is None else ()), *_problems(told)]:
        if source and place and place[0] in SCHEMA_KEYS:
            found.append(f"{source}: {_named(place)}{why}")
        else:
            found.append(f"{path}:{line_of(text, place)}: {_named(place)}{why}")
    if found:
        raise AgentFileError(list(dict.fromkeys(found)))
    return Agent.model_validate(told)


def _unknown_keys(told: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield the keys of fields and groups that would be passed over.

    In TOML a setting that stands below `[[input_data]]` belongs to that field.
    """
    for name, known in (("input_data", FIELD_KEYS), ("input_groups", GROUP_KEYS)):
        entries = told.get(name)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not isinstance(entry, dict):
                continue
            for key in [key for key in entry if key not in known]:
                if key in Agent.model_fields or key == SCHEMA_FILE:
                    why = f"it is a setting of the agent: put it above the first [[{name}]]"
                else:
                    why = f"there is no such key{suggest(key, known)}"
                yield (name, index, key), why
            for path, inner, known_inner in _inner_parts(entry):
                for key in [key for key in inner if key not in known_inner]:
                    why = f"there is no such key{suggest(key, known_inner)}"
                    yield (name, index, *path, key), why
            if name == "input_groups":
                for place, why in _unknown_keys({"input_data": entry.get("input_data")}):
                    yield (name, index, *place), why


def _inner_parts(
    entry: Mapping[str, Any],
) -> Iterator[tuple[Place, Mapping[str, Any], Sequence[str]]]:
    """Yield the objects in a field: where each is, the object, and the keys that it may have."""
    kind = KINDS.get(str(entry.get("type")))
    if kind is not None and isinstance(entry.get("data"), dict):
        yield ("data",), entry["data"], kind.data
    validations = entry.get("validations")
    for number, each in enumerate(validations if isinstance(validations, list) else ()):
        if isinstance(each, dict):
            yield ("validations", number), each, VALIDATION_KEYS


def _problems(told: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Return the place of each error, and what is wrong there."""
    found: list[tuple[Place, str]] = []
    # The model would tell them all in one sentence.
    try:
        InputSchema.parse({key: told[key] for key in SCHEMA_KEYS if key in told})
    except SchemaError as fault:
        found += fault.problems
    try:
        Agent.model_validate(told)
    except ValidationError as fault:
        for each in fault.errors(include_url=False, include_context=False):
            is_known = not each["loc"] or each["loc"][0] in SCHEMA_KEYS
            if not (found and is_known):
                why = _plain(each["msg"])
                first, _, rest = why.partition(": ")
                is_named = bool(rest) and first in told
                found.append(((first,), rest) if is_named else (_place(each["loc"]), why))
    return found


def _place(location: Place) -> Place:
    """Leave out what pydantic adds for the members of a union."""
    return tuple(part for part in location if isinstance(part, int) or part.isidentifier())


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return {
        "Extra inputs are not permitted": "there is no such setting",
        "Field required": "it is missing",
    }.get(message, message[:1].lower() + message[1:])


def _named(place: Place) -> str:
    if not place:
        return ""
    steps = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{steps.removeprefix('.')}: "


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES:
            raise AgentFileError([f"{path}: it has more than {FILE_BYTES:,} bytes"])
        return path.read_text(encoding="utf-8-sig")
    except OSError as fault:
        raise AgentFileError([f"{path}: it cannot be read: {fault.strerror}"]) from None
    except UnicodeDecodeError as fault:
        raise AgentFileError([f"{path}: byte {fault.start + 1} is not UTF-8"]) from None


def _schema_in(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        told = json.loads(text)
    except json.JSONDecodeError as fault:
        raise AgentFileError([f"{path}:{fault.lineno}: this is no JSON: {fault.msg}"]) from None
    except RecursionError:
        raise AgentFileError([f"{path}: it is nested too deeply"]) from None
    if not isinstance(told, dict):
        raise AgentFileError([f"{path}:1: an object is expected"])
    return {key: told[key] for key in SCHEMA_KEYS if key in told}


def _find_token(told: dict[str, Any], folder: Path) -> None:
    """Let a relative path begin at the folder of the file that has it."""
    service = told.get("payment_service")
    if isinstance(service, dict) and isinstance(service.get("token_file"), str):
        service["token_file"] = str(folder / service["token_file"])


def _line_in(message: str, text: str) -> int:
    """Return the line that an error of tomllib names."""
    _, at, rest = message.rpartition("(at line ")
    if not at:
        return text.count("\n") + 1
    return int(rest.partition(",")[0])


def line_of(text: str, place: Place) -> int:
    """Return the line at which a value begins, or the one of the table that should have it.

    The parser tells no lines. But it reads the file's beginnings: the first one that has the value
    ends with the statement that gives it.
    """
    for length in range(len(place), 0, -1):
        line = _first_with(text, place[:length])
        if line is not None:
            return line
    return 1


def _first_with(text: str, place: Place) -> int | None:
    lines = text.splitlines(keepends=True)
    begin = 0
    for end in range(1, len(lines) + 1):
        if not lines[begin].strip() or lines[begin].lstrip().startswith("#"):
            begin = end
            continue
        try:
            told = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement
        if _has(told, place):
            return begin + 1
        begin = end
    return None


def _has(told: Any, place: Place) -> bool:  # noqa: ANN401 - a value of TOML
    for part in place:
        try:
            told = told[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
