"""The time of a test, for a broker and its clients: it stands still until it is advanced."""

import time
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final

from tollgate.broker.clock import LoopClock
from tollgate.broker.core.timers import Instant
from tollgate.client.clock import BrokerClock

MILLISECOND: Final = timedelta(milliseconds=1)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""The broker adds spans to its time, and no date is later than the year 9999."""
NEVER_LATE: Final = LATEST.replace(year=9990)


class SteppedTime:
    """The time of day of a broker, and how much was advanced since its start."""

    def __init__(self, start: datetime) -> None:
        """Start at a time that has a zone. Raises ValueError."""
        if start.utcoffset() is None:
            raise ValueError(f"start has no time zone: say {start!r}.replace(tzinfo=UTC), or so")
        self._start = start.astimezone(UTC)
        self._advanced = timedelta()
        self._lock = Lock()
        self._check(self._start)

    @property
    def now(self) -> datetime:
        """The time of day."""
        return self._start + self._advanced

    @property
    def reading(self) -> tuple[datetime, int]:
        """The time of day, and the milliseconds that were advanced: both of one moment."""
        advanced = self._advanced
        return self._start + advanced, advanced // MILLISECOND

    def advance(self, by: float | timedelta) -> None:
        """Add seconds, or a timedelta, to the time. Raises ValueError."""
        try:
            span = by if isinstance(by, timedelta) else timedelta(seconds=by)
        except (OverflowError, ValueError):
            raise ValueError(f"a time cannot be advanced by {by!r} seconds") from None
        if span < timedelta():
            raise ValueError(f"time cannot go back, as by {by!r}")
        with self._lock:
            if span > LATEST - self.now:
                raise ValueError(f"the time of a broker in a test is before the year {LATEST.year}")
            self._advanced += span

    def begin_at(self, moment: datetime) -> None:
        """Let it be `moment`, if that is later: a journal may come from a future."""
        with self._lock:
            if moment > self.now:
                self._check(moment)
                self._start = moment - self._advanced

    @staticmethod
    def _check(now: datetime) -> None:
        if now > LATEST:
            raise ValueError(f"the time of a broker in a test is before the year {LATEST.year}")


class SteppedClock(LoopClock):
    """The clocks of a broker's loop, by a time that is advanced.

    Its time of day stands. The monotonic clock runs on, so that waits end as always, and takes part
    in each advance. That is added after the pauses were taken off: an advance is no pause.
    """

    clocks_agree = False

    def __init__(self, stepped: SteppedTime) -> None:
        super().__init__()
        self._stepped = stepped
        self.last = Instant(stepped.now, 0)
        """What was read last; for other threads."""

    def read(self, slept_max_ms: int = 0) -> Instant:
        """See `LoopClock`."""
        instant = super().read(slept_max_ms)
        now, advanced_ms = self._stepped.reading
        self.last = Instant(now, instant.mono_ms + advanced_ms)
        return self.last


class SharedClock(BrokerClock):
    """What clients in this process know of the broker's time: all of it, at any moment.

    So they need not measure it, nothing is worth a warning, and what they compute from it
    (`delay_s`) is exact. Their requests are valid for ever: a test that advances the time while
    they are under way does not mean that they are late.
    """

    def __init__(self, stepped: SteppedTime) -> None:
        super().__init__("", lambda _: None)
        self._stepped = stepped
        self.offset_s = NEVER_LATE.timestamp() - time.time()

    def time(self, wall: float) -> float:  # noqa: ARG002 - this machine's time says nothing here
        """See `BrokerClock`."""
        return self._stepped.now.timestamp()

    def measure(self, told: datetime, asked_at: tuple[float, float], now: float) -> None:
        """Measure nothing."""

    def outrun(self) -> None:
        """Assume nothing."""
