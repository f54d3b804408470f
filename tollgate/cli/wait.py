"""Is `tollgate wait`: returns when a job has ended, and shows what it came to."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from tollgate.cli.kinds import IDENTIFIER, SECONDS
from tollgate.cli.options import Caller, with_caller
from tollgate.cli.show import show_job
from tollgate.client.sync import Client

if TYPE_CHECKING:
    from tollgate.domain.models import Job


@click.command(
    "wait", epilog="\b\nExample:\n  tollgate wait 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 --timeout 60"
)
@click.argument("job_id", metavar="ID", type=IDENTIFIER)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Give up after so long (exit code 1, wait_timeout).  [default: never]",
)
@with_caller
def command(caller: Caller, job_id: str, timeout: float | None) -> None:
    """Wait until a job has ended, and show it."""
    with caller.client() as client:
        job = wait_for(client, job_id, timeout)
    show_job(caller, job)


def wait_for(client: Client, job_id: str, timeout_s: float | None) -> "Job":
    """Return the job once it has completed or failed; a person sees that something is awaited."""
    client.ping()  # a broker that is not there should not be waited for that long
    with _spinner(f"waiting for {job_id}"):
        return client.wait([job_id], timeout_s=timeout_s)


def _spinner(message: str) -> AbstractContextManager[object]:
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from tollgate.terminal import style as render  # noqa: PLC0415 - rich is for terminals alone

    return render.terminal(stderr=True).status(message)
