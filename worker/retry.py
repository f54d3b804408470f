"""Whether the broker answers: said once when it stops and once when it is back, and how to wait."""

import asyncio
import logging
import random
from typing import Final

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.domain.exceptions import Refusal, TollgateError

log = logging.getLogger("tollgate.worker")

PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0


def is_passing(fault: TollgateError) -> bool:
    """Return whether the same request may fare better later."""
    if isinstance(fault, Refusal):
        return fault.retryable
    return isinstance(fault, OutcomeUnknown | BrokerUnreachableError)


def one_line(text: object) -> str:
    """Return a text as it fits in a line of the log, without what would steer a terminal."""
    line = " ".join(str(text).split())
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= 200 else line[:199] + "…"  # noqa: PLR2004 - a line, roughly


class Link:
    """What all parts of a worker know together about the broker at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._is_lost = False

    def lost(self, fault: TollgateError) -> None:
        """Note that a request failed for a reason that may pass."""
        if not self._is_lost:
            self._is_lost = True
            log.warning(
                "the broker at %s takes no requests (%s): waiting for it",
                self._endpoint,
                one_line(fault),
            )

    def back(self) -> None:
        """Note that the broker answered."""
        if self._is_lost:
            self._is_lost = False
            log.info("the broker at %s is back", self._endpoint)


class Pauses:
    """Ever longer pauses between attempts, up to `PAUSE_S_MAX`.

    They are of random length, so that the workers that lost a broker do not all return at once.
    """

    def __init__(self) -> None:
        self._pause_s = PAUSE_S_MIN

    async def wait(self, stop: asyncio.Event | None = None) -> None:
        """Let a pause go by; not to its end if `stop` is set meanwhile."""
        pause_s = self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - nothing to be guessed
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        if stop is None:
            await asyncio.sleep(pause_s)
        else:
            await asyncio.wait({waiting := asyncio.ensure_future(stop.wait())}, timeout=pause_s)
            waiting.cancel()
