"""What becomes of a job when a call of its handler has ended: retries, holds and failures."""

import random
from collections.abc import Sequence
from typing import Final, Literal

from tollgate.worker.call import CallResult
from tollgate.worker.outcome import (
    REASON_BYTES,
    TEXT_BYTES,
    GiveBack,
    Move,
    Outcome,
    cut,
    text_of,
)

BACKOFF_S_MAX: Final = 3_600.0
"""The longest pause of a backoff that doubles."""
DELAY_S_MAX: Final = 31_536_000.0
"""The longest delay that the broker takes: a year."""
JITTER: Final = 0.25
"""A pause is up to this part longer or shorter, so that jobs that failed together spread."""


class RetryPolicy:
    """Decides by the number of a try: again after a pause, or `on_exhausted`."""

    def __init__(
        self,
        max_attempts: int,
        backoff_s: float | Sequence[float],
        on_exhausted: Literal["fail", "hold"],
    ) -> None:
        self.max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._holds = on_exhausted == "hold"
        self.text_bytes = TEXT_BYTES
        """The broker's limit on errors."""
        self.reason_bytes = REASON_BYTES
        """Its limit on reasons."""

    def outcome(self, ended: CallResult, attempt: int) -> Outcome:
        """Return what to tell the broker after the try number `attempt` has ended."""
        if ended.is_suspended:
            return GiveBack()
        if ended.error is None:
            text, fault = text_of(ended.value)
            return self.exhausted(fault or "") if text is None else Move.completed(text)
        if ended.is_final:
            return Move.failed(ended.error, self.text_bytes)
        if attempt >= self.max_attempts:
            return self.exhausted(ended.error)
        pause_s = self.pause_s(attempt) if ended.after_s is None else ended.after_s
        delay_ms = round(min(max(pause_s, 0.0), DELAY_S_MAX) * 1_000)
        return GiveBack(delay_ms, cut(ended.error, self.reason_bytes))

    def exhausted(self, error: str) -> Outcome:
        """Return what to tell the broker if another try makes no sense."""
        if self._holds:
            return GiveBack(reason=cut(error, self.reason_bytes), hold=True)
        return Move.failed(error, self.text_bytes)

    def pause_s(self, attempt: int) -> float:
        """Return how long to wait after the try number `attempt`, with jitter."""
        given = self._backoff_s
        if isinstance(given, int | float):
            pause_s = min(given * 2.0 ** min(attempt - 1, 60), BACKOFF_S_MAX)
        else:
            pause_s = given[min(attempt, len(given)) - 1]
        return pause_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not a secret
