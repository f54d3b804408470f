"""Whether the broker answers: how long to pause, and one log line an outage."""

import asyncio
import logging
import random
from time import monotonic
from typing import Final

from tollgate.client.errors import OutcomeUnknown
from tollgate.domain.exceptions import NotAuthorizedError, TollgateError

log = logging.getLogger("tollgate.worker")

PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0
AGAIN_S: Final = 10.0
"""How long into an outage another reason for it is worth another line."""


def one_line(text: object) -> str:
    """Return a text that fits in one log line, without terminal control characters."""
    line = " ".join(str(text).split())
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= 200 else line[:199] + "…"  # noqa: PLR2004 - a line, roughly


def refusal_line(refusal: TollgateError) -> str:
    """Return why the broker takes nothing from this worker, and what to do about it."""
    if isinstance(refusal, NotAuthorizedError):
        return f"{one_line(refusal)}; start it with a key that is valid and has the role for this"
    return one_line(refusal)


class BrokerStatus:
    """Whether the broker at `endpoint` answers; shared by all parts of a worker."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._is_lost = False
        self._lost_at = self._back_at = 0.0
        self._told = set[type[TollgateError]]()
        """The reasons that the log has for this outage."""

    def lost(self, fault: TollgateError, asked_at: float) -> None:
        """Note that the request sent at `asked_at` (monotonic, in s) failed and may be retried.

        A request sent before the broker came back says nothing about the broker of now. Its
        failure is not logged as another outage. A long one is logged again if its reason changes: a
        broker that left in order may be back, and not know the key.
        """
        now = monotonic()
        if self._is_lost:
            # A request that was sent and not answered may have met the broker as it came back.
            is_told = type(fault) in self._told or isinstance(fault, OutcomeUnknown)
            if is_told or now < self._lost_at + AGAIN_S:
                return
        elif asked_at < self._back_at:
            return
        else:
            self._is_lost, self._lost_at = True, now
            self._told.clear()
        self._told.add(type(fault))
        log.warning(
            "the broker at %s takes no requests (%s): waiting for it",
            self._endpoint,
            one_line(fault),
        )

    def back(self) -> None:
        """Note that the broker answered."""
        if self._is_lost:
            self._is_lost = False
            self._back_at = monotonic()
            log.info("the broker at %s is back", self._endpoint)


class Backoff:
    """Pauses between attempts, each twice as long as the last, up to `PAUSE_S_MAX`.

    Jitter keeps workers that lost the same broker from returning all at once.
    """

    def __init__(self) -> None:
        self._pause_s = PAUSE_S_MIN

    def next_s(self) -> float:
        """Return the next pause, in s."""
        pause_s = self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - not a secret
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        return pause_s

    async def wait(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.next_s())
