"""Where decisions are written: an event takes effect at once, and whoever waited for it is told."""

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from tollgate.broker.core.events import AnyEvent, JobTransitioned
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.state import State
from tollgate.broker.core.waiters import Ticket, Waiters
from tollgate.broker.repository.creation import SCAN_JOBS_MAX
from tollgate.broker.repository.job import Done, StoredJob
from tollgate.domain.commands import Command
from tollgate.domain.exceptions import Refusal
from tollgate.domain.results import JobResult, Result, error_of


class Turn(msgspec.Struct):
    """What the commands of a message are decided with: who asks, when, and what there is room for.

    `handlers` decide each kind of command, or refuse it; `tight_handlers` do so where the reply is
    so full that a result might not fit.
    """

    ticket: Ticket
    now: datetime
    now_ms: int
    """The same moment on the monotonic clock."""
    handlers: "Handlers"
    tight_handlers: "Handlers"
    frame_bytes: int
    """How long the message is."""
    room_bytes: int
    """How much room the reply has left for the next result."""
    writable: bool = True
    """Whether there is room to write an event down."""


Handler = Callable[["Desk", Sequence[Any], Turn], list[Any]]
"""Decides a run of commands of one kind; returns the Result of each, or None if it was parked.

What it raises, a Refusal too, it raises before anything of the run has happened.
"""
Handlers = dict[type[Command], Handler]


class Answer(NamedTuple):
    """The result of a command that was parked."""

    ticket: Ticket
    result: Result


class Desk:
    """The state and who waits for it, with the events and answers since they were last taken."""

    def __init__(self, limits: Limits, new_id: Callable[[], str], state: State) -> None:
        self.limits = limits
        self._pay_within = timedelta(milliseconds=limits.pay_within_ms)
        self._pay_from = self._pay_by = datetime.min.replace(tzinfo=UTC)
        self.new_id = new_id
        self.state = state
        self.waiters = Waiters(limits.parked, limits.parked_share, limits.watched)
        self.events: list[AnyEvent] = []
        """What has happened since it was last taken; one list for good."""
        self.answers: deque[Answer] = deque()
        self.scans_left = SCAN_JOBS_MAX
        """How many jobs may be looked at for pages before the batch is to end."""
        self.is_moved = False
        """Whether anything may be due earlier than it was."""
        self.is_torn = False
        """Whether an event has broken off amid its effects: nobody may go on from there."""

    def pay_by(self, now: datetime) -> datetime:
        """Return the `pay_by_time` of a job that is created now: one object for all of a batch."""
        if now is not self._pay_from:
            self._pay_from, self._pay_by = now, now + self._pay_within
        return self._pay_by

    def record(self, event: AnyEvent, now_ms: int) -> Any:  # noqa: ANN401 - as the event has it
        """Let an event happen; return the job, as it is held, that it created or moved.

        `now_ms` is monotonic. Raises a Refusal, with nothing changed, if it may not.
        """
        kind = type(event)
        try:
            job = self.state.effects[kind](event, now_ms)
        except Refusal:
            raise
        except BaseException:
            self.is_torn = True
            raise
        self.events.append(event)
        if self.waiters.watched and kind is JobTransitioned and job is not None:
            self._tell(job)
        return job

    def record_all(self, kind: type[AnyEvent], events: list[Any], now_ms: int) -> Done:
        """Let events of one kind happen, in order; return the jobs, and what was refused."""
        try:
            done = self.state.effects_of_all[kind](events, now_ms)
        except BaseException:
            self.is_torn = True
            raise
        if done.refused:
            events = [event for place, event in enumerate(events) if place not in done.refused]
        self.events += events
        if self.waiters.watched and kind is JobTransitioned:
            for job in done.jobs:
                self._tell(job)
        return done

    def _tell(self, job: StoredJob) -> None:
        """Answer who has waited for a job to come where it is now."""
        waiting = self.waiters.awaiting(job.job_id, job.status)
        if waiting:
            result = job_result(copy(job))  # it may move on before the answers are written
            for parked in waiting:
                self.waiters.remove(parked)
                self.answers.append(Answer(parked.ticket, result))

    def take_events(self) -> list[AnyEvent]:
        """Return the events since the last call, in order."""
        events = self.events.copy()
        if events:
            self.events.clear()
            self.is_moved = True
        return events


def alone(decide: Callable[["Desk", Any, Turn], Result | None]) -> Handler:
    """Return the handler of a kind of which no run has more than one command."""

    def handler(desk: Desk, commands: Sequence[Any], turn: Turn) -> list[Any]:
        (command,) = commands
        return [decide(desk, command, turn)]

    return handler


def in_order(decide: Callable[["Desk", Any, Turn], Result]) -> Handler:
    """Return the handler of a kind whose results show no job: a run of it is decided in order."""

    def handler(desk: Desk, commands: Sequence[Any], turn: Turn) -> list[Any]:
        results: list[Any] = []
        for command in commands:
            try:
                results.append(decide(desk, command, turn))
            except Refusal as refusal:
                results.append(error_of(refusal))
        return results

    return handler


def job_result(job: StoredJob) -> JobResult:
    """Return the result that shows a job as it is when the result is encoded."""
    return JobResult(job)  # type: ignore[arg-type]  # encoded, it is what JobFields says
