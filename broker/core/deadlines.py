"""What happens by itself in time, and how long nothing will."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from tollgate.broker.core.context import Desk
from tollgate.broker.core.events import JobPruned, JobTransitioned, LeaseLapsed, LeaseReleased
from tollgate.broker.core.lease_commands import time_out
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.retention import Retention
from tollgate.broker.core.timers import Instant, milliseconds
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.exceptions import Refusal
from tollgate.domain.status import JobStatus

DUE_MAX: Final = 1_000
"""How many deadlines of a kind are decided at once; what is left comes with the next call."""
FAR_MS: Final = 86_400_000
"""How far ahead is looked at most."""


class Schedule:
    """Leases that lapse, deadlines that pass, waits that end, finished jobs that are forgotten."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self._desk = desk
        self._lapses = limits.lapses
        self._grace = timedelta(milliseconds=limits.payment_grace_ms)
        self._retention = Retention(limits.keep_finished_ms, limits.max_finished)
        self._calm_until: Instant | None = None
        self._unpaid_until = datetime.min.replace(tzinfo=UTC)
        """With that `pay_by_time` a job fails then."""

    def tick(self, now: Instant) -> None:
        """Decide what time has brought: lapsed leases, passed deadlines, old jobs to forget."""
        desk, state = self._desk, self._desk.state
        for job_id, token in islice(state.leases.lapsed(now.mono_ms), DUE_MAX):
            desk.record(LeaseLapsed(job_id, token), now.mono_ms)
            if state.leases.lapses[job_id] >= self._lapses:
                self._fail_worn_out(job_id, now)
        for job in islice(state.unpaid.due(now.wall - self._grace), DUE_MAX):
            self._fail(job, "not paid by pay_by_time", now)
        for job in islice(state.unfinished.due(now.wall), DUE_MAX):
            self._fail(job, "not finished by submit_result_time", now)
        for job_id in islice(self._retention.over(state.jobs, now), DUE_MAX):
            desk.record(JobPruned(job_id), now.mono_ms)

    def time_out(self, now: Instant) -> None:
        """Answer the parked commands whose time is over."""
        for parked in islice(self._desk.waiters.due(now.mono_ms), DUE_MAX):
            time_out(self._desk, parked)

    def release(self, grants: Sequence[tuple[str, int]], now: Instant) -> None:
        """End leases, by job and token, whose holders cannot have heard of them."""
        for job_id, token in grants:
            try:
                self._desk.record(LeaseReleased(job_id, token), now.mono_ms)
            except Refusal:
                continue  # over already, by a deadline or by its time

    def due_in_ms(self, now: Instant, *, writable: bool = True) -> int | None:
        """Return how long nothing will happen by itself; None for ever, 0 if something is due.

        Without room to write, nothing happens but the end of a wait.
        """
        waits = self._waits_ms(now, writable=writable)
        forgets_in_ms = self._retention.due_in_ms(self._desk.state.jobs, now)
        if writable and forgets_in_ms is not None:
            waits.append(forgets_in_ms)
        return max(0, min(waits)) if waits else None

    def foresee(self, now: Instant) -> None:
        """Look when something will be due, after a batch that was decided at `now`."""
        self._retention.notice(now)
        is_moved, self._desk.is_moved = self._desk.is_moved, False
        until = self._calm_until
        if until is not None and self.calm_ms(now) and not (is_moved and self._is_sooner(until)):
            return
        due_in_ms = self.due_in_ms(now)
        span_ms = FAR_MS if due_in_ms is None else min(due_in_ms, FAR_MS)
        wall = now.wall + timedelta(milliseconds=span_ms)
        self._calm_until = Instant(wall, now.mono_ms + span_ms)
        self._unpaid_until = wall - self._grace

    def _is_sooner(self, until: Instant) -> bool:
        """Return whether anything has come up that is due before `until`."""
        state, wall, mono_ms = self._desk.state, until.wall, until.mono_ms
        ends_ms, lapses_ms = self._desk.waiters.next_due_ms(), state.leases.next_end_ms()
        unpaid, unfinished = state.unpaid.next(), state.unfinished.next()
        return (
            (unpaid is not None and unpaid < self._unpaid_until)
            or (unfinished is not None and unfinished < wall)
            or (ends_ms is not None and ends_ms < mono_ms)
            or (lapses_ms is not None and lapses_ms < mono_ms)
            or self._retention.is_due_before(state.jobs, wall)
        )

    def calm_ms(self, now: Instant) -> int:
        """Return how long nothing will be due, as far as was foreseen; 0 if it must be looked at.

        By both clocks: either may have been the one by which it was foreseen.
        """
        until = self._calm_until
        if until is None or now.wall >= until.wall:
            return 0
        return max(0, until.mono_ms - now.mono_ms)

    def is_overdue(self, now: Instant, *, writable: bool = True) -> bool:
        """Return whether something is due that a command could run into: all but forgetting."""
        desk, state = self._desk, self._desk.state
        ends_ms = desk.waiters.next_due_ms()
        if ends_ms is not None and ends_ms <= now.mono_ms:
            return True
        if not writable:
            return False
        ends_ms = state.leases.next_end_ms()
        if ends_ms is not None and ends_ms <= now.mono_ms:
            return True
        unpaid, unfinished = state.unpaid.next(), state.unfinished.next()
        return (unpaid is not None and now.wall - unpaid >= self._grace) or (
            unfinished is not None and unfinished <= now.wall
        )

    def _waits_ms(self, now: Instant, *, writable: bool) -> list[int]:
        desk, state = self._desk, self._desk.state
        waits: list[int] = []
        if (due_ms := desk.waiters.next_due_ms()) is not None:
            waits.append(due_ms - now.mono_ms)
        if writable:
            if (end_ms := state.leases.next_end_ms()) is not None:
                waits.append(end_ms - now.mono_ms)
            if (when := state.unpaid.next()) is not None:
                waits.append(milliseconds(when - now.wall + self._grace))  # the sum may be no date
            if (when := state.unfinished.next()) is not None:
                waits.append(milliseconds(when - now.wall))
        return waits

    def _fail_worn_out(self, job_id: str, now: Instant) -> None:
        job = self._desk.state.jobs.get(job_id)
        if job.status is JobStatus.RUNNING:
            self._fail(job, f"the lease lapsed {self._lapses} times", now)

    def _fail(self, job: StoredJob, reason: str, now: Instant) -> None:
        at = max(now.wall, job.updated_at)
        event = JobTransitioned(job.job_id, job.version, JobStatus.FAILED, at, error=reason)
        self._desk.record(event, now.mono_ms)
