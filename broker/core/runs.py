"""Cuts the commands of a message into runs: of one kind, none in another's way, sure to fit.

What has to be found out about the message, the kind, and the state is found out once a run. Each
that shows a job is decided before any of the run has happened.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from tollgate.broker.core.context import Desk, Turn
from tollgate.broker.core.sizes import RESULT_BYTES, job_bytes_max, result_bytes_with
from tollgate.domain.commands import Command, Create, Get, Release, Touch, Transition

IN_RUNS: Final = frozenset[type[Command]]({Create, Get, Transition, Touch, Release})
"""The kinds whose handlers take more than one command."""
CHANGING_JOBS: Final = frozenset[type[Command]]({Create, Transition})
"""Those of them of which one can change what another one finds, if they are about the same job."""
SHOWING_NONE: Final = frozenset[type[Command]]({Touch, Release})
"""Those of them whose results show no job: they are decided in order, and none is too large."""


def runs(desk: Desk, commands: Sequence[Command], turn: Turn) -> Iterator[Sequence[Any]]:
    """Yield commands in order, one or more at a time; the next ones once those are decided."""
    for kind, group in groupby(commands, type):
        several = [*group]
        if len(several) == 1:
            yield several
            continue
        for run in _blind(kind, several):
            if kind in IN_RUNS and len(run) > 1 and _is_ample(desk, kind, run, turn):
                yield run
            else:
                for command in run:
                    yield [command]


def _blind(kind: type[Command], run: list[Any]) -> Iterator[list[Any]]:
    """Yield the commands in parts, in which none can change what another one finds."""
    if kind not in CHANGING_JOBS:
        yield run
        return
    ids = [command.job_id for command in run if command.job_id is not None]
    if len(set(ids)) == len(ids):
        yield run
        return
    part, seen = list[Any](), set[str]()
    for command in run:
        if command.job_id in seen:
            yield part
            part, seen = [], set()
        part.append(command)
        if command.job_id is not None:
            seen.add(command.job_id)
    yield part


def _is_ample(desk: Desk, kind: type[Command], run: Sequence[Any], turn: Turn) -> bool:
    """Return whether no command can be refused for what others before it have taken up."""
    jobs, limits = desk.state.jobs, desk.limits
    if kind is Create and (
        jobs.count() + len(run) > limits.jobs
        or jobs.texts.total_bytes + turn.frame_bytes >= limits.stored_bytes
    ):
        return False
    room_bytes = turn.room_bytes - turn.frame_bytes  # no texts that come in take more than that
    if kind in SHOWING_NONE:
        return len(run) * RESULT_BYTES <= room_bytes
    if len(run) * result_bytes_with(jobs.texts.longest_bytes) <= room_bytes:
        return True
    ids = [command.job_id for command in run]
    if kind is not Create and None in ids:  # a job that is asked for by its payment
        return False
    for job in jobs.find_all(ids):
        room_bytes -= job_bytes_max(job) if job else RESULT_BYTES
        if room_bytes < 0:
            return False
    return True
