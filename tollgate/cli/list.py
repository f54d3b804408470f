"""Is `tollgate list`: jobs by creation, one a line, and with --follow the new ones as they come."""

from collections.abc import Iterator
from itertools import islice
from time import sleep
from typing import TYPE_CHECKING, Final

import click

from tollgate.cli.kinds import STATUS, Whole
from tollgate.cli.options import Caller, with_caller
from tollgate.cli.show import JobList
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

if TYPE_CHECKING:
    from tollgate.domain.models import Job

FOLLOW_PAUSE_S: Final = 0.5
FOLLOW_PAGE: Final = 100
GIVEN_MAX: Final = 10_000
"""How many jobs that were shown are remembered; only those of the last page can come again."""


@click.command(
    "list",
    epilog="\b\nExamples:\n  tollgate list --status failed --limit 20\n  tollgate list --follow",
)
@click.option("--status", type=STATUS, metavar="STATUS", help="List the jobs in this alone.")
@click.option("--limit", type=Whole(1), metavar="N", help="End after N jobs.")
@click.option("--follow", is_flag=True, help="Go on with new jobs, until Ctrl-C.")
@with_caller
def command(caller: Caller, *, status: str | None, limit: int | None, follow: bool) -> None:
    """List jobs by creation, the oldest first.

    With --follow and --status, a job is shown once it has that status, if it gets it while the
    jobs created around it are still looked at.
    """
    wanted = JobStatus(status) if status else None
    shown = JobList(caller)
    with caller.client() as client:
        jobs = follow_jobs(client, wanted) if follow else client.list(wanted)
        for job in islice(jobs, limit):
            shown.add(job)


def follow_jobs(client: Client, status: JobStatus | None) -> Iterator["Job"]:
    """Yield every job once, those to come included, for ever.

    At the end of the list there is no cursor to go on from. So the last page is read again from
    where it began, and what it already gave is left out; once it is full, it has a next one.
    """
    after: str | None = None
    given: dict[str, None] = {}
    while True:
        page = client.list_page(status, after=after, limit=FOLLOW_PAGE)
        for job in page.jobs:
            if job.job_id not in given:
                yield job
            given.pop(job.job_id, None)
            given[job.job_id] = None  # the last page stays at the end, where nothing is forgotten
        if page.next is None:
            kept = max(GIVEN_MAX, len(page.jobs))
            given = dict(islice(given.items(), max(0, len(given) - kept), None))
            sleep(FOLLOW_PAUSE_S)
        else:
            after = page.next  # what was given may still stand behind it: a page can be short
