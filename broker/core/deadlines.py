"""What happens by itself in time: leases lapse, deadlines pass, waits end, finished jobs go.

Leases and waits run by the monotonic clock, which nobody sets; deadlines and retention by the wall
clock. Each clock has a timeline with the earliest time at which something may be due, so that a
turn of the broker's loop makes one comparison a clock.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from tollgate.broker.core.context import Context
from tollgate.broker.core.events import JobPruned, JobTransitioned, LeaseLapsed, LeaseReleased
from tollgate.broker.core.lease_commands import end_wait
from tollgate.broker.core.limits import DUE_MAX, Limits
from tollgate.broker.core.timers import Instant
from tollgate.broker.repository.indexes import ended_at
from tollgate.broker.repository.job import Slot, StandingLease
from tollgate.domain.exceptions import Refusal
from tollgate.domain.status import FAILED, RUNNING

MILLISECOND: Final = timedelta(milliseconds=1)
FAR_MS: Final = 86_400_000
"""The longest time that `due_in_ms` returns."""
HOLD_MS: Final = 60_000
"""How long after the wall clock was set no finished job is removed."""
REMOVED_MAX: Final = 200
"""How many finished jobs one batch removes."""
STEP_MS: Final = 1_000
"""By how much the two clocks must disagree for one of them to have been set."""


class Deadlines:
    """Decides what is due, and tells how long nothing will be."""

    def __init__(self, context: Context, limits: Limits) -> None:
        self._context = context
        self._state = state = context.state
        self._lapses = limits.lapses
        self._keep = timedelta(milliseconds=limits.keep_finished_ms)
        self._keep_max = limits.max_finished
        self._clocks: Instant | None = None
        self._clocks_agree = True
        self._hold_until_ms = 0
        self._remove_at: datetime | None = None
        """When the oldest finished job is to be removed; None if there is none."""
        self._remove_at_ms: int | None = None
        """The same on the monotonic clock, while there are too many or the wall clock was set."""
        state.unpaid.delay = timedelta(milliseconds=limits.payment_grace_ms)
        state.wall.add_source(lambda: self._remove_at)
        state.mono.add_source(lambda: self._remove_at_ms)

    def start(self, now: Instant, *, clocks_agree: bool = True) -> None:
        """Look at the state that was replayed. Call this before the first batch.

        The clocks are compared with `now` from then on, if they agree as a rule: a difference shows
        that one of them was set, and no finished job is removed for a while.
        """
        self._clocks = now
        self._clocks_agree = clocks_agree
        with self._state.jobs:
            self._schedule_removal(now)
            self._state.wall.refresh()
            self._state.mono.refresh()

    def is_due(self, now: Instant, *, writable: bool = True) -> bool:
        """Return whether something may be due. Without room to write, only waits end."""
        if not writable:
            ends_ms = self._context.waiters.next_due_ms()
            return ends_ms is not None and ends_ms <= now.mono_ms
        return now.mono_ms >= self._state.mono.next_at or now.wall >= self._state.wall.next_at

    def due_in_ms(self, now: Instant, *, writable: bool = True) -> int:
        """Return how long nothing will be due, at most FAR_MS; 0 if something may be."""
        if not writable:
            ends_ms = self._context.waiters.next_due_ms()
            return FAR_MS if ends_ms is None else max(0, min(FAR_MS, ends_ms - now.mono_ms))
        span_ms = min(FAR_MS, self._state.mono.next_at - now.mono_ms)
        # Rounded up, so that a sleep does not end too early.
        wall_ms = -((now.wall - self._state.wall.next_at) // MILLISECOND)
        return max(0, min(span_ms, wall_ms))

    def decide_due(
        self, now: Instant, undelivered: Sequence[tuple[str, int]] = (), *, writable: bool = True
    ) -> bool:
        """Decide what is due at `now`, up to DUE_MAX of each kind; return whether more is left.

        `undelivered` are grants, by job and token, that their holders cannot have heard of: these
        leases end. Finished jobs that are left to remove do not count as left.
        """
        waiters, state, now_ms = self._context.waiters, self._state, now.mono_ms
        for parked in islice(waiters.due(now_ms), DUE_MAX):
            end_wait(self._context, parked)
        more = waiters.timers.is_due(now_ms)
        if writable:
            for job_id, token in undelivered:
                self._release(LeaseReleased(job_id, token), now)
            for lease in islice(state.leases.lapsed(now_ms), DUE_MAX):
                self._lapse(lease, now)
            for slot in islice(state.unpaid.due(now.wall), DUE_MAX):
                self._fail(slot, "not paid by pay_by_time", now)
            for slot in islice(state.unfinished.due(now.wall), DUE_MAX):
                self._fail(slot, "not finished by submit_result_time", now)
            state.jobs.queues.wake(state.at)
            more |= state.leases.timers.is_due(now_ms)
            more |= state.unpaid.is_due(now.wall) or state.unfinished.is_due(now.wall)
            self._remove_finished(now)
            state.wall.refresh()
        state.mono.refresh()
        return more

    def look_at_finished(self, now: Instant) -> None:
        """Note after a batch with changes when the oldest finished job is to be removed."""
        finished = self._state.jobs.finished.count
        is_scheduled = self._remove_at is not None or self._remove_at_ms is not None
        if finished and (finished > self._keep_max or not is_scheduled):
            self._schedule_removal(now)
            self._state.wall.refresh()
            self._state.mono.refresh()

    def _release(self, event: LeaseReleased, now: Instant) -> None:
        with suppress(Refusal):  # the lease has ended otherwise
            self._context.record_one(event, now.mono_ms)

    def _lapse(self, lease: StandingLease, now: Instant) -> None:
        job = lease.slot.job
        self._context.record_one(LeaseLapsed(job.job_id, lease.token), now.mono_ms)
        self._context.figures.lapses += 1
        self._context.figures.attempts += job.status is RUNNING
        if job.status is RUNNING and self._state.leases.lapses[job.job_id] >= self._lapses:
            self._fail(lease.slot, f"the lease lapsed {self._lapses} times", now)

    def _fail(self, slot: Slot, reason: str, now: Instant) -> None:
        job = slot.job
        at = self._context.origin.at
        event = JobTransitioned(job.job_id, job.version, FAILED, at, error=reason)
        self._context.record_one(event, now.mono_ms)

    def _remove_finished(self, now: Instant) -> None:
        """Remove the finished jobs that are too old or too many, oldest first.

        None while one of the clocks may be wrong: if they have gone on by different spans since the
        last time, one of them was set.
        """
        clocks, self._clocks = self._clocks, now
        if clocks is not None and self._clocks_agree:
            went_ms = (now.wall - clocks.wall) // MILLISECOND
            if abs(went_ms - (now.mono_ms - clocks.mono_ms)) > STEP_MS:
                self._hold_until_ms = now.mono_ms + HOLD_MS
        if now.mono_ms >= self._hold_until_ms:
            self._context.record([*map(JobPruned, self._to_remove(now))], now.mono_ms)
        self._schedule_removal(now)

    def _to_remove(self, now: Instant) -> list[str]:
        """Return the finished jobs that are too old or too many, REMOVED_MAX at most."""
        finished = self._state.jobs.finished
        too_many = finished.count - self._keep_max
        ended_by = now.wall - self._keep
        return [
            job.job_id
            for place, job in enumerate(finished.first(REMOVED_MAX))
            if place < too_many or ended_at(job) <= ended_by
        ]

    def _schedule_removal(self, now: Instant) -> None:
        self._remove_at = self._remove_at_ms = None
        finished = self._state.jobs.finished
        oldest = finished.oldest()
        if oldest is None:
            return
        if now.mono_ms < self._hold_until_ms:
            self._remove_at_ms = self._hold_until_ms
        elif finished.count > self._keep_max:
            self._remove_at_ms = now.mono_ms
        else:
            self._remove_at = oldest[0] + self._keep
