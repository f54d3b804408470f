"""Follows the events of a broker: what to ask for next, and where to go on after each answer."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tollgate.client.commands import AnyStatus, JobId, events_page
from tollgate.domain.commands import Events
from tollgate.domain.results import EventsResult, JobEvent

SLICE_MS: Final = 15_000
"""How long one request waits for an event: the broker may restart in between."""


class Following:
    """Reads the events after a position, page by page.

    `is_done` becomes true after the newest one, unless more are waited for (`follow`).
    `patience_s` is how long the broker may take to answer after the end of a wait.
    """

    def __init__(  # noqa: PLR0913 - one argument a field
        self,
        after: str | None,
        *,
        queues: str | Sequence[str] | None,
        statuses: AnyStatus | Sequence[AnyStatus] | None,
        job_ids: JobId | Sequence[JobId] | None,
        texts: bool,
        follow: bool,
        page: int,
        patience_s: float,
    ) -> None:
        """Begin after a position; None is now, when the first request is answered.

        Raises ArgumentError.
        """
        self._page = events_page(
            after, limit=page, queues=queues, statuses=statuses, job_ids=job_ids, texts=texts
        )
        self._follow = follow
        self._patience_s = patience_s
        self.is_done = False

    def request(self, now: float) -> tuple[Events, float]:
        """Return what to ask for next, and the time by which it must be answered."""
        # Without a position nothing is waited for: a repeat of such a wait would begin later.
        wait_ms = SLICE_MS if self._follow and self._page.after is not None else 0
        self._page = msgspec.structs.replace(self._page, wait_ms=wait_ms)
        return self._page, now + wait_ms / 1_000 + self._patience_s

    def take(self, result: EventsResult) -> list[JobEvent]:
        """Return the events of an answer; the next request goes on after them."""
        self._page = msgspec.structs.replace(self._page, after=result.next)
        self.is_done = not self._follow and result.next == result.as_of
        return result.events
