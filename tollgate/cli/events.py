"""The command `events`: shows what happens at a broker, as it happens."""

import re
from collections.abc import Iterator
from typing import Any, Final

import click

from tollgate.cli.options import (
    STATUS,
    Caller,
    full_id,
    identifier,
    queue_name,
    text_of_option,
    with_caller,
)
from tollgate.cli.show import show_event
from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import DrainingError, EventsGoneError, JobNotFoundError
from tollgate.domain.results import EventsResult
from tollgate.terminal import streams
from tollgate.terminal.output import say

OLDEST: Final = "oldest"
NO_POSITION: Final = "-"
"""No broker gives this position: it tells the oldest one that it has."""
WAIT_MS: Final = 5_000
"""How long one request waits: so soon, and after the time for an answer, a lost broker shows."""


@click.command(
    epilog="""\
\b
Examples: all that the broker remembers; from now on; on from an earlier event
  tollgate events
  tollgate events --follow --queue mail --status failed
  tollgate events --follow --json --since "$POSITION"
"""
)
@click.option("--follow", is_flag=True, help="Go on with new events, until Ctrl-C.")
@click.option(
    "--since",
    type=text_of_option,
    metavar="POSITION",
    help="Begin after this position, which --json shows with each event; or with the `oldest`."
    "  [default: oldest; now with --follow]",
)
@click.option(
    "--queue",
    "queues",
    type=queue_name,
    metavar="QUEUE",
    multiple=True,
    help="Only events of this queue; repeatable.",
)
@click.option(
    "--status",
    "statuses",
    type=STATUS,
    metavar="STATUS",
    multiple=True,
    help="Only events of jobs in this status, or that have just left it; repeatable.",
)
@click.option(
    "--job",
    "job_ids",
    type=identifier,
    metavar="ID",
    multiple=True,
    help="Only events of this job; repeatable.",
)
@with_caller
def events(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    follow: bool,
    since: str | None,
    queues: tuple[str, ...],
    statuses: tuple[str, ...],
    job_ids: tuple[str, ...],
) -> None:
    """Show what happened, and with --follow what happens.

    A broker remembers the last 100,000 events or so. With --follow, one that goes away is waited
    for, and no event is missed; exit code 1 and `events_gone` say that some are lost all the same.
    """
    with caller.client() as client:
        only: dict[str, Any] = {"queues": queues or None, "statuses": statuses or None}
        only["job_ids"] = [_whole(full_id(client, each)) for each in job_ids] or None
        is_all = since == OLDEST or (since is None and not follow)
        if is_all:
            since = oldest(client)
        is_empty = True
        for page in pages(client, since, follow=follow, **only):
            for event in page.events:
                show_event(event, as_json=caller.as_json)
            streams.flush()
            is_empty = is_empty and not page.events
        if is_all and is_empty:  # after a position of its own a caller expects that
            say("tollgate: the broker remembers no such events; `tollgate history` shows a job's")


def _whole(job_id: str) -> str:
    """Return an id. Raises JobNotFoundError for a text that no job can have: it has no events."""
    if not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job_id.lower()):
        raise JobNotFoundError(job_id)
    return job_id.lower()


def oldest(client: Client) -> str | None:
    """Return the oldest position that a broker has events after."""
    try:
        client.events_page(NO_POSITION, limit=1)
    except EventsGoneError as gone:
        return gone.oldest
    return None


def pages(
    client: Client,
    after: str | None,
    *,
    follow: bool,
    **only: Any,  # noqa: ANN401 - arguments
) -> Iterator[EventsResult]:
    """Yield the events after a position a page at a time, over restarts of the broker."""
    is_known = is_lost = False
    while True:
        wait_ms = WAIT_MS if follow and after is not None else 0
        try:
            page = client.events_page(after, wait_ms=wait_ms, **only)
        except (BrokerUnreachableError, DrainingError):
            if not (follow and is_known):
                raise
            if not is_lost:
                click.echo("tollgate: the broker does not answer; waiting for it", err=True)
            is_lost = True
            continue
        if is_lost:
            click.echo("tollgate: the broker answers again", err=True)
        is_known, is_lost, after = True, False, page.next
        yield page
        if not follow and page.next == page.as_of:
            return
