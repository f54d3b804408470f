"""The commands that change: `create` and `transition`."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from tollgate.cli.options import (
    STATUS,
    Caller,
    digest,
    identifier,
    seconds,
    text_of_option,
    whole,
    with_caller,
)
from tollgate.cli.query import wait_for
from tollgate.cli.show import show_job
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.terminal.output import say, stderr_is_terminal, write_document, write_line
from tollgate.terminal.text import ago, iso, printable

CREATE_EPILOG = """\
\b
Examples:
  tollgate create '{"prompt": "Say hello"}' --purchaser aabbccddeeff0011
  JOB=$(tollgate create 'any text' --pay-within 600)
  tollgate create --text '[draft] plain text that begins like JSON'
  cat inputs.txt | tollgate create - > ids.txt
"""
TRANSITION_EPILOG = """\
\b
Examples: confirm a payment, then complete the job
  tollgate transition 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 running
  tollgate transition 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 completed \\
    --result 'a summary' --expect-version 2
"""


@click.command(epilog=CREATE_EPILOG)
@click.argument("text", metavar="[INPUT|-]", required=False)
@click.option(
    "--input-hash",
    type=digest,
    metavar="HEX",
    help="The MIP-004 hash, 64 lowercase hex digits.  [default: computed from INPUT]",
)
@click.option(
    "--text",
    "as_text",
    is_flag=True,
    help="INPUT is plain text, whatever it looks like.  [default: JSON is parsed, what seems to "
    "be a mistake is refused]",
)
@click.option(
    "--purchaser", type=identifier, metavar="ID", help="MIP-003's identifier_from_purchaser."
)
@click.option(
    "--pay-within",
    type=seconds,
    metavar="SECONDS",
    help="Time after which an unpaid job fails.  [default: the broker's, a day]",
)
@click.option("--wait", is_flag=True, help="Wait until the job has ended, and show it.")
@click.option(
    "--timeout",
    type=seconds,
    metavar="SECONDS",
    help="With --wait: give up after so long (exit code 1, wait_timeout).  [default: never]",
)
@with_caller
def create(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    text: str | None,
    input_hash: str | None,
    as_text: bool,
    purchaser: str | None,
    pay_within: float | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Create a job, or with `-` one for each input line.

    Prints the job's id. The job waits for its payment, then for a worker. INPUT is JSON or plain
    text; empty text, broken JSON and plain text within white space are refused without --text.
    """
    if text is None and input_hash is None:
        raise click.UsageError("give an INPUT, or - to read one a line, or an --input-hash")
    if text == "-" and (wait or input_hash is not None):
        raise click.UsageError("--wait and --input-hash go with one job, not with -")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    if text is not None and not text and input_hash is not None and not as_text:
        raise click.UsageError("INPUT is empty (was a variable not set?); else say --text")
    fields: dict[str, Any] = {"identifier_from_purchaser": purchaser, "as_text": as_text}
    if pay_within is not None:
        fields["pay_by_time"] = datetime.now(UTC) + timedelta(seconds=pay_within)
    if text == "-":
        from tollgate.cli import bulk  # noqa: PLC0415 - a single job needs none of it

        if sys.stdin is None:
            raise click.UsageError("standard input is closed: pipe the lines in, or use < FILE")
        bulk.create_from(sys.stdin.buffer, caller, fields)
        return
    with caller.client() as client:
        job = client.create(input_hash, input=text, **fields)
        if wait:
            say(f"created {job.job_id}")
            job = wait_for(client, job.job_id, timeout)
    if wait or caller.as_json:
        show_job(job, as_json=caller.as_json)
    else:
        _show_created(job)


def _show_created(job: Job) -> None:
    write_line(job.job_id)
    if stderr_is_terminal():
        due = job.pay_by_time
        until = f" until {iso(due)}, {ago(due, datetime.now(UTC))}" if due else ""
        say(f"awaits payment {printable(job.blockchain_identifier)}{until}")


@click.command(epilog=TRANSITION_EPILOG)
@click.argument("job_id", metavar="ID", type=identifier)
@click.argument("target", metavar="TARGET", type=STATUS)
@click.option(
    "--result",
    type=text_of_option,
    metavar="TEXT",
    help="The job's result; with `completed`.",
)
@click.option(
    "--error", type=text_of_option, metavar="TEXT", help="Why the job failed; with `failed`."
)
@click.option(
    "--expect-version",
    type=whole(1),
    metavar="VERSION",
    help="Refuse unless the job is at this version.",
)
@click.option(
    "--lease", type=whole(0), metavar="TOKEN", help="The lease under which a worker holds the job."
)
@with_caller
def transition(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    job_id: str,
    target: str,
    result: str | None,
    error: str | None,
    expect_version: int | None,
    lease: int | None,
) -> None:
    """Move a job to another status.

    TARGET is awaiting_payment, awaiting_input, running, completed or failed; the broker refuses
    what the state machine does not allow.
    """
    if result is not None and target != JobStatus.COMPLETED:
        raise click.UsageError("--result goes only with the target completed")
    if error is not None and target != JobStatus.FAILED:
        raise click.UsageError("--error goes only with the target failed")
    with caller.client() as client:
        job = client.transition(
            job_id,
            JobStatus(target),
            result=result,
            error=error,
            expected_version=expect_version,
            lease=lease,
        )
    if caller.as_json:
        write_document(dict(job))
    else:
        write_line(f"{job.job_id} is {job.status} now, at version {job.version}")
