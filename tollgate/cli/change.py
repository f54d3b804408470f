"""The commands that change one job, or pause a queue."""

import sys
from typing import Any

import click

from tollgate.cli.options import (
    SETTLEMENT,
    STATUS,
    Caller,
    digest,
    duration,
    full_id,
    identifier,
    job_argument,
    queue_argument,
    text_of_option,
    version_option,
    whole,
    with_caller,
)
from tollgate.cli.show import job_document
from tollgate.domain.models import Job
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, COMPLETED, FAILED, JobStatus
from tollgate.terminal.output import write_document, write_line

reason_option = click.option(
    "--reason", type=text_of_option, metavar="TEXT", help="Why; the job's history shows it."
)


@click.command(
    epilog="""\
\b
Examples: confirm a payment, complete the job, end a job that a worker holds
  tollgate transition 3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34 running
  tollgate transition 3f2a completed --result 'a summary' --expected-version 2
  tollgate transition 3f2a failed --error stuck --force --expected-version 2
"""
)
@job_argument()
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
@version_option
@click.option(
    "--lease", type=whole(0), metavar="TOKEN", help="The lease under which a worker holds the job."
)
@click.option(
    "--force",
    is_flag=True,
    help="End the lease of a worker that holds the job. For the role admin; needs "
    "--expected-version.",
)
@with_caller
def transition(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    job_id: str,
    target: str,
    result: str | None,
    error: str | None,
    expected_version: int | None,
    lease: int | None,
    force: bool,
) -> None:
    """Move a job to another status.

    TARGET is awaiting_payment, awaiting_input, running, completed or failed; the broker refuses
    what the state machine does not allow.
    """
    if result is not None and target != COMPLETED:
        raise click.UsageError("--result goes only with the target completed")
    if error is not None and target != FAILED:
        raise click.UsageError("--error goes only with the target failed")
    if force and (lease is not None or expected_version is None):
        raise click.UsageError("--force needs --expected-version, and goes without --lease")
    with caller.client() as client:
        job = client.transition(
            full_id(client, job_id),
            JobStatus(target),
            result=result,
            error=error,
            expected_version=expected_version,
            lease=lease,
            force=force,
        )
    _show(caller, job, f"is {job.status} now, at version {job.version}")


@click.command(
    epilog="""\
\b
Examples:
  tollgate provide-input 3f2a '{"colour": "blue"}'
  tollgate provide-input 3f2a - --expected-version 3 < answer.json
"""
)
@job_argument(AWAITING_INPUT)
@click.argument("text", metavar="INPUT|-")
@click.option(
    "--input-hash",
    type=digest,
    metavar="HEX",
    help="A hash to keep with the answer, 64 lowercase hex digits.",
)
@click.option(
    "--expected-version",
    type=whole(1),
    metavar="VERSION",
    help="The job's version when it asked.  [default: the one it has now]",
)
@with_caller
def provide_input(
    caller: Caller, *, job_id: str, text: str, input_hash: str | None, expected_version: int | None
) -> None:
    """Answer a job in awaiting_input, which runs again.

    `tollgate get` shows what it asks for. With `-`, the answer is read from standard input. With
    --expected-version, the job is not given an answer to another question than the one you saw.
    """
    text = _text(text)
    with caller.client() as client:
        job_id = full_id(client, job_id)
        version = expected_version or client.get(job_id).version
        job = client.provide_input(job_id, text, expected_version=version, input_hash=input_hash)
    _show(caller, job, f"is {job.status} now, at version {job.version}")


def _text(typed: str) -> str:
    """Return what was typed, or for `-` standard input without the end of its last line."""
    if typed == "-":
        if sys.stdin is None:
            raise click.UsageError("standard input is closed: pipe the text in, or use < FILE")
        try:
            typed = sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise click.UsageError("standard input is not valid UTF-8") from None
    return text_of_option(typed)


@click.command(epilog="\b\nExample:\n  tollgate cancel 3f2a")
@job_argument(AWAITING_PAYMENT)
@version_option
@with_caller
def cancel(caller: Caller, *, job_id: str, expected_version: int | None) -> None:
    """Fail a job that is not paid yet."""
    with caller.client() as client:
        job = client.cancel(full_id(client, job_id), expected_version=expected_version)
    _show(caller, job, f"is {job.status} now, at version {job.version}")


@click.command(epilog="\b\nExample:\n  tollgate hold 3f2a --reason 'a bug in the handler'")
@job_argument()
@reason_option
@version_option
@with_caller
def hold(caller: Caller, *, job_id: str, reason: str | None, expected_version: int | None) -> None:
    """Give a job to no worker until `resume`.

    A worker that holds it now goes on.
    """
    with caller.client() as client:
        job = client.hold(full_id(client, job_id), reason=reason, expected_version=expected_version)
    _show(caller, job, "is on hold")


@click.command(epilog="\b\nExample:\n  tollgate resume 3f2a")
@job_argument()
@version_option
@with_caller
def resume(caller: Caller, *, job_id: str, expected_version: int | None) -> None:
    """Give a job on hold to workers again."""
    with caller.client() as client:
        job = client.resume(full_id(client, job_id), expected_version=expected_version)
    _show(caller, job, "is not on hold")


@click.command(epilog="\b\nExample:\n  tollgate request-stop 3f2a --reason 'refund requested'")
@job_argument()
@reason_option
@version_option
@with_caller
def request_stop(
    caller: Caller, *, job_id: str, reason: str | None, expected_version: int | None
) -> None:
    """Ask the worker that has a job to stop.

    The worker decides what that means. `transition --force` ends the job without it.
    """
    with caller.client() as client:
        job = client.request_stop(
            full_id(client, job_id), reason=reason, expected_version=expected_version
        )
    _show(caller, job, "is asked to stop")


@click.command(
    epilog="""\
\b
Examples:
  tollgate annotate 3f2a 'order 4711, a call is due'
  tollgate annotate 3f2a --remove
"""
)
@job_argument()
@click.argument("meta", metavar="[META|-]", required=False)
@click.option("--remove", is_flag=True, help="Remove the note.")
@version_option
@with_caller
def annotate(
    caller: Caller, *, job_id: str, meta: str | None, remove: bool, expected_version: int | None
) -> None:
    """Replace the note of a job, its `meta`.

    With `-`, it is read from standard input.
    """
    if (meta is None) != remove:
        raise click.UsageError("give a META, or - to read it, or --remove")
    text = None if meta is None else _text(meta)
    with caller.client() as client:
        job = client.annotate(full_id(client, job_id), text, expected_version=expected_version)
    _show(caller, job, "has no note" if remove else "has a new note")


@click.command(
    epilog="""\
\b
Examples: a payment service says what happened
  tollgate settle 3f2a submitted --on-chain-state ResultSubmitted
  tollgate settle 3f2a --on-chain-state RefundRequested
  tollgate settle 3f2a wanted --reason 'the wallet has funds again'
"""
)
@job_argument()
@click.argument("state", metavar="[STATE]", type=SETTLEMENT, required=False)
@click.option(
    "--on-chain-state",
    type=identifier,
    metavar="WORD",
    help="The state of the payment, in the words of the payment service.",
)
@click.option(
    "--result-hash", type=digest, metavar="HEX", help="The hash of the result that is on chain."
)
@reason_option
@click.option(
    "--retry-after",
    type=duration,
    metavar="DURATION",
    help="It is claimed again after that at the earliest: 30s, 5m, 2h, 1d.",
)
@click.option(
    "--lease", type=whole(0), metavar="TOKEN", help="The lease under which it is being settled."
)
@with_caller
def settle(  # noqa: PLR0913 - one argument an option
    caller: Caller,
    *,
    job_id: str,
    state: str | None,
    on_chain_state: str | None,
    result_hash: str | None,
    reason: str | None,
    retry_after: float | None,
    lease: int | None,
) -> None:
    """Move the settlement of a job, or note what is known of it.

    STATE is submitted, confirmed, refused, manual or wanted; the broker refuses what the state
    machine does not allow. For the roles payments and admin.
    """
    fields: dict[str, Any] = {
        "to": None if state is None else SettlementState(state),
        "on_chain_state": on_chain_state,
        "result_hash": result_hash,
        "reason": reason,
        "retry_after_s": retry_after,
    }
    if all(value is None for value in fields.values()):
        raise click.UsageError("give a STATE, or what there is to note")
    with caller.client() as client:
        job = client.settle(full_id(client, job_id), lease=lease, **fields)
    _show(caller, job, f"has a settlement that is {job.settlement.state if job.settlement else ''}")


@click.command(epilog="\b\nExample:\n  tollgate pause-queue mail")
@queue_argument
@with_caller
def pause_queue(caller: Caller, *, queue: str) -> None:
    """Give workers no job of a queue until `resume-queue`.

    Jobs can still be created in it. Workers that hold a job go on. For the role admin.
    """
    with caller.client() as client:
        client.pause_queue(queue)
    _show_queue(caller, queue, is_paused=True)


@click.command(epilog="\b\nExample:\n  tollgate resume-queue mail")
@queue_argument
@with_caller
def resume_queue(caller: Caller, *, queue: str) -> None:
    """Give workers the jobs of a paused queue again.

    For the role admin.
    """
    with caller.client() as client:
        client.resume_queue(queue)
    _show_queue(caller, queue, is_paused=False)


def _show(caller: Caller, job: Job, now: str) -> None:
    if caller.as_json:
        write_document(job_document(job))
    else:
        write_line(f"{job.job_id} {now}")


def _show_queue(caller: Caller, queue: str, *, is_paused: bool) -> None:
    if caller.as_json:
        write_document({"queue": queue, "paused": is_paused})
    else:
        write_line(f"queue {queue} is {'paused' if is_paused else 'not paused'}")
