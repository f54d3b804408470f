"""Finds a job by the beginning of its id, among the newest jobs alone: the cost has a limit."""

from itertools import islice
from typing import Final

import click

from tollgate.client.errors import UnsupportedByBrokerError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import JobNotFoundError
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

NEWEST: Final = 1_000
"""How many jobs are searched."""
SHORTEST: Final = 4
"""Less is more likely the number of a loop than the beginning of an id."""
_ID_SHORT: Final = 8
_CANDIDATES: Final = 8


class AmbiguousIdError(click.ClickException):
    """Several ids begin with what was typed, or it is so short that it may be no id at all."""

    exit_code = 2


def id_that_begins(client: Client, typed: str) -> str:
    """Return the only id among the newest jobs that begins with `typed`.

    Raises:
        AmbiguousIdError: several ids begin so, or it is too short.
        JobNotFoundError: none does.
        UnsupportedByBrokerError: the broker is too old to tell the newest jobs.

    """
    if len(typed) < SHORTEST:
        raise AmbiguousIdError(f"{typed} is too short: type {SHORTEST} characters of an id or more")
    try:
        found = beginning(newest(client, NEWEST), typed)
    except UnsupportedByBrokerError as error:
        raise UnsupportedByBrokerError(f"{error}; give the whole id") from None
    if not found:
        message = f"no job {typed}: none of the newest {NEWEST:,} has an id that begins so"
        raise JobNotFoundError.rebuilt(message, {"job_id": typed})
    if len(found) > 1:
        raise AmbiguousIdError(
            f"{typed} is the beginning of {len(found)} ids, type more: {_told_apart(found, typed)}"
        )
    return found[0].job_id


def newest(client: Client, number: int, status: JobStatus | None = None) -> list[Job]:
    """Return so many of the newest jobs, of this status or of any."""
    return [*islice(client.list(status, newest=True, page=number), number)]


def beginning(jobs: list[Job], typed: str) -> list[Job]:
    """Return the jobs with an id that begins with `typed`."""
    return [job for job in jobs if job.job_id.startswith(typed.lower())]


def _told_apart(jobs: list[Job], typed: str) -> str:
    """List jobs, each by as much of its id as tells it from the others."""
    length = max(_ID_SHORT, len(typed) + 1)
    while len({job.job_id[:length] for job in jobs}) < len(jobs):
        length += 1
    shown = [f"{job.job_id[:length]} ({job.status})" for job in jobs[:_CANDIDATES]]
    rest = len(jobs) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
