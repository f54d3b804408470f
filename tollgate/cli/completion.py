"""Completes commands in the shell; ids and queues with the help of the broker."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    add_completion_class,
    shell_complete,
)

from tollgate.cli.jobs import NEWEST, beginning, newest
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.terminal.plain import snippet
from tollgate.terminal.text import ago, cut

OFFERED: Final = 100
"""How many jobs are offered if nothing of an id was typed."""
TIMEOUT_S: Final = 1.0
"""A person waits for a completion, and can do without it."""
_HELP_WIDTH: Final = 60


class _Fish(FishComplete):
    """The completion of fish, which else cuts the help of an item at its first comma."""

    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )


def complete(command: click.Command, program: str, variable: str, instruction: str) -> int:
    """Do what the shell asks for in the environment; return the exit code.

    Nothing is said of variables that no shell sets so: it would stand in the line that is typed.
    """
    add_completion_class(_Fish)
    try:
        return shell_complete(command, {}, program, variable, instruction)
    except (KeyError, ValueError):  # COMP_WORDS is missing, COMP_CWORD is no number
        return 1


def complete_ids(
    params: Mapping[str, Any], incomplete: str, status: JobStatus | None
) -> list[CompletionItem]:
    """Complete the id of a job in this status, or in any."""
    now = datetime.now(UTC)
    jobs = _offered(params, NEWEST if incomplete else OFFERED, status)
    return [
        CompletionItem(
            job.job_id,
            help=cut(f"{job.status}, {ago(job.created_at, now)}: {snippet(job)}", _HELP_WIDTH),
        )
        for job in beginning(jobs, incomplete)
    ]


def complete_queues(params: Mapping[str, Any], incomplete: str) -> list[CompletionItem]:
    """Complete the name of a queue that one of the newest jobs is in."""
    queues = Counter(job.queue for job in _offered(params, NEWEST))
    return [
        CompletionItem(queue, help=f"{number:,} of the newest {NEWEST:,} jobs")
        for queue, number in queues.most_common()
        if queue.startswith(incomplete)
    ]


def _offered(params: Mapping[str, Any], number: int, status: JobStatus | None = None) -> list[Job]:
    """Return the newest jobs, or none: an error has no place in a line that is being typed."""
    endpoint, key = params.get("endpoint"), params.get("key")
    with suppress(Exception), Client(endpoint, key=key, timeout_s=TIMEOUT_S) as client:
        return newest(client, number, status)
    return []
