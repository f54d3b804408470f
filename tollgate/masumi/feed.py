"""Reads the payments that changed, in the order in which they changed, and misses none."""

from datetime import datetime, timedelta
from typing import Final

from tollgate.masumi.api import PAGE, AnswerTooLargeError, Page, PaymentService
from tollgate.masumi.payment import Payment, Position

OVERLAP: Final = timedelta(minutes=1)
"""How far each reading goes back: the service may show a change later than it dates it."""
REMEMBERED_MAX: Final = 100_000
"""How many changes of the overlap are remembered, so that none is handled twice."""


class Feed:
    """The changes of the payments of one source, from `since` on.

    A payment that changes while pages are read moves to their end, so it is met again there. The
    position is moved only by `done`: what was read and not handled is read again.
    """

    def __init__(self, service: PaymentService, source_type: str, since: datetime) -> None:
        self.source_type = source_type
        self._service = service
        self._since = _text(since)
        """All that is dated before this was handled, but for what shows late."""
        self._begun_at = self._since
        """The service's time when this reading began."""
        self._at: Position | None = None
        """Where this reading is; None before its first page."""
        self._limit = PAGE
        self._handled: dict[str, tuple[str, str | None]] = {}
        """The last change of each payment that was handled, by id; oldest first."""

    async def page(self) -> Page | None:
        """Return the next changes, or None at the end; the page after that begins a new reading.

        The end is where nothing comes behind the position: a page may be shorter than asked for.
        """
        if self._at is None:
            self._begun_at = _text(self._service.now())
        since, after_id = self._at or (_earlier(self._since), None)
        try:
            page = await self._service.changes(self.source_type, since, after_id, self._limit)
        except AnswerTooLargeError:
            self._limit = max(self._limit // 4, 2)  # each page begins with the end of the last one
            raise
        if page.last is None or page.last == self._at:
            self._at, self._limit = None, PAGE
            return None
        news = [each for each in page.payments if self._handled.get(each.id) != _change(each)]
        return Page(news, page.last)

    def done(self, page: Page) -> None:
        """Note that the payments of a page were handled."""
        for payment in page.payments:
            self._handled.pop(payment.id, None)  # to the end
            self._handled[payment.id] = _change(payment)
        excess = len(self._handled) - REMEMBERED_MAX
        for each in list(self._handled)[: max(excess, 0)]:
            del self._handled[each]
        self._at = page.last
        if page.last is not None:
            # What is dated after the beginning may not all be shown yet. This holds as well for a
            # change that is dated in the future.
            self._since = max(self._since, min(page.last[0], self._begun_at))


def _change(payment: Payment) -> tuple[str, str | None]:
    """Return what tells one change from another: two may have the same millisecond."""
    return payment.changed_at, payment.on_chain_state


def _text(time: datetime) -> str:
    """Return a time as the service writes it: such texts sort as their times do."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1_000:03d}Z"


def _earlier(time: str) -> str:
    return _text(datetime.fromisoformat(time) - OVERLAP)
