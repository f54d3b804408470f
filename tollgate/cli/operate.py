"""The commands that say how the broker is, and why: `stats`, `workers` and `explain`."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from shutil import get_terminal_size
from time import sleep
from typing import Any, Final

import click
import msgspec

from tollgate.cli.options import (
    Caller,
    duration,
    full_id,
    job_argument,
    queue_option,
    with_caller,
)
from tollgate.cli.show import job_document
from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import DrainingError, Refusal, ReplyFullError
from tollgate.domain.results import StatsResult
from tollgate.terminal.output import say, stdout_is_terminal, write_document, write_line

INTERVAL_S: Final = 2.0
INTERVAL_S_MIN: Final = 0.1
PASSING: Final = (BrokerUnreachableError, DrainingError, ReplyFullError)
"""What a command that watches tells of, and goes on."""

_watch: Final = click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
_interval: Final = click.option(
    "--interval",
    type=duration,
    metavar="DURATION",
    help=f"With --watch: the time between two looks.  [default: {INTERVAL_S:g}s]",
)


@click.command(
    epilog="""\
\b
Examples:
  tollgate stats
  tollgate stats --queue mail --json
  tollgate stats --watch --interval 5s
"""
)
@queue_option("Show only this queue among the queues.")
@_watch
@_interval
@with_caller
def stats(caller: Caller, *, queue: str | None, watch: bool, interval: float | None) -> None:
    """Show how the broker is, and what is wrong.

    What is counted is counted since the broker started. With --json, all figures.
    """

    def show(client: Client) -> None:
        from tollgate.diagnosis import findings  # noqa: PLC0415 - as the others

        figures = client.stats(queue=queue)
        found = findings(figures, clock_off_s=_clock_off_s(figures))
        if caller.as_json:
            write_document(msgspec.structs.asdict(figures) | {"findings": found})
        else:
            from tollgate.terminal.figures import stats_lines  # noqa: PLC0415 - JSON needs none

            sentences = {each.text: each.code for each in found}
            _write(stats_lines(figures, sentences, is_named=queue is not None))
        if queue is not None and not figures.queues:
            say(f"tollgate: queue {queue} has no job")

    _again(caller, show, _pause_s(watch=watch, interval_s=interval))


@click.command(
    epilog="""\
\b
Examples:
  tollgate workers
  tollgate workers --all --json
  tollgate workers --watch
"""
)
@click.option("--all", "every", is_flag=True, help="Also clients that claim nothing.")
@_watch
@_interval
@with_caller
def workers(caller: Caller, *, every: bool, watch: bool, interval: float | None) -> None:
    """Show who claims jobs, and what they hold.

    And when each was last seen. A worker that has claimed nothing since the broker started is shown
    if it holds jobs.
    """

    def show(client: Client) -> None:
        figures = client.stats()
        shown = [
            each
            for each in figures.clients
            if every or each.leases or each.parked_claims or each.last_claim is not None
        ]
        if caller.as_json:
            for each in shown:
                write_document(each)
        elif not shown:
            write_line("no client claims jobs")
        else:
            from tollgate.terminal.figures import worker_lines  # noqa: PLC0415 - JSON needs none

            _write(worker_lines(shown, figures.time))

    _again(caller, show, _pause_s(watch=watch, interval_s=interval))


@click.command(epilog="\b\nExamples:\n  tollgate explain 3f2a\n  tollgate explain 3f2a --json")
@job_argument()
@with_caller
def explain(caller: Caller, job_id: str) -> None:
    """Say why a job is where it is, and what comes next.

    Who holds it, what it waits for, what happens by itself and when, and which commands are legal
    for which roles: all of one moment.
    """
    from tollgate.explaining import in_words  # noqa: PLC0415 - `ping` needs none of it

    with caller.client() as client:
        explanation = client.explain(full_id(client, job_id))
    words = in_words(explanation)
    if caller.as_json:
        facts: dict[str, Any] = msgspec.structs.asdict(explanation.facts)
        job = job_document(explanation.job, lease=True)
        write_document({**facts, "job": job, "words": words})
    else:
        from tollgate.terminal.figures import explanation_lines  # noqa: PLC0415 - JSON needs none

        sections = {
            "why": [each.text for each in words.reasons],
            "settlement": words.settlement,
            "by itself": words.next,
            "legal now": words.legal,
        }
        width = get_terminal_size().columns if stdout_is_terminal() else None
        _write(explanation_lines(explanation.job.job_id, words.where, sections, width))


def _pause_s(*, watch: bool, interval_s: float | None) -> float | None:
    """Return the time between two looks; None is one look alone."""
    if interval_s is None:
        return INTERVAL_S if watch else None
    if not watch:
        raise click.UsageError("--interval goes with --watch")
    if interval_s < INTERVAL_S_MIN:
        raise click.UsageError(f"--interval is {INTERVAL_S_MIN:g}s or more")
    return interval_s


def _again(caller: Caller, show: Callable[[Client], None], interval_s: float | None) -> None:
    """Show something once; or, with an interval, again and again, whatever the broker does."""
    with caller.client() as client:
        if interval_s is None:
            show(client)
            return
        while True:
            if stdout_is_terminal() and not caller.as_json:
                click.clear()
            try:
                show(client)
            except PASSING as fault:
                code = f" [{fault.code}]" if isinstance(fault, Refusal) else ""
                say(f"tollgate: {fault}{code}; trying again")
            if not (stdout_is_terminal() or caller.as_json):
                write_line("")
            sleep(interval_s)


def _clock_off_s(figures: StatsResult) -> float:
    """Return by how much the clock of this machine is ahead of the broker's, in seconds."""
    return (datetime.now(UTC) - figures.time).total_seconds()


def _write(lines: Iterable[str]) -> None:
    for line in lines:
        write_line(line)
