"""What `/status` shows of a job, and how an answer finds its question."""

import logging
from functools import lru_cache
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import VersionConflictError
from tollgate.domain.models import Job, JobStatus
from tollgate.gateway.input_schema.schema import InputSchema, SchemaError
from tollgate.gateway.request import Answer, HttpError, answer_hash, bad, canonical, check_keys

log = logging.getLogger("tollgate.gateway")

NAME_CHARACTERS: Final = 200


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to `/status`. What a job does not have is absent."""

    id: str
    """The id of this status, the same for each look at the same version of the job."""
    job_id: str
    status: str
    input_schema: dict[str, Any] | None = None
    result: str | None = None
    error: str | None = None


class Answered(msgspec.Struct, frozen=True):
    """The answer to `/provide_input`."""

    input_hash: str
    signature: str = ""
    """Empty, as in the masumi SDK: nothing verifies it."""
    status: str = "success"
    """Of this request: callers of an earlier MIP-003 look for it."""


def status_id(job_id: str, version: int) -> str:
    """Return the id of a status: answers name the question by it."""
    return str(uuid5(UUID(job_id), str(version)))


def status_of(job: Job, *, show_errors: bool) -> Status:
    """Return what callers see of a job."""
    status = job.status
    return Status(
        id=status_id(job.job_id, job.version),
        job_id=job.job_id,
        status=status.value,
        input_schema=question(job.input_schema or "").served()
        if status is JobStatus.AWAITING_INPUT
        else None,
        result=job.result if status is JobStatus.COMPLETED else None,
        error=job.error if show_errors and status is JobStatus.FAILED else None,
    )


@lru_cache(maxsize=256)  # a caller asks again and again until a human has answered
def question(text: str) -> InputSchema:
    """Return the schema of a question.

    A handler may ask with any text. What is no schema of MIP-003 becomes one field, `answer`.
    """
    try:
        told = msgspec.json.decode(text)
        if isinstance(told, dict):
            return InputSchema.parse(told)
    except (msgspec.DecodeError, RecursionError):
        pass  # a plain text
    except SchemaError as fault:
        log.warning("a handler asks with a schema that MIP-003 does not have: %s", fault)
    name = " ".join(text.split())[:NAME_CHARACTERS] or "Answer"
    return InputSchema.parse({"input_data": [{"id": "answer", "type": "textarea", "name": name}]})


async def provide(client: AsyncClient, job: Job, answer: Answer) -> Answered:
    """Give a job its answer; one that was given before is acknowledged again.

    Raises:
        HttpError: the question is not the one that is open (409), or the answer does not fit (400).
        TollgateError: the broker refuses, or is away.

    """
    is_open = job.status is JobStatus.AWAITING_INPUT and _is_open(job, answer)
    if is_open and (wrong := question(job.input_schema or "").check(answer.data)):
        raise bad("input_data does not fit the input schema", wrong)
    if not is_open and not _may_be_given(job, answer):
        raise _stale(job)
    # Only what fits a question: 1 MiB of numbers takes seconds.
    check_keys(answer.body)
    text, hash_ = canonical(answer.data), answer_hash(job.identifier_from_purchaser, answer)
    done = Answered(hash_)
    if not is_open:
        if _was_given(job, answer, hash_):
            return done
        raise _stale(job)
    try:
        await client.provide_input(job.job_id, text, expected_version=job.version, input_hash=hash_)
    except VersionConflictError:  # another answer was faster, or the time is up
        job = await client.get(job.job_id)
        if not _was_given(job, answer, hash_):
            raise _stale(job) from None
    return done


def _is_open(job: Job, answer: Answer) -> bool:
    """Return whether an answer is for the question that the job asks now."""
    return _matches(answer, job.job_id, job.version, job.input_schema)


def _matches(answer: Answer, job_id: str, version: int, schema: str | None) -> bool:
    if answer.status_id is not None and answer.status_id.lower() != status_id(job_id, version):
        return False
    return answer.schema_hash is None or answer.schema_hash in question(schema or "").hashes()


def _may_be_given(job: Job, answer: Answer) -> bool:
    return any(
        _matches(answer, job.job_id, each.version, each.schema)
        and not question(each.schema or "").check(answer.data)
        for each in job.inputs or ()
    )


def _was_given(job: Job, answer: Answer, hash_: str) -> bool:
    return any(
        each.hash == hash_ and _matches(answer, job.job_id, each.version, each.schema)
        for each in reversed(job.inputs or ())
    )


def _stale(job: Job) -> HttpError:
    if job.status is JobStatus.AWAITING_INPUT:
        why = "the job asks another question now: look at /status, and answer that one"
    else:
        why = f"the job is {job.status.value} and asks nothing"
    return HttpError(409, "stale_answer", why)
