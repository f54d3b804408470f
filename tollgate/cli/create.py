"""Is `tollgate create`: one job, or one for each line that comes through a pipe."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from tollgate.cli import errors as failures
from tollgate.cli.kinds import HASH, SECONDS
from tollgate.cli.options import (
    Caller,
    say,
    with_caller,
    write_document,
    write_line,
)
from tollgate.cli.show import show_job
from tollgate.cli.wait import wait_for
from tollgate.domain.models import Job
from tollgate.terminal.text import ago, iso, printable

EPILOG = """\
\b
Examples:
  tollgate create '{"prompt": "Cardano payments"}' --purchaser aabbccddeeff
  JOB=$(tollgate create 'any text' --pay-within 600)
  cat inputs.txt | tollgate create - > ids.txt
"""


@click.command("create", epilog=EPILOG)
@click.argument("text", metavar="[INPUT|-]", required=False)
@click.option(
    "--input-hash",
    type=HASH,
    metavar="HEX",
    help="The MIP-004 hash, 64 lowercase hex digits.  [default: computed from INPUT]",
)
@click.option("--purchaser", metavar="ID", help="MIP-003's identifier_from_purchaser.")
@click.option(
    "--pay-within",
    type=SECONDS,
    metavar="SECONDS",
    help="When it fails if nobody has paid.  [default: the broker's, a day]",
)
@click.option("--wait", is_flag=True, help="Wait until the job has ended, and show it.")
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="With --wait: give up after so long (exit code 1, wait_timeout).  [default: never]",
)
@with_caller
def command(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    text: str | None,
    input_hash: str | None,
    purchaser: str | None,
    pay_within: float | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Create a job, or with `-` one for each line of a pipe.

    Prints the job's id. The job waits for its payment, then for a worker.
    """
    fields: dict[str, Any] = {"identifier_from_purchaser": purchaser}
    if pay_within is not None:
        fields["pay_by_time"] = datetime.now(UTC) + timedelta(seconds=pay_within)
    _check(text, input_hash, wait=wait, timeout=timeout)
    if text == "-":
        from tollgate.cli import bulk  # noqa: PLC0415 - one job needs none of it

        bulk.create_from(sys.stdin.buffer, caller, fields)
        return
    with caller.client() as client:
        job = client.create(input_hash, input=text, **fields)
        if wait:
            say(f"created {job.job_id}")
            show_job(caller, wait_for(client, job.job_id, timeout))
            return
    _show_created(caller, job)


def _check(text: str | None, input_hash: str | None, *, wait: bool, timeout: float | None) -> None:
    if text is None and input_hash is None:
        raise click.UsageError("give an INPUT, or - to read one a line, or an --input-hash")
    if text == "-" and (wait or input_hash is not None):
        raise click.UsageError("--wait and --input-hash go with one job, not with -")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")


def _show_created(caller: Caller, job: Job) -> None:
    if caller.as_json:
        write_document(dict(job))
        return
    write_line(job.job_id)
    if failures.is_watched():
        due = job.pay_by_time
        until = f" until {iso(due)}, {ago(due, datetime.now(UTC))}" if due else ""
        say(f"awaits payment {printable(job.blockchain_identifier)}{until}")
