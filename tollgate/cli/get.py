"""Is `tollgate get`: one job, with all there is to say about it."""

import click

from tollgate.cli.kinds import IDENTIFIER
from tollgate.cli.options import Caller, with_caller
from tollgate.cli.show import show_job


@click.command(
    "get", epilog="\b\nExample:\n  tollgate get 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --json"
)
@click.argument("job_id", metavar="ID", type=IDENTIFIER)
@with_caller
def command(caller: Caller, job_id: str) -> None:
    """Show a job."""
    with caller.client() as client:
        show_job(caller, client.get(job_id))
