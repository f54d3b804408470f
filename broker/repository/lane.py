"""The jobs of one status: in what order they came, and who of them may be claimed."""

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappush
from typing import Final

from tollgate.broker.repository.job import Slot, StoredJob
from tollgate.domain.status import TERMINAL, JobStatus

SLACK = 1_024
"""How many stale entries an index may hold beyond as many as there are live ones."""
ONLY_ENTRY: Final = 2
"""Up to this version, created and running, a job has been in no status twice."""


class Lane:
    """The jobs of one status: how many, in what order they came, and who of them may be claimed."""

    __slots__ = ("count", "entered", "free", "is_last", "look_in", "status")

    def __init__(self, status: JobStatus) -> None:
        self.status = status
        self.is_last = status in TERMINAL
        self.count = 0
        self.entered: deque[Slot] = deque()
        """In order: a slot, or who comes a second time behind minus its version then."""
        self.free: list[Slot] = []
        """A heap; stale once held or elsewhere."""
        self.look_in = SLACK
        """After so many more entries, those that are stale are looked for."""

    def has(self, entry: Slot) -> bool:
        """Return whether a job is here still, since it came as `entry` says."""
        mark, job = entry
        if job.status is not self.status or not job.version:
            return False
        if mark < 0:
            return job.version == -mark
        return self.is_last or job.version <= ONLY_ENTRY

    def enter_new(self, slots: list[Slot]) -> None:
        """Note jobs that come here first of all, each created after all there are."""
        self.count += len(slots)
        self.entered += slots
        self.free += slots  # behind all others: a heap still
        self._grew(len(slots))

    def enter(self, slots: list[Slot], *, is_first: bool) -> None:
        """Note jobs that have come here by their last move; `is_first` if none can have before."""
        self.count += len(slots)
        if self.is_last or is_first:
            self.entered += slots
        else:
            self.entered += [
                slot if slot[1].version <= ONLY_ENTRY else (-slot[1].version, slot[1])
                for slot in slots
            ]
        if not self.is_last:
            for slot in slots:
                heappush(self.free, slot)
        self._grew(len(slots))

    def offer(self, slot: Slot) -> None:
        """Let a job be claimed again."""
        heappush(self.free, slot)
        self._grew(1)

    def restore_entered(self, slots: Iterable[Slot]) -> None:
        """Take over the order in which jobs, which are here by now, have come here."""
        for index, job in slots:
            again = not self.is_last and job.version > ONLY_ENTRY
            self.entered.append((-job.version if again else index, job))

    def first(self) -> StoredJob | None:
        """Return the job that has been here for longest."""
        entered = self.entered
        while entered:
            if self.has(entered[0]):
                return entered[0][1]
            entered.popleft()
        return None

    def _grew(self, by: int) -> None:
        self.look_in -= by
        if self.look_in < 0:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of what is stale, if that is most of it, and say when to look again.

        Between two looks each index grows by half of SLACK at most, so that it never has more than
        SLACK stale entries beyond as many as there are live ones.
        """
        most = 2 * self.count + SLACK // 2
        if len(self.entered) > most:
            self.entered = deque(filter(self.has, self.entered))
        if len(self.free) > most:
            # Each once; those that are held come back when they are freed, or go.
            here = {slot[0]: slot for slot in self.free if self.has_job(slot[1])}
            self.free = list(here.values())
            heapify(self.free)
        self.look_in = SLACK // 2

    def has_job(self, job: StoredJob) -> bool:
        """Return whether a job is here."""
        return job.status is self.status and job.version > 0
