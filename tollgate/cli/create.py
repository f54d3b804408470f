"""`tollgate create`: makes one job of an argument, or many of a stream."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from tollgate.cli.options import (
    Caller,
    digest,
    duration,
    identifier,
    queue_option,
    text_of_option,
    whole,
    with_caller,
)
from tollgate.cli.query import wait_for
from tollgate.cli.show import show_job
from tollgate.domain.models import Job
from tollgate.terminal.output import say, stderr_is_terminal, write_line
from tollgate.terminal.text import ago, iso, printable

EPILOG = """\
\b
Examples:
  tollgate create '{"prompt": "Say hello"}' --purchaser aabbccddeeff0011
  JOB=$(tollgate create 'any text' --pay-within 10m)
  tollgate create 'send the letter' --queue mail --priority 2 --delay 1h
  tollgate create --text '[draft] plain text that begins like JSON'
  cat inputs.txt | tollgate create - --queue mail > ids.txt
"""


@click.command(epilog=EPILOG)
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
@queue_option("Who gets the job: the workers of this queue.  [default: default]")
@click.option(
    "--priority",
    type=whole(0, 9),
    metavar="0-9",
    default=0,
    help="From 0, the first in its queue, to 9.  [default: 0]",
)
@click.option(
    "--delay",
    type=duration,
    metavar="DURATION",
    help="No worker gets the job before that: 30s, 5m, 2h, 1d.",
)
@click.option(
    "--meta",
    type=text_of_option,
    metavar="TEXT",
    help="A note kept with the job, which is not hashed.",
)
@click.option(
    "--pay-within",
    type=duration,
    metavar="DURATION",
    help="Time after which an unpaid job fails.  [default: the broker's, a day]",
)
@click.option(
    "--settle", is_flag=True, help="The result is settled on chain once the job is completed."
)
@click.option(
    "--job-id",
    type=identifier,
    metavar="UUID",
    help="The job's id; a repeat with it makes no second job.  [default: a new one]",
)
@click.option(
    "--blockchain-identifier",
    type=identifier,
    metavar="ID",
    help="The identifier of its payment on chain.  [default: a made-up one]",
)
@click.option("--wait", is_flag=True, help="Wait until the job has ended, and show it.")
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
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
    queue: str | None,
    priority: int,
    delay: float | None,
    meta: str | None,
    pay_within: float | None,
    settle: bool,
    job_id: str | None,
    blockchain_identifier: str | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Create a job, or with `-` one for each input line.

    Prints the job's id. The job waits for its payment, then for a worker. INPUT is JSON or plain
    text; empty text, broken JSON and plain text within white space are refused without --text.
    """
    if text is None and input_hash is None:
        raise click.UsageError("give an INPUT, or - to read one a line, or an --input-hash")
    if text == "-" and (wait or input_hash or job_id or blockchain_identifier):
        raise click.UsageError(
            "--wait, --input-hash, --job-id and --blockchain-identifier go with one job, not with -"
        )
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    if text is not None and not text and input_hash is not None and not as_text:
        raise click.UsageError("INPUT is empty (was a variable not set?); else say --text")
    given = {
        "identifier_from_purchaser": purchaser,
        "as_text": as_text,
        "queue": queue,
        "priority": priority,
        "delay_s": delay,
        "meta": meta,
        "settle": settle,
    }
    fields: dict[str, Any] = {name: value for name, value in given.items() if value}
    if pay_within is not None:
        fields["pay_by_time"] = datetime.now(UTC) + timedelta(seconds=pay_within)
    if text == "-":
        from tollgate.cli import bulk  # noqa: PLC0415 - a single job needs none of it

        if sys.stdin is None:
            raise click.UsageError("standard input is closed: pipe the lines in, or use < FILE")
        bulk.create_from(sys.stdin.buffer, caller, fields)
        return
    with caller.client() as client:
        job = client.create(
            input_hash,
            input=text,
            job_id=job_id,
            blockchain_identifier=blockchain_identifier,
            **fields,
        )
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
