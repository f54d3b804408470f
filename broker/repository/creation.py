"""The jobs in the order in which they were created, a page at a time."""

from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from tollgate.broker.repository.job import Slot, StoredJob
from tollgate.broker.repository.lane import SLACK
from tollgate.domain.status import JobStatus

SCAN_JOBS_MAX: Final = 10_000
"""How many jobs one page may look at: a page may be short, a call may not be long."""


class Creation:
    """The slots of all jobs by their place, which grows; one that was removed stays a while."""

    __slots__ = ("_slots", "next_index", "scanned")

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self.next_index = 0
        """The place of the next job."""
        self.scanned = 0
        """How many jobs all pages so far have looked at."""

    def add_new(self, slots: Sequence[Slot]) -> None:
        """Note jobs that were given the next places, in order."""
        self._slots += slots
        self.next_index += len(slots)

    def restore(self, slots: Sequence[Slot]) -> None:
        """Take over jobs that were created later than all there are."""
        self._slots += slots

    def by_index(self) -> dict[int, StoredJob]:
        """Return the jobs, each by its place."""
        return dict(self._slots)

    def page(
        self,
        after: int,
        limit: int,
        status: JobStatus | None = None,
        *,
        scan_max: int = SCAN_JOBS_MAX,
    ) -> tuple[list[StoredJob], list[int]]:
        """Return up to `limit` jobs created after place `after` (-1: all), and where to go on.

        The second list has the cursor behind each job, and one more, behind all that was looked
        at, if there is more to see. Looks at no more than `scan_max` jobs, and counts them in
        `scanned`.
        """
        start = bisect_left(self._slots, after + 1, key=itemgetter(0))
        jobs: list[StoredJob] = []
        cursors: list[int] = []
        place = start
        for place in range(start, min(start + scan_max, len(self._slots))):
            index, job = self._slots[place]
            if job.version and (status is None or job.status is status):
                jobs.append(job)
                cursors.append(index)
                if len(jobs) == limit:
                    break
        self.scanned += place + 1 - start
        if place + 1 < len(self._slots):
            cursors.append(self._slots[place][0])
        return jobs, cursors

    def sweep(self, live: int) -> None:
        """Let go of those that were removed, if that is most; `live` are not."""
        if len(self._slots) > 2 * live + SLACK:
            self._slots = [slot for slot in self._slots if slot[1].version]
