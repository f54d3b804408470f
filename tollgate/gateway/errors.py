"""Answers of the gateway when something is wrong: which status, and JSON that says why."""

import logging
from typing import Final

import msgspec
from starlette.responses import Response

from tollgate.client.errors import may_pass
from tollgate.domain.exceptions import (
    ArgumentError,
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    RepositoryFullError,
    StorageFullError,
    TollgateError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.gateway.request import HttpError

log = logging.getLogger("tollgate.gateway")

RETRY_S: Final = 2
"""When a caller should try again while the broker is away."""
FULL_S: Final = 30
"""The same if a store is full."""


UNAVAILABLE: Final = 503
CUT_OFF: Final = frozenset({408, 413})
"""After these the rest of the body is not read."""
_Kinds = tuple[type[TollgateError], ...]
_REFUSALS: Final[tuple[tuple[_Kinds, int, str, str], ...]] = (
    ((JobNotFoundError,), 404, "job_not_found", "there is no such job"),
    ((VersionConflictError, InvalidStateTransitionError), 409, "version_conflict", ""),
    ((JobConflictError,), 409, "job_conflict", ""),
    ((TooLargeError,), 413, "too_large", ""),
    ((ArgumentError,), 400, "invalid_input", ""),
    ((RepositoryFullError, StorageFullError), UNAVAILABLE, "full", "no job can be taken now"),
)
"""The broker's refusals: their status, word and message; without one, the broker's own."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer other than 200."""

    error: str
    """A word for programs."""
    message: str
    field_errors: dict[str, str] | None = None
    """What is wrong with each field, by its id."""
    request_id: str | None = None


def response_to(fault: Exception, request_id: str) -> tuple[Response, HttpError]:
    """Return the answer to an exception, and the exception as HTTP has it."""
    error = fault if isinstance(fault, HttpError) else _as_http(fault)
    problem = Problem(
        error.code,
        error.message,
        dict(error.field_errors) if error.field_errors else None,
        request_id,
    )
    headers = {"connection": "close"} if error.status in CUT_OFF else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.allow is not None:
        headers["allow"] = error.allow
    body = msgspec.json.encode(problem)
    return Response(body, error.status, headers, "application/json"), error


def _as_http(fault: Exception) -> HttpError:
    if not isinstance(fault, TollgateError):
        log.error("a request ended with an exception", exc_info=fault)
        return HttpError(500, "internal", "the gateway failed; its log says why")
    for kinds, status, code, message in _REFUSALS:
        if isinstance(fault, kinds):
            retry_after_s = FULL_S if status == UNAVAILABLE else None
            return HttpError(status, code, message or str(fault), retry_after_s=retry_after_s)
    if may_pass(fault):
        return HttpError(UNAVAILABLE, "broker_away", "the broker is away", retry_after_s=RETRY_S)
    # Ours: a missing role, a wrong key, an older broker.
    log.error("the broker refuses this gateway: %s", fault)
    return HttpError(UNAVAILABLE, "unavailable", "the gateway is not set up right; see its log")
