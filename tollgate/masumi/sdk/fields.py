"""Where each field of an SDK job is kept in a job of the broker, and back. Pure: no socket.

The SDK (`masumi` 1.2.0) writes a job as a dict. A field that has the same meaning in a job of the
broker becomes that field. All others, and values that the broker's field cannot hold exactly, are
kept in `meta`, as JSON under the key `sdk`. So what is read is what was written, of the same type.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tollgate.domain.models import Job
from tollgate.domain.results import MOCK_PREFIX
from tollgate.domain.status import AWAITING_PAYMENT

SdkJob = dict[str, Any]
"""A job as the SDK writes and reads it."""

FIELDS: Final = (
    "job_id", "status", "payment_id", "identifier_from_purchaser", "input_data", "pay_by_time",
    "submit_result_time", "unlock_time", "external_dispute_unlock_time", "agent_identifier",
    "seller_vkey", "input_hash", "result", "error", "created_at",
)  # fmt: skip
"""What the SDK writes when it creates a job."""
ASKING: Final = ("awaiting_input_schema", "awaiting_input_message")
"""What it adds when the job asks a human."""
FIXED: Final = frozenset(
    {"job_id", "payment_id", "identifier_from_purchaser", "input_data", "input_hash"}
)
"""What does not change once a job is created, but by an answer to a question."""
JUDGED: Final = frozenset({"status", "result", "error"})
"""What only a transition changes."""
META_KEY: Final = "sdk"
META_BYTES: Final = 4_096
"""What the broker takes as `meta`, in bytes of UTF-8."""
MILLISECONDS_FROM: Final = 10**11
"""Times below this are in seconds, or none at all."""
SPARE: Final = timedelta(minutes=10)
"""How much earlier than its payment a job must end if its hash has to get on chain after it."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING: Final = object()
_HASH_CHARACTERS: Final = 64
_DIGITS: Final = frozenset("0123456789abcdef")
_IDENTIFIER_BYTES: Final = 256


def canonical(value: object) -> str:
    """Return the JSON text that the SDK hashes for a value: sorted keys, no spaces.

    It is the text of the library `canonicaljson`. So the `input` of a job is the text whose hash is
    its `input_hash`. Only a lone surrogate, which has no UTF-8 form, is escaped.

    Raises:
        TypeError: JSON has no such type.
        ValueError: NaN, an infinity, or a value that contains itself.

    """
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text


def is_same(one: object, other: object) -> bool:
    """Return whether two values have the same JSON text: 1, 1.0 and True are three values."""
    try:
        return canonical(one) == canonical(other)
    except (TypeError, ValueError):
        return False


# --- reading --------------------------------------------------------------------------------------


def read(job: Job) -> SdkJob:
    """Return a job as the SDK reads it: all fields that it writes, and what `meta` keeps beside."""
    identifier = job.blockchain_identifier
    shown: SdkJob = {
        **dict.fromkeys((*FIELDS, *ASKING)),
        "job_id": job.job_id,
        "status": job.status.value,
        "payment_id": None if identifier.startswith(MOCK_PREFIX) else identifier,
        "identifier_from_purchaser": job.identifier_from_purchaser,
        "input_data": input_data_of(job),
        "pay_by_time": _milliseconds(job.pay_by_time),
        "submit_result_time": _milliseconds(job.submit_result_time),
        "input_hash": job.input_hash,
        "result": job.result,
        "error": job.error,
        "awaiting_input_schema": parsed(job.input_schema),
    }
    kept = kept_in(job.meta)
    return shown | {name: value for name, value in kept.items() if name not in JUDGED}


def input_data_of(job: Job) -> Any:  # noqa: ANN401 - an object, unless another program wrote it
    """Return the input, with the answers to all questions merged in, as the SDK merges them."""
    data = {} if job.input is None else parsed(job.input)
    if not isinstance(data, dict):
        return data
    for each in answers_of(job):
        data = data | each
    return data


def answers_of(job: Job) -> list[SdkJob]:
    """Return the answers to the questions of a job, in order; one that is no object is empty."""
    texts = [each.text for each in job.inputs or ()]
    if not texts or texts[-1] is None:  # a list shows the last answer alone
        texts[-1:] = [job.provided_input]
    found = [parsed(text) for text in texts if text is not None]
    return [each if isinstance(each, dict) else {} for each in found]


def parsed(text: str | None) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of a JSON text; None for None, and for a text that is no JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def kept_in(meta: str | None) -> SdkJob:
    """Return the fields that are kept in a `meta`."""
    found = parsed(meta)
    kept = found.get(META_KEY) if isinstance(found, dict) else None
    return kept if isinstance(kept, dict) else {}


# --- writing --------------------------------------------------------------------------------------


def columns_of(job_id: str, data: Mapping[str, Any], *, spare: timedelta) -> dict[str, Any]:
    """Return the arguments of `create` for a job of the SDK, without `meta`.

    `spare` is how much earlier than its `submit_result_time` the broker is to fail the job.

    Raises:
        TypeError, ValueError: the input is no JSON.

    """
    given = data.get("input_data")
    text = None if given is None else canonical(given)
    purchaser = data.get("identifier_from_purchaser")
    submit_by = _time(data.get("submit_result_time"))
    return {
        "job_id": job_id,
        "input": text,
        "input_hash": _hash(data.get("input_hash"), purchaser, text or "{}"),
        "identifier_from_purchaser": purchaser if _is_identifier(purchaser) else None,
        "blockchain_identifier": data.get("payment_id") or None,
        "pay_by_time": _time(data.get("pay_by_time")),
        "submit_result_time": None if submit_by is None else submit_by - spare,
    }


def beside(columns: Mapping[str, Any], data: Mapping[str, Any]) -> SdkJob:
    """Return the fields of a job that its columns do not show exactly: `meta` has to keep them."""
    stored = {**columns, "blockchain_identifier": columns["blockchain_identifier"] or MOCK_PREFIX}
    shown = read(Job(status=AWAITING_PAYMENT, created_at=_EPOCH, updated_at=_EPOCH, **stored))
    if columns["pay_by_time"] is None:
        del shown["pay_by_time"]  # the broker sets a time of its own, which the SDK must not see
    return {
        name: value
        for name, value in data.items()
        if name not in JUDGED and not is_same(shown.get(name, _MISSING), value)
    }


def meta_with(meta: str | None, kept: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Return a `meta` with more fields kept in it, and the names of those that do not fit.

    What other programs have in it stays. If it gets too long, the longest new fields are left out.
    """
    found = parsed(meta)
    if meta is not None and not isinstance(found, dict):
        return meta, list(kept)  # the text of another program
    others = {} if found is None else found
    before = kept_in(meta)
    new, left_out = {}, []
    for name, value in kept.items():
        try:
            new[name] = (len(canonical(value)), value)
        except (TypeError, ValueError):
            left_out.append(name)
    while True:
        fields = before | {name: value for name, (_, value) in new.items()}
        text = canonical(others | {META_KEY: fields})
        if len(text.encode()) <= META_BYTES or not new:
            return (text if new else meta), left_out
        longest = max(new, key=lambda name: new[name][0])
        left_out.append(longest)
        del new[longest]


def answer_in(job: Job, merged: object) -> SdkJob:
    """Return what a human answered, from the input with the answer merged in.

    The SDK hands over the two merged. What is new or different is the answer, and so is every field
    that the question names: an answer may repeat a value that was there before.
    """
    if not isinstance(merged, Mapping):
        return {}
    before = input_data_of(job)
    known = before if isinstance(before, dict) else {}
    asked = _ids_in(parsed(job.input_schema))
    return {
        name: value
        for name, value in merged.items()
        if name in asked or not is_same(known.get(name, _MISSING), value)
    }


def _ids_in(schema: object) -> set[str]:
    """Return the ids of the fields of an MIP-003 input schema."""
    if not isinstance(schema, dict):
        return set()
    parts = [schema, *(group for group in schema.get("input_groups") or () if group)]
    fields = [field for part in parts for field in (part.get("input_data") or ())]
    return {str(field.get("id")) for field in fields if isinstance(field, dict)}


def _hash(given: object, purchaser: object, text: str) -> str:
    """Return the hash as it was given; if there is none, the SDK's: the broker needs one."""
    if isinstance(given, str) and len(given) == _HASH_CHARACTERS and not set(given) - _DIGITS:
        return given
    identifier = purchaser if isinstance(purchaser, str) else ""
    return hashlib.sha256(f"{identifier};{text}".encode(errors="replace")).hexdigest()


def _is_identifier(value: object) -> bool:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    return len(value.encode(errors="surrogatepass")) <= _IDENTIFIER_BYTES


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // timedelta(milliseconds=1)


def _time(value: object) -> datetime | None:
    """Return a time in milliseconds as the broker takes it; None for what is no such time."""
    if type(value) is not int or value < MILLISECONDS_FROM:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=value)
    except OverflowError:
        return None
