"""How far the broker's clock is ahead of this machine's; holds no clock itself."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

DIFFERENCE_S: Final = 5.0
"""A larger difference is worth a warning: times that users compare do not fit together."""
UNTOLD_S: Final = 100 * 366 * 86_400.0
"""How far ahead the clock is taken to be of a broker that refuses requests before their deadline
as expired, and does not tell its time: as far as needed."""

shared_clocks: Final[dict[str, "BrokerClock"]] = {}
"""Clocks of brokers in this process, which need not be measured, by endpoint: see
`tollgate.testing`."""


def clock_of(broker: str, warn: Callable[[str], None]) -> "BrokerClock":
    """Return the clock of a broker, for one client. `broker` is its name in warnings."""
    return shared_clocks.get(broker) or BrokerClock(broker, warn)


class BrokerClock:
    """The difference of two clocks, measured by each `hello` that tells the broker's time."""

    def __init__(self, broker: str, warn: Callable[[str], None]) -> None:
        """Take both clocks as equal until they are measured. `broker` is its name in warnings."""
        self.offset_s = 0.0
        """How far the broker's clock is ahead of this machine's."""
        self._broker = broker
        self._warn = warn
        self._is_warned = False

    def time(self, wall: float) -> float:
        """Return the broker's time of day at the time `wall` of this machine, as far as known."""
        return wall + self.offset_s

    def measure(self, told: datetime, asked_at: tuple[float, float], now: float) -> None:
        """Take the time that the broker told between `asked_at` and `now`.

        `asked_at` is a monotonic time and the time of day at it, `now` is monotonic. The broker is
        taken to have read its clock in the middle. It may have been half of the round trip off, so
        an offset that was known before and lies within that stays.
        """
        then, wall = asked_at
        half_s = (now - then) / 2
        offset_s = told.timestamp() - (wall + half_s)
        if abs(offset_s - self.offset_s) <= half_s:
            return
        self.offset_s = offset_s
        if abs(offset_s) - half_s > DIFFERENCE_S:
            side = "ahead of" if offset_s > 0 else "behind"
            self._warn_once(f"{abs(offset_s):.0f} s {side} this machine's")

    def outrun(self) -> None:
        """Take a clock that is not told to be as far ahead as can be."""
        self.offset_s = UNTOLD_S
        self._warn_once("ahead of this machine's, or one of them was set")

    def _warn_once(self, difference: str) -> None:
        if not self._is_warned:
            self._is_warned = True
            self._warn(
                f"the clock of the broker at {self._broker} is {difference}: times of jobs are the"
                " broker's, and requests are sent with their `valid_until` in the broker's time"
            )
