"""What the records of a journal make of each job: a simpler broker, written a second time."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import Any, Final

from tests.crash.summaries import PLAIN, Summary
from tollgate.broker.core.events import (
    AnyEvent,
    JobAnnotated,
    JobCreated,
    JobHeld,
    JobProgressed,
    JobResumed,
    JobSettled,
    JobTransitioned,
    LeaseGranted,
    LeaseLapsed,
    LeaseReleased,
    QueuePaused,
    QueueResumed,
    StopRequested,
)

ENDED: Final = ("completed", "failed")
SETTLED_BY_CLAIM: Final = ("wanted", "submitted")
Lines = dict[int, dict[str, datetime]]
"""For each priority the jobs that a claim can get, and since when, in order."""


@dataclass
class ModelJob:
    """One job, and what has happened to it."""

    job_id: str
    index: int
    queue: str = "default"
    priority: int = 0
    status: str = "awaiting_payment"
    not_before: datetime | None = None
    lease: int | None = None
    on_hold: bool = False
    stop_requested: bool = False
    meta: str | None = None
    attempts: int = 0
    rounds: list[list[Any]] = field(default_factory=list)
    settlement: dict[str, Any] | None = None
    rounds_at: dict[int, list[list[Any]]] = field(default_factory=dict)
    """By version, from the first question on."""
    progress: str | None = None
    happened: list[list[Any]] = field(default_factory=lambda: [["created", None]])
    """Its history: what happened, and the number of the try."""
    places: list[int] = field(default_factory=list)
    """The sequence numbers of the records that changed what it shows beside its status."""
    shown: list[Summary] = field(default_factory=list)
    """What it showed from each of these records on; a record may have several."""

    @property
    def state(self) -> str:
        """What it can be claimed for."""
        return self.settlement["state"] if self.settlement and self.is_ended else self.status

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def due(self) -> datetime | None:
        """From when on a claim may get it."""
        if self.is_ended:
            return self.settlement["not_before"] if self.settlement else None
        return self.not_before if self.status == "running" else None

    def note(self, what: str, attempt: int | None = None) -> None:
        self.happened.append([what, attempt])

    def shows(self) -> Summary:
        """Return the same as `summaries.extras_of` for the job on the wire."""
        settlement = self.settlement
        shown = [
            self.queue, self.priority, self.on_hold, self.stop_requested, self.meta, self.attempts,
            settlement and [settlement[name] for name in _SETTLED],
            self.progress,
        ]  # fmt: skip
        return [] if shown == PLAIN else shown

    def history(self, length: int) -> tuple[list[list[Any]], int]:
        """Return its first `length` entries as `history` shows them, and how many it leaves out."""
        _, *rest = self.happened[:length]
        if len(rest) <= _FIRST + _LAST:
            return self.happened[:length], 0
        return (
            [self.happened[0], *rest[:_FIRST], *rest[-_LAST:]],
            len(rest) - _FIRST - _LAST,
        )


_SETTLED: Final = ("state", "result_hash", "on_chain_state", "reason")
_FIRST: Final = 16
_LAST: Final = 48


class Model:
    """All jobs and their lines. `apply` yields what is wrong with an event."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self._lines: dict[tuple[str, str], Lines] = defaultdict(lambda: defaultdict(dict))
        self._delayed: list[tuple[datetime, int, str, str]] = []
        self._paused: set[str] = set()
        self._now = datetime.min.replace(tzinfo=UTC)

    def ready(self, before: datetime) -> int:
        """Return how many jobs can be claimed that could be so before a time, too."""
        return sum(
            sum(since < before for since in line.values())
            for (_, queue), lines in self._lines.items()
            for line in lines.values()
            if queue not in self._paused
        )

    def apply(self, event: AnyEvent, at: datetime, place: int, *, is_named: bool) -> Iterator[str]:
        """Apply an event of the record with that time and sequence number.

        `is_named`: the record is of a request that may have claimed jobs by their ids.
        """
        self._advance(at)
        if isinstance(event, JobCreated):
            self._create(event)
        elif isinstance(event, QueuePaused):
            self._paused.add(event.queue)
        elif isinstance(event, QueueResumed):
            self._paused.remove(event.queue)
        elif (job := self.jobs.get(getattr(event, "job_id", ""))) is not None:
            if isinstance(event, LeaseGranted):
                yield from self._grant(job, event, is_named=is_named)
            else:
                self._change(job, event)
        else:
            return
        if (changed := self.jobs.get(getattr(event, "job_id", ""))) is not None:
            shown = changed.shows()
            if not changed.shown or changed.shown[-1] != shown:
                changed.places.append(place)
                changed.shown.append(shown)

    def _advance(self, at: datetime) -> None:
        """Let the delayed jobs that are due join their lines, by time and then by creation."""
        self._now = at
        while self._delayed and self._delayed[0][0] <= at:
            due, _, job_id, state = heappop(self._delayed)
            job = self.jobs[job_id]
            if (job.due, job.state) == (due, state) and job.lease is None and not job.on_hold:
                self._line(job)[job_id] = due

    def _create(self, event: JobCreated) -> None:
        job = self.jobs[event.job_id] = ModelJob(event.job_id, len(self.jobs))
        if (rest := event.rest) is not None:
            job.queue, job.priority = rest.queue or "default", rest.priority
            job.not_before, job.meta = rest.not_before, rest.meta
            if rest.settle:
                job.settlement = {**dict.fromkeys(_SETTLED), "not_before": None}
                job.settlement["state"] = "pending"
        self._join(job)

    def _grant(self, job: ModelJob, event: LeaseGranted, *, is_named: bool) -> Iterator[str]:
        if job.lease is not None or job.on_hold or job.queue in self._paused:
            yield f"granted, but not free: {event}, {job}"
        if not is_named:
            lines = self._lines[job.state, job.queue]
            first = [next(iter(line)) for _, line in sorted(lines.items()) if line][:1]
            if first != [job.job_id]:
                came_first = [self.jobs[each] for each in first]
                yield f"granted out of turn: {event}, {job}, {came_first} came first"
        self._leave(job)
        job.lease = event.lease
        is_again = job.attempts and job.status == "running"
        job.note("claimed", job.attempts + 1 if is_again else None)

    def _change(self, job: ModelJob, event: AnyEvent) -> None:  # noqa: C901 - one case an event
        match event:
            case JobTransitioned():
                self._transition(job, event)
            case LeaseReleased():
                job.not_before = event.not_before or job.not_before
                self._end_try(job, "released", is_attempt=event.is_attempt)
                if event.hold and not job.on_hold:
                    job.on_hold = True
                    job.note("held")
                self._join(job)
            case LeaseLapsed():
                self._end_try(job, "lapsed", is_attempt=True)
                self._join(job)
            case JobHeld():
                self._leave(job)
                job.on_hold = True
                job.note("held")
            case JobResumed():
                job.on_hold = False
                job.note("resumed")
                self._join(job)
            case StopRequested():
                job.stop_requested = True
                job.note("stop_requested")
            case JobAnnotated():
                job.meta = event.meta
                job.note("annotated")
            case JobProgressed():
                job.progress = event.text
            case JobSettled():
                self._settle(job, event)
            case _:
                pass

    def _end_try(self, job: ModelJob, what: str, *, is_attempt: bool) -> None:
        job.lease = None
        if is_attempt and job.status == "running":
            job.attempts += 1
            job.note(what, job.attempts)
        else:
            job.note(what)

    def _transition(self, job: ModelJob, event: JobTransitioned) -> None:
        self._leave(job)
        if event.forced and job.lease is not None:
            job.note("released")
        if not event.keep_lease:
            job.lease = None
        is_answered = job.status == "awaiting_input" and event.provided_input is not None
        job.status = str(event.target)
        job.note("input_provided" if is_answered else "moved")
        if job.status == "awaiting_input":
            job.rounds.append([event.version + 1, None])
        elif is_answered:
            job.rounds[-1][1] = event.input_hash
        if job.rounds:
            job.rounds_at[event.version + 1] = [list(each) for each in job.rounds]
        if job.is_ended and job.settlement:
            job.settlement["state"] = "wanted" if job.status == "completed" else "closed"
        self._join(job)

    def _settle(self, job: ModelJob, event: JobSettled) -> None:
        settlement = job.settlement
        if settlement is None:
            return
        is_moved, was = event.to is not None, settlement["state"]
        is_told = event.on_chain_state not in (None, settlement["on_chain_state"])
        if is_moved:
            settlement["state"] = str(event.to)
            settlement["not_before"] = None
        for name in ("result_hash", "on_chain_state", "reason", "not_before"):
            if (value := getattr(event, name)) is not None:
                settlement[name] = value
        if event.ends_lease:
            job.lease = None
        if is_moved or is_told or event.reason:
            job.note("settled")
        if job.is_ended and (was != settlement["state"] or event.ends_lease):
            self._leave(job, was)
            self._join(job)

    def _line(self, job: ModelJob) -> dict[str, datetime]:
        return self._lines[job.state, job.queue][job.priority]

    def _leave(self, job: ModelJob, state: str | None = None) -> None:
        self._lines[state or job.state, job.queue][job.priority].pop(job.job_id, None)

    def _join(self, job: ModelJob) -> None:
        """Add a job to the end of its line, unless it is in it, or must not be claimed yet."""
        if job.lease is not None or job.on_hold:
            return
        if job.is_ended and job.state not in SETTLED_BY_CLAIM:
            return
        if job.due is not None and job.due > self._now:
            heappush(self._delayed, (job.due, job.index, job.job_id, job.state))
        else:
            self._line(job).setdefault(job.job_id, self._now)
