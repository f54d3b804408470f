"""What happens by itself in time: leases lapse, deadlines pass, waits end, finished jobs go.

Leases and waits run by the monotonic clock, which nobody sets; deadlines by the wall clock. Delays
and retention run by the time of records, `State.at`. It is the wall clock's, unless that was set
back: then it is later, and goes on by the monotonic clock.

Each of the three has a timeline with the earliest time at which something may be due, so that a
turn of the broker's loop makes one comparison for each.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from tollgate.broker.core.context import BEHIND_US_A_MS, Context
from tollgate.broker.core.events import JobPruned, JobTransitioned, LeaseLapsed, LeaseReleased
from tollgate.broker.core.limits import DUE_MAX, Limits
from tollgate.broker.core.timers import Instant, later
from tollgate.broker.repository.indexes import ended_at
from tollgate.broker.repository.job import Slot, StandingLease
from tollgate.domain.exceptions import Refusal
from tollgate.domain.status import FAILED, RUNNING

MILLISECOND: Final = timedelta(milliseconds=1)
FAR_MS: Final = 86_400_000
"""The longest time that `due_in_ms` returns."""
LOOK_MS: Final = 1_000
"""How often to compare the clocks while the wall clock is behind the time of records."""
REMOVED_MAX: Final = 200
"""How many finished jobs one batch removes."""
SET_SHARE: Final = 10
"""By more than a tenth of the time that finished jobs are kept, and by SET_MIN at least, must the
two clocks disagree, or a job be overdue, for its age to mean nothing."""
SET_MIN: Final = timedelta(minutes=1)


class Deadlines:
    """Decides what is due, and tells how long nothing will be."""

    def __init__(self, context: Context, limits: Limits) -> None:
        self._context = context
        self._state = state = context.state
        self._lapses = limits.lapses
        self._keep = timedelta(milliseconds=limits.keep_finished_ms)
        self._keep_max = limits.max_finished
        self._set_min = max(SET_MIN, self._keep / SET_SHARE)
        self._clocks: Instant | None = None
        self._clocks_agree = True
        self._look_at_ms = 0
        self._remove_at: datetime | None = None
        """When the oldest finished job is to be removed; None if there is none."""
        self._remove_at_ms: int | None = None
        """The same on the monotonic clock, while there are too many."""
        state.unpaid.delay = timedelta(milliseconds=limits.payment_grace_ms)
        state.record_time.add_source(lambda: self._remove_at)
        state.mono.add_source(lambda: self._remove_at_ms)

    def start(self, now: Instant, *, clocks_agree: bool = True) -> None:
        """Look at the state that was replayed. Call this before the first batch.

        The clocks are compared from then on, if they agree as a rule. The first comparison is with
        the last record: the broker may have been down since, or the clock may have been set.
        """
        self._clocks = Instant(self._state.at, now.mono_ms) if self._state.records else now
        self._clocks_agree = clocks_agree
        with self._state.jobs:
            self._schedule_removal(now)
            self._state.wall.refresh()
            self._state.record_time.refresh()
            self._state.mono.refresh()

    def is_due(self, now: Instant, *, writable: bool = True) -> bool:
        """Return whether something may be due. Without room to write, only waits end."""
        if not writable:
            ends_ms = self._context.waiters.next_due_ms()
            return ends_ms is not None and ends_ms <= now.mono_ms
        state = self._state
        if now.mono_ms >= state.mono.next_at or now.wall >= state.wall.next_at:
            return True
        if now.wall >= state.at:
            return now.wall >= state.record_time.next_at
        at = self._context.time_at(now)
        return at >= state.record_time.next_at or now.mono_ms >= self._look_at_ms

    def due_in_ms(self, now: Instant, *, writable: bool = True) -> int:
        """Return how long nothing will be due, at most FAR_MS; 0 if something may be."""
        if not writable:
            ends_ms = self._context.waiters.next_due_ms()
            return FAR_MS if ends_ms is None else max(0, min(FAR_MS, ends_ms - now.mono_ms))
        state = self._state
        records_next_at = state.record_time.next_at
        span_ms = min(FAR_MS, state.mono.next_at - now.mono_ms)
        # Rounded up, so that a sleep does not end too early.
        wall_ms = -((now.wall - min(state.wall.next_at, records_next_at)) // MILLISECOND)
        if now.wall < state.at:  # the time of records goes on slowly; the wall clock may pass it
            slow = timedelta(microseconds=BEHIND_US_A_MS)
            span_ms = min(span_ms, -((self._context.time_at(now) - records_next_at) // slow))
            span_ms = min(span_ms, self._look_at_ms - now.mono_ms)
        return max(0, min(span_ms, wall_ms))

    def decide_due(
        self, now: Instant, undelivered: Sequence[tuple[str, int]] = (), *, writable: bool = True
    ) -> bool:
        """Decide what is due at `now`, up to DUE_MAX of each kind; return whether more is left.

        `undelivered` are grants, by job and token, that their holders cannot have heard of: these
        leases end. Finished jobs that are left to remove do not count as left.
        """
        state, now_ms = self._state, now.mono_ms
        self._look_at_ms = now_ms + LOOK_MS
        more = self._end_waits(now_ms)
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
            state.record_time.refresh()
        state.mono.refresh()
        return more

    def _end_waits(self, now_ms: int) -> bool:
        """Answer parked commands whose time is over; return whether more are left.

        Those that ended before that are answered first: none of them was in vain.
        """
        context, waiters = self._context, self._context.waiters
        if not waiters.endings:
            for parked in islice(waiters.due(now_ms), DUE_MAX):
                context.end_wait(parked)
                if context.ends_left <= 0:
                    break
        return not waiters.endings and waiters.timers.is_due(now_ms)

    def look_at_finished(self, now: Instant) -> None:
        """Note after a batch with changes when the oldest finished job is to be removed."""
        finished = self._state.jobs.finished.count
        if not finished:
            return
        is_scheduled = self._remove_at is not None or self._remove_at_ms is not None
        if finished > self._keep_max or not is_scheduled:
            self._schedule_removal(now)
            self._state.record_time.refresh()
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
        """Remove the finished jobs that are too old or too many, oldest first."""
        self._look_at_clocks(now)
        self._context.record([*map(JobPruned, self._to_remove())], now.mono_ms)
        self._schedule_removal(now)

    def _look_at_clocks(self, now: Instant) -> None:
        """Let finished jobs grow old anew if their ages may be wrong: no result may vanish early.

        So it is if one of the clocks was set: they have gone on by different spans. It also is if
        the oldest job should have been removed long ago: the broker was down then, or one of the
        two times was a wrong clock's.
        """
        clocks, self._clocks = self._clocks, now
        oldest = self._state.jobs.finished.oldest()
        if not self._clocks_agree or clocks is None or oldest is None:
            return
        at = self._state.at
        went = (now.mono_ms - clocks.mono_ms) * MILLISECOND
        is_set = abs(now.wall - clocks.wall - went) > self._set_min
        is_overdue = at - max(oldest[0], self._context.aged_from) > self._keep + self._set_min
        if is_set or is_overdue:
            self._context.aged_from = at

    def _to_remove(self) -> list[str]:
        """Return the finished jobs that are too old or too many, REMOVED_MAX at most."""
        finished = self._state.jobs.finished
        too_many = finished.count - self._keep_max
        aged = self._state.at - self._keep
        ended_by = aged if self._context.aged_from <= aged else None
        return [
            job.job_id
            for place, job in enumerate(finished.first(REMOVED_MAX))
            if place < too_many or (ended_by is not None and ended_at(job) <= ended_by)
        ]

    def _schedule_removal(self, now: Instant) -> None:
        self._remove_at = self._remove_at_ms = None
        finished = self._state.jobs.finished
        oldest = finished.oldest()
        if oldest is None:
            return
        if finished.count > self._keep_max:
            self._remove_at_ms = now.mono_ms
        else:
            self._remove_at = later(max(oldest[0], self._context.aged_from), self._keep)
