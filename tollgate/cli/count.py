"""Is `tollgate count`: how many jobs there are in each status, and since when."""

import click

from tollgate.cli.kinds import STATUS
from tollgate.cli.options import Caller, with_caller
from tollgate.cli.show import show_count
from tollgate.domain.status import JobStatus


@click.command("count", epilog="\b\nExample:\n  tollgate count --status running")
@click.option("--status", type=STATUS, metavar="STATUS", help="Count this one alone.")
@with_caller
def command(caller: Caller, status: str | None) -> None:
    """Count the jobs by status."""
    with caller.client() as client:
        show_count(caller, client.count(JobStatus(status) if status else None))
