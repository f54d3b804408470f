"""Repeats a round of work until it is stopped: pauses, hints, and trouble that passes."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from tollgate.client.errors import may_pass
from tollgate.domain.exceptions import TollgateError
from tollgate.masumi.api import ServiceFailedError, ServiceRefusedError

log = logging.getLogger("tollgate.payments")

BACKOFF_S_MIN, BACKOFF_S_MAX = 1.0, 60.0
HINT_S: Final = 0.2
"""Shortest time between two rounds, however many hints come."""


class Trouble:
    """Pauses that grow while something goes wrong, and one log line for it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pause_s = 0.0

    def after(self, fault: Exception) -> float:
        """Return how long to wait after an error, in s: longer each time, and random in part."""
        if not self._pause_s:
            log.warning("%s: trying again: %s", self._what, fault)
        self._pause_s = min(max(BACKOFF_S_MIN, 2 * self._pause_s), BACKOFF_S_MAX)
        jitter_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        asked_s = fault.retry_after_s if isinstance(fault, ServiceFailedError) else None
        return max(jitter_s, asked_s or 0.0)

    def over(self) -> None:
        """Note that all went well."""
        if self._pause_s:
            log.info("%s: all is well again", self._what)
            self._pause_s = 0.0


class Rounds:
    """Repeats `work`, which returns whether more is left; otherwise it waits for `wait_s`."""

    def __init__(self, what: str, work: Callable[[], Awaitable[bool]], wait_s: float) -> None:
        self._work = work
        self._wait_s = wait_s
        self._trouble = Trouble(what)
        self._hint = asyncio.Event()
        self._stopping = asyncio.Event()

    def hint(self) -> None:
        """Begin the next round at once, unless something is wrong."""
        self._hint.set()

    def stop(self) -> None:
        """Finish the round that is going on, and return from `run`."""
        self._stopping.set()
        self._hint.set()

    async def run(self) -> None:
        """Work until `stop`. Raises what another try would meet again."""
        while not self._stopping.is_set():
            self._hint.clear()
            begun_at = monotonic()
            try:
                has_more = await self._work()
            except (ServiceFailedError, ServiceRefusedError, TollgateError) as fault:
                if not _may_pass(fault):
                    raise
                await _wait(self._stopping, self._trouble.after(fault))
                continue
            self._trouble.over()
            if not has_more:
                left_s = self._wait_s - (monotonic() - begun_at)
                await _wait(self._stopping, min(HINT_S, left_s))
                await _wait(self._hint, left_s - HINT_S)


def _may_pass(fault: Exception) -> bool:
    if isinstance(fault, ServiceRefusedError):
        return not fault.is_ours
    return not isinstance(fault, TollgateError) or may_pass(fault)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer than this."""
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            await event.wait()
    except TimeoutError:
        return
