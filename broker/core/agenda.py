"""What there is to do without a message, and how long there is nothing."""

from collections.abc import Sequence

from tollgate.broker.core.context import Answer
from tollgate.broker.core.deadlines import FAR_MS
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.timers import Instant


class Agenda:
    """What time brings, and what commands that were parked are to be answered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._schedule = engine.schedule
        self._was_full = False
        """Whether the last batch ended before all was looked through for claims to be served."""

    @property
    def is_behind(self) -> bool:
        """Whether there are answers, or leases for who waits, that there was no room for."""
        return bool(self._engine.answers) or (self._was_full and self._engine.parked > 0)

    def pass_time(
        self, now: Instant, undelivered: Sequence[tuple[str, int]], *, writable: bool
    ) -> None:
        """Let happen what is due: waits end; if it can be written, leases, deadlines, old jobs."""
        self._schedule.time_out(now)
        if writable:
            self._schedule.release(undelivered, now)
            self._schedule.tick(now)

    def next_answer(self, lease_at: Instant | None) -> Answer | None:
        """Return what somebody parked is to be answered next; None if there is nothing for anybody.

        Who waits no more comes first, then claims, which are granted leases from `lease_at` on;
        without that none are.
        """
        engine = self._engine
        if engine.answers:
            return engine.answers.popleft()
        return engine.serve_claim(lease_at) if lease_at and engine.parked else None

    def foresee(self, now: Instant, *, is_full: bool = False, writable: bool = True) -> None:
        """Look ahead from the end of a batch, and before the first one: when is something due?

        `is_full` tells whether the batch had no more room for replies.
        """
        if writable:
            self._was_full = is_full
        self._schedule.foresee(now)

    def calm_ms(self, now: Instant, *, writable: bool = True) -> int:
        """Return how long there is nothing to do, as was foreseen; FAR_MS at most."""
        if writable and not self.is_behind:
            return self._schedule.calm_ms(now)
        due_in_ms = self.due_in_ms(now, writable=writable)
        return FAR_MS if due_in_ms is None else due_in_ms

    def due_in_ms(self, now: Instant, *, writable: bool = True) -> int | None:
        """Return how long there is nothing to do, looking at all there is; None for ever."""
        if self._engine.answers or (writable and self.is_behind):
            return 0
        return self._schedule.due_in_ms(now, writable=writable)

    def is_overdue(self, now: Instant, *, writable: bool = True) -> bool:
        """Return whether a deadline, a lease or a wait is over that is not decided yet."""
        if writable and self._schedule.calm_ms(now):
            return False
        return self._schedule.is_overdue(now, writable=writable)
