"""Divides a wait of any length into short ones, so that the broker may restart in between."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tollgate.client import arguments
from tollgate.client.commands import AnyStatus, JobId, make, statuses_of
from tollgate.domain.commands import Wait

SLICE_MS: Final = 15_000
"""A longer wait is divided into waits of this length."""


class SlicedWait:
    """A wait of any length, divided into short ones, so that the broker may restart in between.

    `patience_s` is how long the broker may take to answer after the end of a short wait.
    """

    def __init__(
        self,
        job_ids: JobId | Sequence[JobId],
        statuses: AnyStatus | Sequence[AnyStatus] | None,
        until: float | None,
        patience_s: float,
    ) -> None:
        """Wait until the monotonic time `until`; None is for ever. Raises ArgumentError."""
        self._until = until
        self._patience_s = patience_s
        self._whole = make(
            Wait,
            job_ids=[job_ids] if type(job_ids) is str else arguments.job_ids(job_ids),
            statuses=None if statuses is None else statuses_of(statuses, "wait"),
            timeout_ms=SLICE_MS,
        )

    def over(self, now: float) -> bool:
        """Whether there is no time left to wait."""
        return self._until is not None and now >= self._until

    def slice(self, now: float) -> tuple[Wait, float]:
        """Return the next short wait, and the time by which it must be answered."""
        timeout_ms = SLICE_MS
        if self._until is not None:
            timeout_ms = min(SLICE_MS, max(0, round((self._until - now) * 1_000)))
        command = msgspec.structs.replace(self._whole, timeout_ms=timeout_ms)
        return command, now + timeout_ms / 1_000 + self._patience_s
