"""What callers send, read and checked; and the answers to what cannot be taken."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec
import rfc8785

from tollgate.domain.hashing import UnhashableInputError, input_hash
from tollgate.gateway.agent import Agent

KEY_CHARACTERS: Final = 100
"""How much of a key an error repeats."""
PURCHASER_NAME: Final = "identifier_from_purchaser"
PURCHASER: Final = re.compile(r"[0-9a-fA-F]{14,26}", re.ASCII)
"""What the payment service takes as the purchaser's identifier."""
PURCHASER_BYTES: Final = 250
"""For free agents, whose purchasers the payment service never sees."""
_GZIP: Final = b"\x1f\x8b"


class HttpError(Exception):
    """An answer other than 200.

    `status` is the HTTP status, `code` a word for programs, `field_errors` says for each field what
    is wrong with it. With `retry_after_s` the caller is told when to try again, with `allow` which
    methods there are.
    """

    def __init__(  # noqa: PLR0913 - one argument a part of the answer
        self,
        status: int,
        code: str,
        message: str,
        *,
        field_errors: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field_errors = field_errors
        self.retry_after_s = retry_after_s
        self.allow = allow


def bad(message: str, field_errors: Mapping[str, str] | None = None) -> HttpError:
    """Return a 400."""
    return HttpError(400, "invalid_input", message, field_errors=field_errors)


def _wrong(field: str, why: str) -> HttpError:
    return bad(f"{field} {why}", {field: why})


@dataclass(frozen=True)
class Hire:
    """A request to start a job."""

    identifier: str
    input_text: str
    """The input as canonical JSON."""
    input_hash: str
    job_id: str
    """The same for the same agent, purchaser's identifier and input: a repeat is the same job."""


@dataclass(frozen=True)
class Answer:
    """An answer to a question of a job, which names the question in one of two ways."""

    job_id: str
    data: dict[str, Any]
    status_id: str | None
    schema_hash: str | None
    body: bytes
    """All of it, as it came."""


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object in a body. Raises HttpError."""
    if not body:
        raise bad("the body is empty: a JSON object is expected")
    if body.startswith(_GZIP):
        raise bad("the body is compressed: send it without a Content-Encoding")
    try:
        told = msgspec.json.decode(body.removeprefix(BOM_UTF8))  # some programs write one
    except UnicodeDecodeError as fault:
        raise bad(f"the body is no JSON in UTF-8: {fault.reason}") from None
    except msgspec.DecodeError as fault:
        raise bad(f"the body is no JSON: {fault}") from None
    except RecursionError:
        raise bad("the body is nested too deeply") from None
    if not isinstance(told, dict):
        raise bad(f"the body must be a JSON object, not {_kind(told)}")
    return told


def check_keys(body: bytes) -> None:
    """Refuse a body in which an object has a key twice.

    The parser takes the last value, others take the first: the input that a caller hashed may be
    another one than the agent gets. RFC 8785 takes no such JSON. This is for bodies that are read.
    """

    def check(pairs: Sequence[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _wrong(key[:KEY_CHARACTERS], "is twice in one object of the body")
            seen.add(key)

    try:
        json.loads(body.decode("utf-8-sig"), object_pairs_hook=check)
    except RecursionError:
        raise bad("the body is nested too deeply") from None


def hire(told: bytes, agent: Agent, new_identifier: str) -> Hire:
    """Return what `/start_job` is asked for; `new_identifier` is for callers that have none.

    Only free agents take those. Raises HttpError.
    """
    body = read_json(told)
    identifier = _either(body, "identifier_from_purchaser", "identifierFromPurchaser")
    if identifier is None and agent.is_free:
        identifier = new_identifier
    data = _either(body, "input_data", "inputData")
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise _no_object(data)
    wrong = agent.input_schema.check(data)
    if why := _wrong_purchaser(identifier, is_free=agent.is_free):
        wrong[PURCHASER_NAME] = why
        raise bad(f"{PURCHASER_NAME} {why}", wrong)
    if wrong:
        raise bad("input_data does not fit the input schema", wrong)
    # Only what fits: 1 MiB of numbers takes seconds, in which no other request is answered.
    check_keys(told)
    text = canonical(data)
    hash_ = _hashed(identifier, data)
    return Hire(identifier, text, hash_, str(uuid5(agent.namespace, f"{identifier};{hash_}")))


def job_id(values: Mapping[str, Any]) -> str:
    """Return the id of the job that is meant, which may be no id at all. Raises HttpError."""
    told = _text(values, "job_id", "jobId")
    if told is None:
        raise _wrong("job_id", "is missing")
    return told


def job_id_of_query(values: Sequence[tuple[str, str]]) -> str:
    """Return the same from the pairs of a query, in which a name may be there twice."""
    told = dict(values)
    for name, value in values:
        if value != told[name] and name in {"job_id", "jobId"}:
            raise _wrong(name, "is there twice, with two values")
    return job_id(told)


def answer(told: bytes) -> Answer:
    """Return what `/provide_input` is asked for. Raises HttpError."""
    body = read_json(told)
    meant = job_id(body)
    data = _either(body, "input_data", "inputData")
    if data is None:
        raise _wrong("input_data", "is missing")
    status_id = _text(body, "status_id", "statusId")
    schema_hash = _text(body, "input_schema_hash", "inputSchemaHash")
    if status_id is None and schema_hash is None:
        raise bad(
            "status_id or input_schema_hash must say which question is answered",
            {"status_id": "is missing", "input_schema_hash": "is missing"},
        )
    if schema_hash is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", schema_hash, re.ASCII):
        raise _wrong("input_schema_hash", "must be 64 hexadecimal digits")
    if not isinstance(data, dict):
        raise _no_object(data)
    return Answer(meant, data, status_id, schema_hash and schema_hash.lower(), told)


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a job, in any usual form of a UUID."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def answer_hash(identifier: str | None, answer: Answer) -> str:
    """Return the MIP-004 hash of an answer. Raises HttpError."""
    return _hashed(identifier or "", answer.data)


def _either(body: Mapping[str, Any], name: str, other: str) -> Any:  # noqa: ANN401 - of JSON
    """Return a value that has two spellings; None if it is absent or null."""
    value, also = body.get(name), body.get(other)
    if value is not None and also is not None and value != also:
        raise _wrong(name, f"and {other} differ")
    return also if value is None else value


def _text(body: Mapping[str, Any], name: str, other: str) -> str | None:
    value = _either(body, name, other)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, f"must be a text, not {_kind(value)}")
    return value


def _wrong_purchaser(identifier: Any, *, is_free: bool) -> str:  # noqa: ANN401 - of JSON
    """Return what is wrong with a purchaser's identifier, or nothing."""
    if not isinstance(identifier, str):
        return "is missing" if identifier is None else f"must be a text, not {_kind(identifier)}"
    if not is_free and not PURCHASER.fullmatch(identifier):
        return "must have 14 to 26 hexadecimal digits"
    if not 1 <= len(identifier.encode()) <= PURCHASER_BYTES:
        return f"must have 1 to {PURCHASER_BYTES} bytes"
    if ";" in identifier:  # MIP-004 hashes it with a semicolon behind it
        return "must have no semicolon"
    return "" if identifier.isprintable() else "has characters that cannot be printed"


def canonical(data: dict[str, Any]) -> str:
    """Return input as canonical JSON (RFC 8785). Raises HttpError."""
    try:
        return rfc8785.dumps(data).decode()
    except RecursionError:
        raise _wrong("input_data", "is nested too deeply") from None
    except ValueError as fault:
        why = f"has no canonical form, so no hash (RFC 8785): {fault}"
        raise _wrong("input_data", why) from None


def _no_object(data: object) -> HttpError:
    return _wrong("input_data", f"must be a JSON object, not {_kind(data)}")


def _hashed(identifier: str, data: dict[str, Any]) -> str:
    try:
        return input_hash(identifier, data)
    except UnhashableInputError as fault:
        raise _wrong("input_data", f"cannot be hashed: {fault}") from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "a text", int: "a number", float: "a number"}
    return kinds.get(type(value)) or ("a list" if isinstance(value, list) else "an object")
