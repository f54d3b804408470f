"""Is `tollgate transition`: moves a job by hand, if the state machine allows it."""

import click

from tollgate.cli.kinds import IDENTIFIER, STATUS, Whole
from tollgate.cli.options import Caller, with_caller, write_document, write_line
from tollgate.domain.status import JobStatus

EPILOG = """\
\b
Examples: confirm a payment, then complete the job
  tollgate transition 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 running
  tollgate transition 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 completed \\
    --result 'a summary' --expect-version 2
"""


@click.command("transition", epilog=EPILOG)
@click.argument("job_id", metavar="ID", type=IDENTIFIER)
@click.argument("target", metavar="TARGET", type=STATUS)
@click.option("--result", metavar="TEXT", help="What the job came to; with `completed`.")
@click.option("--error", metavar="TEXT", help="Why the job failed; with `failed`.")
@click.option(
    "--expect-version",
    type=Whole(1),
    metavar="VERSION",
    help="Refuse unless the job is at this version.",
)
@click.option(
    "--lease", type=Whole(0), metavar="TOKEN", help="The lease under which a worker holds the job."
)
@with_caller
def command(  # noqa: PLR0913 - one argument an option
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
        raise click.UsageError("--result goes with the target completed alone")
    if error is not None and target != JobStatus.FAILED:
        raise click.UsageError("--error goes with the target failed alone")
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
