"""Cuts the commands of a message into runs, which are decided together.

A run has commands of one kind that do not depend on each other and are sure to fit in the reply.
What has to be known of the request, the kind and the state is looked up once for a run. A single
command is a run of one.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from tollgate.broker.core.context import Context, RequestContext
from tollgate.broker.core.limits import (
    RESULT_BYTES,
    STATS_BYTES,
    command_text_bytes,
    explained_bytes_max,
    result_bytes_with,
    whole_job_bytes_max,
)
from tollgate.domain.commands import (
    Claim,
    Command,
    Create,
    Events,
    Explain,
    Get,
    History,
    List,
    Release,
    Stats,
    Touch,
    Transition,
)
from tollgate.domain.exceptions import (
    ReplyFullError,
)
from tollgate.domain.results import DEFAULT_QUEUE
from tollgate.domain.status import AWAITING_INPUT

IN_RUNS: Final = frozenset[type[Command]]({Create, Get, Transition, Touch, Release})
"""The kinds whose handlers take more than one command."""
CHANGING_JOBS: Final = frozenset[type[Command]]({Create, Transition})
"""Of those, the kinds in which a command can change the job of another command of the run."""
SHOWING_NO_JOB: Final = frozenset[type[Command]]({Touch, Release})
"""Of those, the kinds whose results show no job: they are decided in order, and none is large."""
HISTORY_BYTES_MAX: Final = 65 * 384
"""An upper bound of what a history takes in a reply, beyond the bytes that are stored."""
LONG_RUN: Final = 100
"""The most commands of a run if a job has a long history or rounds of input."""
SLOW_RUN: Final = 128
"""The most commands of a run that is slow; see `is_slow`."""
FEW_QUEUES: Final = 16
"""A run that creates jobs in more queues than this is slow."""
FIT_TO_ROOM: Final = frozenset[type[Command]]({Claim, Events, List})
"""The kinds that show as many jobs or events as the reply has room for."""


def runs(
    context: Context, commands: Sequence[Command], request: RequestContext
) -> Iterator[Sequence[Any]]:
    """Yield the commands in order, as runs. Take each run once the one before is decided."""
    for kind, group in groupby(commands, type):
        for run in _independent(kind, [*group]):
            if len(run) > LONG_RUN and context.state.jobs.texts.are_long:
                yield from _pieces(context, kind, run, request, LONG_RUN)
            elif len(run) > SLOW_RUN and is_slow(context, run):
                yield from _pieces(context, kind, run, request, SLOW_RUN)
            elif len(run) == 1 or (kind in IN_RUNS and _fits(context, kind, run, request)):
                yield run
            else:
                for command in run:
                    yield [command]


def is_slow(context: Context, run: Sequence[Any]) -> bool:
    """Return whether a run may take as long as its commands would one by one.

    So it is with questions and settlements, and with jobs of many queues, delayed or to be settled.
    """
    first, last, jobs = run[0], run[-1], context.state.jobs
    kind = type(first)
    if kind is Transition:
        return jobs.have_parts or first.target is AWAITING_INPUT or last.target is AWAITING_INPUT
    if kind is Create:
        if first.settle or last.settle or first.not_before or last.not_before:
            return True
        return first.queue != last.queue and len({command.queue for command in run}) > FEW_QUEUES
    return kind in SHOWING_NO_JOB


def _pieces(
    context: Context, kind: type[Command], run: list[Any], request: RequestContext, size: int
) -> Iterator[list[Any]]:
    """Yield a run in pieces, so that the cost of a piece is known before the next is decided."""
    for start in range(0, len(run), size):
        piece = run[start : start + size]
        if kind in IN_RUNS and _fits(context, kind, piece, request):
            yield piece
        else:
            for command in piece:
                yield [command]


def _independent(kind: type[Command], commands: list[Any]) -> Iterator[list[Any]]:
    """Yield the commands in parts; no two commands of a part may change the same job."""
    ids = [command.job_id for command in commands] if kind in CHANGING_JOBS else []
    if len({*ids}) == len(ids):
        yield commands
        return
    if None in ids:
        named = [job_id for job_id in ids if job_id is not None]
        if len({*named}) == len(named):
            yield commands
            return
    part, seen = list[Any](), set[str]()
    for command, job_id in zip(commands, ids, strict=True):
        if job_id in seen:
            yield part
            part, seen = [], set()
        part.append(command)
        if job_id is not None:
            seen.add(job_id)
    yield part


def _fits(
    context: Context, kind: type[Command], run: Sequence[Any], request: RequestContext
) -> bool:
    """Return whether no command can be refused because of the room that others before it took."""
    jobs, limits = context.state.jobs, context.limits
    if kind is Create and (
        jobs.stored + len(run) > limits.jobs
        or jobs.texts.total_bytes + request.frame_bytes >= limits.stored_bytes
        or not _has_queues(context, run)
    ):
        return False
    room_bytes = request.room_bytes - request.frame_bytes  # new texts take at most this
    if kind is Transition:  # but questions are also shown as rounds of input
        room_bytes -= request.frame_bytes
    if kind in SHOWING_NO_JOB:
        return len(run) * RESULT_BYTES <= room_bytes
    if len(run) * (result_bytes_with(jobs.texts) + jobs.texts.longest_rounds) <= room_bytes:
        return True
    ids = [command.job_id for command in run]
    if kind is not Create and None in ids:  # a job that is asked for by its payment
        return False
    for slot in jobs.get_all(ids):
        room_bytes -= whole_job_bytes_max(slot)
        if room_bytes < 0:
            return False
    return True


def _has_queues(context: Context, run: Sequence[Create]) -> bool:
    if len(context.state.jobs.queues.by_name) + len(run) <= context.limits.queues:
        return True  # the common case
    return context.has_room_for({command.queue or DEFAULT_QUEUE for command in run})


def check_room(context: Context, command: Any, request: RequestContext) -> None:  # noqa: ANN401 - of any kind
    """Raise ReplyFullError if the command's result might not fit in the reply."""
    bytes_max = RESULT_BYTES
    kind = type(command)
    if kind not in FIT_TO_ROOM:
        jobs, job_id = context.state.jobs, getattr(command, "job_id", None)
        slot = jobs.find(job_id) if job_id else None
        if kind is Get:
            if command.blockchain_identifier is not None:
                slot = jobs.find_by_payment(command.blockchain_identifier)
            bytes_max = whole_job_bytes_max(slot)
        elif kind is Stats:
            bytes_max = STATS_BYTES
        elif kind in (History, Explain):
            bytes_max += HISTORY_BYTES_MAX + len((slot and slot.history) or b"")
            bytes_max += explained_bytes_max(slot) if kind is Explain else 0
        else:
            bytes_max = whole_job_bytes_max(slot) + command_text_bytes(command)
    if bytes_max > request.room_bytes:
        raise ReplyFullError("the result would not fit in this reply")
