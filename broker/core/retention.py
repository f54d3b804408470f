"""Which finished jobs are forgotten, and when it is wiser not to forget any."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from tollgate.broker.core.timers import Instant, milliseconds
from tollgate.broker.repository.store import Jobs

CALM_MS: Final = 60_000
"""How long after the wall clock was set nothing is forgotten for its age."""
NOTICE_MS: Final = 100
"""How often to compare the clocks, but for before something is forgotten."""
STEP_MS: Final = 1_000
"""By how much the two clocks must disagree for one of them to have been set."""


class Retention:
    """Keeps finished jobs for `keep_ms`, and `keep_max` of them at most."""

    def __init__(self, keep_ms: int, keep_max: int) -> None:
        self._keep = timedelta(milliseconds=keep_ms)
        self._keep_max = keep_max
        self._last: Instant | None = None
        self._calm_from_ms = 0

    def over(self, jobs: Jobs, now: Instant) -> Iterator[str]:
        """Yield what is to be forgotten, oldest first; the caller removes each before the next."""
        self._compare(now)
        if now.mono_ms < self._calm_from_ms:
            return
        while (oldest := jobs.lanes.oldest_finished()) is not None:
            ended_at, job_id = oldest
            too_old = ended_at + self._keep <= now.wall
            if not too_old and not self.is_full(jobs):
                return
            yield job_id

    def is_full(self, jobs: Jobs) -> bool:
        """Return whether there are more finished jobs than are kept."""
        return jobs.lanes.count_finished() > self._keep_max

    def is_due_before(self, jobs: Jobs, when: datetime) -> bool:
        """Return whether a finished job is to be forgotten before then."""
        oldest = jobs.lanes.oldest_finished()
        return oldest is not None and (oldest[0] < when - self._keep or self.is_full(jobs))

    def due_in_ms(self, jobs: Jobs, now: Instant) -> int | None:
        """Return how long nothing is to be forgotten; None while there is nothing finished."""
        oldest = jobs.lanes.oldest_finished()
        if oldest is None:
            return None
        due_in_ms = 0
        if not self.is_full(jobs):
            due_in_ms = milliseconds(oldest[0] + self._keep - now.wall)
        return max(due_in_ms, self._calm_from_ms - now.mono_ms)

    def notice(self, now: Instant) -> None:
        """Compare the clocks now and then: what comes in between is seen the next time."""
        if self._last is None or now.mono_ms - self._last.mono_ms >= NOTICE_MS:
            self._compare(now)

    def _compare(self, now: Instant) -> None:
        """Compare the clocks with how they were the last time: one of them may have been set."""
        if self._last is not None:
            went_ms = (now.wall - self._last.wall) // timedelta(milliseconds=1)
            if abs(went_ms - (now.mono_ms - self._last.mono_ms)) > STEP_MS:
                self._calm_from_ms = now.mono_ms + CALM_MS
        self._last = now
