"""Reads the payments that changed, in the order in which they changed, and misses none."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final

from tollgate.masumi.api import PaymentService
from tollgate.masumi.payment import Payment

OVERLAP: Final = timedelta(minutes=1)
"""How far each round goes back: the service may show a change later than it dates it."""
REMEMBERED_MAX: Final = 100_000
"""How many changes of the overlap are remembered, so that none is handled twice."""


class Feed:
    """The changes of the payments of one source, from `since` on.

    A payment that changes while pages are read moves to their end, so it is met again there. The
    position is moved only by `done`: what was read and not handled is read again.
    """

    def __init__(self, service: PaymentService, source_type: str, since: datetime) -> None:
        self._service = service
        self._source_type = source_type
        self._since = _text(since)
        self._handled: dict[str, str] = {}
        """When payments changed that were handled, by id; oldest first."""

    async def pages(self) -> AsyncIterator[list[Payment]]:
        """Yield what has changed since the last round, a page at a time."""
        since, after_id = _earlier(self._since), ""
        while True:
            page = await self._service.changes(self._source_type, since, after_id or None)
            news = [each for each in page.payments if self._handled.get(each.id) != each.changed_at]
            if news:
                yield news
            last = page.payments[-1] if page.payments else None
            if page.is_last or last is None or (last.changed_at, last.id) == (since, after_id):
                return
            since, after_id = last.changed_at, last.id

    def done(self, payments: list[Payment]) -> None:
        """Note that the payments of a page were handled."""
        now = _text(self._service.now())
        for payment in payments:
            self._handled.pop(payment.id, None)  # to the end
            self._handled[payment.id] = payment.changed_at
            # A change that is dated in the future must not hide those that come before that time.
            self._since = max(self._since, min(payment.changed_at, now))
        excess = len(self._handled) - REMEMBERED_MAX
        for each in list(self._handled)[: max(excess, 0)]:
            del self._handled[each]


def _text(time: datetime) -> str:
    """Return a time as the service writes it: such texts sort as their times do."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1_000:03d}Z"


def _earlier(time: str) -> str:
    return _text(datetime.fromisoformat(time) - OVERLAP)
