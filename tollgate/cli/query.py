"""The commands that read: `get`, `count`, `list`, `wait` and `ping`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

import click
import msgspec

from tollgate.cli.options import STATUS, Caller, identifier, seconds, whole, with_caller
from tollgate.cli.show import show_count, show_job, show_row
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus
from tollgate.terminal.output import stderr_is_terminal, write_document, write_line

if TYPE_CHECKING:
    from tollgate.domain.models import Job

FOLLOW_PAUSE_S: Final = 0.5
FOLLOW_PAGE: Final = 100
SHOWN_MAX: Final = 10_000
"""How many shown jobs are remembered; only those of the last page can come again."""


@click.command(epilog="\b\nExample:\n  tollgate get 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --json")
@click.argument("job_id", metavar="ID", type=identifier)
@with_caller
def get(caller: Caller, job_id: str) -> None:
    """Show a job."""
    with caller.client() as client:
        show_job(client.get(job_id), as_json=caller.as_json)


@click.command(epilog="\b\nExample:\n  tollgate count --status running")
@click.option("--status", type=STATUS, metavar="STATUS", help="Count only this status.")
@with_caller
def count(caller: Caller, status: str | None) -> None:
    """Count the jobs by status."""
    with caller.client() as client:
        found = client.count(JobStatus(status) if status else None)
    show_count(found, as_json=caller.as_json)


@click.command(
    "list",
    epilog="\b\nExamples:\n  tollgate list --status failed --limit 20\n  tollgate list --follow",
)
@click.option("--status", type=STATUS, metavar="STATUS", help="List only jobs of this status.")
@click.option("--limit", type=whole(1), metavar="N", help="End after N jobs.")
@click.option("--follow", is_flag=True, help="Go on with new jobs, until Ctrl-C.")
@with_caller
def list_jobs(caller: Caller, *, status: str | None, limit: int | None, follow: bool) -> None:
    """List jobs by creation, the oldest first.

    With --follow and --status, a job is shown when it gets that status, but only while the jobs
    created around it are still read.
    """
    wanted = JobStatus(status) if status else None
    with caller.client() as client:
        jobs = follow_jobs(client, wanted) if follow else client.list(wanted)
        for number, job in enumerate(islice(jobs, limit)):
            show_row(job, as_json=caller.as_json, is_first=number == 0)


def follow_jobs(client: Client, status: JobStatus | None) -> Iterator["Job"]:
    """Yield every job once, and new ones as they come, without end.

    The end of the list has no cursor to continue from. So the last page is read again from its
    beginning, without the jobs that it already gave; once it is full, it has a next page.
    """
    after: str | None = None
    shown: dict[str, None] = {}
    while True:
        page = client.list_page(status, after=after, limit=FOLLOW_PAGE)
        for job in page.jobs:
            if job.job_id not in shown:
                yield job
            shown.pop(job.job_id, None)
            shown[job.job_id] = None  # to the end: the oldest are forgotten first
        if page.next is None:
            kept = max(SHOWN_MAX, len(page.jobs))
            shown = dict(islice(shown.items(), max(0, len(shown) - kept), None))
            sleep(FOLLOW_PAUSE_S)
        else:
            after = page.next  # shown jobs may still come after it: a page can be short


@click.command(
    epilog="\b\nExample:\n  tollgate wait 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --timeout 60"
)
@click.argument("job_id", metavar="ID", type=identifier)
@click.option(
    "--timeout",
    type=seconds,
    metavar="SECONDS",
    help="Give up after so long (exit code 1, wait_timeout).  [default: never]",
)
@with_caller
def wait(caller: Caller, job_id: str, timeout: float | None) -> None:
    """Wait until a job has ended, and show it."""
    with caller.client() as client:
        job = wait_for(client, job_id, timeout)
    show_job(job, as_json=caller.as_json)


def wait_for(client: Client, job_id: str, timeout_s: float | None) -> "Job":
    """Return the job once it has completed or failed; a terminal shows a spinner meanwhile."""
    client.ping()  # a broker that does not answer is an error now, not after the timeout
    spinner: AbstractContextManager[object] = nullcontext()
    if stderr_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        spinner = style.terminal(stderr=True).status(f"waiting for {job_id}")
    with spinner:
        return client.wait([job_id], timeout_s=timeout_s)


@click.command(epilog="\b\nExample:\n  tollgate ping --json")
@with_caller
def ping(caller: Caller) -> None:
    """Check that the broker answers."""
    with caller.client() as client:
        client.ping()  # includes the connection, which is not measured
        started = perf_counter()
        hello = client.ping()
        round_trip_ms = (perf_counter() - started) * 1_000
    if caller.as_json:
        answer = {"endpoint": client.endpoint, "round_trip_ms": round(round_trip_ms, 3)}
        write_document(answer | msgspec.structs.asdict(hello))
    else:
        write_line(f"{hello.server} at {client.endpoint} answered in {round_trip_ms:.2f} ms")
