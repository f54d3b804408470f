"""Reads the values of a call, and refuses those that the service refuses."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

MINUTE_MS: Final = 60_000
IDENTIFIER_MAX: Final = 8_000
PAGE_MAX: Final = 100
HEX = re.compile(r"[0-9a-fA-F]*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?)?")


class ServiceError(Exception):
    """A refusal, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_times(now: int, pay_by: int, submit_by: int, unlock: int, dispute: int) -> None:
    for is_wrong, message in (
        (pay_by > submit_by - 5 * MINUTE_MS, "Pay by time must be 5 minutes before the result's"),
        (pay_by < now - 5 * MINUTE_MS, "Pay by time must be in the future"),
        (dispute < unlock + 15 * MINUTE_MS, "Dispute time must be 15 minutes after unlock time"),
        (submit_by < now + 15 * MINUTE_MS, "Submit result time must be 15 minutes from now"),
        (submit_by > unlock - 15 * MINUTE_MS, "Unlock time must be 15 minutes after the result's"),
    ):
        if is_wrong:
            raise ServiceError(400, message)


def text_of(
    values: Mapping[str, Any], name: str, *, least: int = 0, most: int | None = None
) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise ServiceError(400, f"{name}: must be a text")
    if len(value) < least or (most is not None and len(value) > most):
        raise ServiceError(400, f"{name}: must have {least} to {most} characters")
    return value


def choice_of(values: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    value = values.get(name)
    if value is not None and value not in choices:
        raise ServiceError(400, f"{name}: must be one of {', '.join(choices)}")
    return value


def time_of(values: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """Return a time in milliseconds from ISO text. The service refuses offsets such as +00:00."""
    value = values.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ServiceError(400, f"{name}: must be an ISO date or time in UTC")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ServiceError(400, f"{name}: {error}") from error
    moment = moment.replace(tzinfo=UTC)
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000


def limit_of(query: Mapping[str, Any]) -> int:
    try:
        limit = int(query.get("limit", 10))
    except ValueError as error:
        raise ServiceError(400, "limit: must be a number") from error
    if not 1 <= limit <= PAGE_MAX:
        raise ServiceError(400, f"limit: must be 1 to {PAGE_MAX}")
    return limit


def with_history(values: Mapping[str, Any]) -> bool:
    return str(values.get("includeHistory", "")).lower() == "true"
