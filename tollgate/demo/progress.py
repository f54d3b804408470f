"""Holds the state of a running demonstration: what the picture shows."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Final

import msgspec

from tollgate.terminal.text import one_line

if TYPE_CHECKING:
    from tollgate.domain.models import Job

RECENT: Final = 5
RATE_WINDOW_S: Final = 2.0

_REASONS: Final = (
    ("payment refused", "payment refused"),
    ("not paid by pay_by_time", "not paid in time"),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended, in a few words."""

    job_id: str
    is_completed: bool
    took_s: float
    gist: str


@dataclass(slots=True)
class Progress:
    """The state of the demonstration."""

    jobs: int
    seed: int
    workers: int
    phase: str = "starting"
    elapsed_s: float = 0.0
    created: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    round_trips_ms: list[float] = field(default_factory=list)
    recent: deque[Ended] = field(default_factory=lambda: deque(maxlen=RECENT))
    ended: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    ended_at_s: deque[float] = field(default_factory=deque)

    def add_ended(self, job: "Job") -> None:
        """Record that a job has ended."""
        self.ended += 1
        if job.error is not None:
            self.failures[reason(job.error)] += 1
        self.recent.appendleft(
            Ended(job.job_id, job.status == "completed", seconds_taken(job), gist(job))
        )
        self.ended_at_s.append(self.elapsed_s)

    def rate(self) -> float:
        """Return the jobs ended per second: over the last seconds, and at the end over all."""
        if self.phase == "done":
            return self.ended / max(self.elapsed_s, 0.1)
        since = self.elapsed_s - RATE_WINDOW_S
        while self.ended_at_s and self.ended_at_s[0] < since:
            self.ended_at_s.popleft()
        return len(self.ended_at_s) / max(min(self.elapsed_s, RATE_WINDOW_S), 0.1)


def seconds_taken(job: "Job") -> float:
    """Return the time from a job's creation to its end, by the broker's clock."""
    return (job.updated_at - job.created_at).total_seconds()


def reason(error: str) -> str:
    """Return why a job failed, in words that are the same for many jobs."""
    for text, label in _REASONS:
        if error.startswith(text):
            return label
    return f"handler: {one_line(error)}"


def gist(job: "Job") -> str:
    """Return a job's result in a few words: the default handler describes texts as JSON."""
    try:
        found = msgspec.json.decode(job.result or "")
        return one_line(f"{found['words']} words, {found['script']}: {found['normalised']}")
    except (msgspec.DecodeError, KeyError, TypeError):
        return one_line(job.result or job.error or "")


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the smallest value that at least `percent` of them do not exceed; 0 if empty."""
    ranked = sorted(values)
    if not ranked:
        return 0.0
    return ranked[ceil(len(ranked) * percent / 100) - 1]
