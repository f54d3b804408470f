"""The commands that read jobs: `get`, `history`, `count`, `list` and `wait`."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from tollgate.cli.follow import follow_jobs
from tollgate.cli.options import (
    SETTLEMENT,
    STATUS,
    Caller,
    duration,
    full_id,
    identifier,
    job_argument,
    queue_option,
    whole,
    with_caller,
)
from tollgate.cli.show import show_count, show_history, show_job, show_row
from tollgate.client.errors import UnsupportedByBrokerError
from tollgate.client.sync import Client
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus
from tollgate.terminal.output import stderr_is_terminal

if TYPE_CHECKING:
    from tollgate.domain.models import Job


@click.command(
    epilog="""\
\b
Examples:
  tollgate get 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --json
  tollgate get 3f2a
  tollgate get --blockchain-identifier "$PAYMENT"
"""
)
@job_argument(required=False)
@click.option(
    "--blockchain-identifier",
    type=identifier,
    metavar="ID",
    help="The job with this payment on chain, in place of the ID.",
)
@click.option(
    "--lease/--no-lease",
    default=None,
    help="Show who holds the job, and for how long.  [default: if the broker knows]",
)
@with_caller
def get(
    caller: Caller, *, job_id: str | None, blockchain_identifier: str | None, lease: bool | None
) -> None:
    """Show a job, and who holds it.

    The beginning of an id is enough if only one of the newest 1,000 jobs has it.
    """
    if (job_id is None) == (blockchain_identifier is None):
        raise click.UsageError("give an ID, or a --blockchain-identifier")
    with caller.client() as client:
        which: dict[str, Any] = {"blockchain_identifier": blockchain_identifier}
        if job_id is not None:
            which = {"job_id": full_id(client, job_id)}
        try:
            job = client.get(**which, lease=lease is not False)
        except UnsupportedByBrokerError:
            if lease:
                raise
            lease = False
            job = client.get(**which)
    show_job(job, as_json=caller.as_json, lease=lease is not False)


@click.command(epilog="\b\nExamples:\n  tollgate history 3f2a\n  tollgate history 3f2a --json")
@job_argument()
@with_caller
def history(caller: Caller, job_id: str) -> None:
    """Show what happened to a job, and by whom.

    Times are local; with --json in UTC. Of a long history the middle is not kept.
    """
    with caller.client() as client:
        found = client.history(full_id(client, job_id))
    show_history(found, as_json=caller.as_json)


@click.command(
    epilog="""\
\b
Examples:
  tollgate count --status running
  tollgate count --queue mail
  tollgate count --settlement wanted
"""
)
@click.option("--status", type=STATUS, metavar="STATUS", help="Count only this status.")
@queue_option("Count only the jobs of this queue.")
@click.option(
    "--settlement",
    type=SETTLEMENT,
    metavar="STATE",
    help="Count only the jobs with a settlement in this state.",
)
@with_caller
def count(caller: Caller, *, status: str | None, queue: str | None, settlement: str | None) -> None:
    """Count the jobs by status."""
    only = _only(status, queue, settlement)
    with caller.client() as client:
        found = client.count(**only)
    show_count(found, as_json=caller.as_json)


@click.command(
    "list",
    epilog="""\
\b
Examples:
  tollgate list --status failed --newest --limit 20
  tollgate list --status running --lease
  tollgate list --queue mail --older-than 2h
  tollgate list --follow --status failed
""",
)
@click.option("--status", type=STATUS, metavar="STATUS", help="List only jobs of this status.")
@queue_option("List only jobs of this queue.")
@click.option(
    "--settlement",
    type=SETTLEMENT,
    metavar="STATE",
    help="List only jobs with a settlement in this state.",
)
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    help="List only jobs that were created longer ago: 30s, 5m, 2h, 1d.",
)
@click.option("--newest", is_flag=True, help="The newest first.")
@click.option("--lease", is_flag=True, help="Show who holds each job, and for how long.")
@click.option("--limit", type=whole(1), metavar="N", help="End after N jobs.")
@click.option("--follow", is_flag=True, help="Go on with new jobs and changes, until Ctrl-C.")
@with_caller
def list_jobs(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    status: str | None,
    queue: str | None,
    settlement: str | None,
    older_than: float | None,
    newest: bool,
    lease: bool,
    limit: int | None,
    follow: bool,
) -> None:
    """List jobs by creation, the oldest first.

    With --follow, new jobs are shown as they come, and each job again when its status changes, or
    its settlement with --settlement. What changes again within a moment is shown once.
    """
    if follow and (newest or older_than is not None):
        raise click.UsageError("--follow goes with neither --newest nor --older-than")
    only = _only(status, queue, settlement)
    only |= {name: True for name, is_set in (("newest", newest), ("lease", lease)) if is_set}
    with caller.client() as client:
        if older_than is not None:
            jobs = older_jobs(client, older_than, **only)
        else:
            jobs = follow_jobs(client, **only) if follow else client.list(**only)
        for number, job in enumerate(islice(jobs, limit)):
            show_row(job, as_json=caller.as_json, is_first=number == 0, lease=lease)


def _only(status: str | None, queue: str | None, settlement: str | None) -> dict[str, Any]:
    """Return the arguments that choose among the jobs, without those that were not given."""
    if status and settlement:
        raise click.UsageError("--status and --settlement exclude each other")
    only: dict[str, Any] = {}
    if status:
        only["status"] = JobStatus(status)
    if queue:
        only["queue"] = queue
    if settlement:
        only["settlement"] = SettlementState(settlement)
    return only


def older_jobs(client: Client, age_s: float, **only: Any) -> Iterator["Job"]:  # noqa: ANN401
    """Yield the jobs that were created longer ago, by the broker's clock."""
    latest = (client.ping().time or datetime.now(UTC)) - timedelta(seconds=age_s)
    for job in client.list(**only):
        if job.created_at <= latest:
            yield job
        elif not only.get("newest"):
            return  # those after it are younger


@click.command(
    epilog="""\
\b
Examples: until it has ended; until it asks for input, or has ended
  tollgate wait 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --timeout 5m
  tollgate wait 3f2a --status awaiting_input
"""
)
@job_argument()
@click.option(
    "--status",
    "statuses",
    type=STATUS,
    metavar="STATUS",
    multiple=True,
    help="Also wait for this status; repeatable. A job that has ended ends the wait.",
)
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
    help="Give up after so long (exit code 1, wait_timeout).  [default: never]",
)
@with_caller
def wait(caller: Caller, job_id: str, statuses: tuple[str, ...], timeout: float | None) -> None:
    """Wait until a job has ended, and show it."""
    with caller.client() as client:
        job = wait_for(client, full_id(client, job_id), timeout, statuses)
    show_job(job, as_json=caller.as_json)


def wait_for(
    client: Client, job_id: str, timeout_s: float | None, statuses: Sequence[str] = ()
) -> "Job":
    """Return the job once it has ended, or is in one of these statuses.

    A terminal shows a spinner meanwhile.
    """
    client.ping()  # a broker that does not answer is an error now, not after the timeout
    spinner: AbstractContextManager[object] = nullcontext()
    if stderr_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        spinner = style.terminal(stderr=True).status(f"waiting for {job_id}")
    with spinner:
        return client.wait([job_id], statuses=statuses or None, timeout_s=timeout_s)
