"""Where decisions are written: an event takes effect at once, and whoever waited for it is told."""

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import msgspec

from broker.events import AnyEvent, JobTransitioned
from broker.limits import Limits
from broker.shown import ShownJob
from broker.state import State
from broker.timers import Instant
from broker.waiters import Ticket, Waiters
from domain.exceptions import Refusal
from domain.results import JobResult, Result


class Turn(msgspec.Struct):
    """What a command is decided with: who asks, when, and how much room the reply has left."""

    ticket: Ticket
    now: Instant
    room_bytes: int
    writable: bool = True
    """Whether there is room to write an event down."""


class Answer(NamedTuple):
    """The result of a command that was parked."""

    ticket: Ticket
    result: Result


class Desk:
    """The state and who waits for it, with the events and answers since they were last taken."""

    def __init__(self, limits: Limits, new_id: Callable[[], str], state: State) -> None:
        self.limits = limits
        self.pay_within = timedelta(milliseconds=limits.pay_within_ms)
        self.new_id = new_id
        self.state = state
        self.waiters = Waiters(limits.parked, limits.parked_share, limits.watched)
        self.events: list[AnyEvent] = []
        self.answers: list[Answer] = []
        self.applying = False
        """True from an event's first effect to its last: who fails in between must stop."""

    def record(self, event: AnyEvent, now: Instant) -> ShownJob | None:
        """Let an event happen. Raises a Refusal, with nothing changed, if it may not."""
        self.applying = True
        try:
            job = self.state.apply(event, now.mono_ms)
        except Refusal:
            self.applying = False
            raise
        self.applying = False
        self.events.append(event)
        if type(event) is JobTransitioned and job is not None:
            for parked in self.waiters.awaiting(event.job_id, event.target):
                self.waiters.remove(parked)
                self.answers.append(Answer(parked.ticket, job_result(job)))
        return job

    def moved(self, event: AnyEvent, now: Instant) -> JobResult:
        """Let an event happen that creates or moves a job, and return the job as the result."""
        job = self.record(event, now)
        if job is None:
            raise TypeError(f"{type(event).__name__} moves no job")
        return job_result(job)

    def take_events(self) -> list[AnyEvent]:
        """Return the events since the last call, in order."""
        events, self.events = self.events, []
        return events

    def take_answers(self) -> list[Answer]:
        """Return the answers to parked commands since the last call, in order."""
        answers, self.answers = self.answers, []
        return answers


def job_result(job: ShownJob) -> JobResult:
    """Return the result that shows a job."""
    return JobResult(job)  # type: ignore[arg-type]  # encoded, it is what JobFields says
