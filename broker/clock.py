"""The clocks of the broker's loop: its own pauses do not count against leases and waits.

A process that is frozen (SIGSTOP, `docker pause`), or that waits for a slow disk, finds that its
monotonic clock has gone on. Meanwhile it has read no message: workers may have touched their leases
in time. So the loop takes its pauses off the monotonic clock that the core sees.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from tollgate.broker.core.timers import Instant

PAUSE_MS: Final = 500
"""A longer gap in the loop is a pause."""
REST_MS: Final = 10_000
"""After so long without a pause, the next one counts in full."""
CATCH_UP_MS: Final = 5_000
"""The longest time that the clock stands while the loop reads what came during a pause."""
SET_MS: Final = 1_000
"""A wall clock that goes further than that beside the monotonic clock was set."""
MILLISECOND: Final = timedelta(milliseconds=1)
STEP_MS_MAX: Final = 10_000
"""Steps of the loop that are longer than that are counted together."""

_wall = partial(datetime.now, UTC)


class LoopClock:
    """The clocks of the loop, read at both ends of each sleep.

    `mono_ms` of an instant is the monotonic clock less the pauses. A pause is a turn of more than
    PAUSE_MS, or a sleep that ends more than PAUSE_MS after its limit. All of that sleep is taken
    off: a lease that would end with it has its time still. After a pause the clock stands until
    `caught_up`: the messages that came meanwhile are decided before any lease lapses.

    A disk that stalls again and again must not keep the leases of dead workers for ever. So a pause
    soon after another one counts only for as long as the loop has run between them: over any longer
    time the clock goes at half speed at least.
    """

    clocks_agree = True
    """Whether both clocks go alike, unless one of them is set: see `Deadlines.start`."""

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], datetime] = _wall,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall = wall
        self.machine_ms = monotonic_ns() // 1_000_000
        """The machine's monotonic clock at the last reading, pauses included."""
        self.is_behind = False
        """Whether the clock stands, because messages of the last pause are not taken yet."""
        self.long_steps: dict[int, int] = {}
        """How often the loop ran for so many milliseconds between two sleeps, from 1 up to
        STEP_MS_MAX; the shorter steps are not counted."""
        self.pauses = 0
        """How many pauses there were."""
        self._compared = self._wall(), self.machine_ms
        self._paused_ms = 0
        self._ran_from_ms = self.machine_ms - REST_MS
        """When the last pause ended."""

    def read(self, slept_max_ms: int = 0) -> Instant:
        """Return the instant now. Since the last reading there may have been a sleep that long."""
        machine_ms = self._monotonic_ns() // 1_000_000
        span_ms = machine_ms - self.machine_ms
        self.machine_ms = machine_ms
        if self.is_behind or span_ms > slept_max_ms:
            self._look_at(span_ms, slept_max_ms)
        return Instant(self._wall(), machine_ms - self._paused_ms)

    def set_by_ms(self) -> int:
        """Return by how much the wall clock was set since the last call, in ms; 0 if it was not.

        A machine that slept looks the same: its monotonic clock stood meanwhile.
        """
        wall, machine_ms = self._compared
        self._compared = now, now_ms = self._wall(), self._monotonic_ns() // 1_000_000
        set_by_ms = (now - wall) // MILLISECOND - (now_ms - machine_ms)
        return set_by_ms if abs(set_by_ms) > SET_MS else 0

    def caught_up(self) -> None:
        """Let the clock go on: the messages that came during a pause are taken."""
        self.is_behind = False

    def _look_at(self, span_ms: int, slept_max_ms: int) -> None:
        """Take note of a turn or a sleep that was longer than the clock can hide."""
        if not slept_max_ms and span_ms:
            step_ms = min(span_ms, STEP_MS_MAX)
            self.long_steps[step_ms] = self.long_steps.get(step_ms, 0) + 1
        is_pause = span_ms - slept_max_ms > PAUSE_MS
        if self.is_behind or is_pause:
            self._take_off(span_ms, is_pause=is_pause)

    def _take_off(self, span_ms: int, *, is_pause: bool) -> None:
        if is_pause:
            ran_ms = self.machine_ms - span_ms - self._ran_from_ms
            self._paused_ms += span_ms if ran_ms >= REST_MS else min(span_ms, ran_ms)
            self._ran_from_ms = self.machine_ms
            self.is_behind = True
            self.pauses += 1
        elif self.machine_ms - self._ran_from_ms < CATCH_UP_MS:
            self._paused_ms += span_ms
        else:
            self.is_behind = False
