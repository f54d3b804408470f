"""The jobs by their status: how many there are, who has been there for longest, who is free."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from heapq import heappop

from tollgate.broker.repository.job import Slot, StoredJob
from tollgate.broker.repository.lane import Lane
from tollgate.domain.status import AWAITING_PAYMENT, TERMINAL, JobStatus


class Lanes:
    """A lane for each status, and who of the jobs in them is held: somebody has a lease on them."""

    __slots__ = ("_by_status", "_last", "held")

    def __init__(self) -> None:
        self._by_status = {status: Lane(status) for status in JobStatus}
        self._last = [self._by_status[status] for status in TERMINAL]
        self.held: set[str] = set()
        """By id."""

    def count(self, status: JobStatus) -> int:
        """Return how many jobs are in `status`."""
        return self._by_status[status].count

    def count_finished(self) -> int:
        """Return how many jobs are completed or failed."""
        return sum([lane.count for lane in self._last])

    def oldest(self, status: JobStatus) -> StoredJob | None:
        """Return the job that has been in `status` for longest."""
        return self._by_status[status].first()

    def oldest_finished(self) -> tuple[datetime, str] | None:
        """Return when the job ended that has been completed or failed for longest, and its id."""
        heads = [lane.first() for lane in self._last]
        return min(((job.updated_at, job.job_id) for job in heads if job), default=None)

    def first_free(self, status: JobStatus) -> StoredJob | None:
        """Return the job in `status` that was created first and that nobody holds."""
        lane = self._by_status[status]
        while lane.free:
            job = lane.free[0][1]
            if lane.has_job(job) and job.job_id not in self.held:
                return job
            heappop(lane.free)
        return None

    def take_free(self, status: JobStatus, limit: int) -> list[Slot]:
        """Return up to `limit` such jobs, oldest first; each is to be held now, or put back."""
        lane, taken = self._by_status[status], list[Slot]()
        while lane.free and len(taken) < limit:
            slot = heappop(lane.free)
            if taken and taken[-1] is slot:  # it was offered twice
                continue
            if lane.has_job(slot[1]) and slot[1].job_id not in self.held:
                taken.append(slot)
        return taken

    def put_back(self, slots: Iterable[Slot]) -> None:
        """Let what was taken be taken again."""
        for slot in slots:
            self._by_status[slot[1].status].offer(slot)

    def free(self, slot: Slot) -> None:
        """Let go of a job, if it is held."""
        job = slot[1]
        if job.job_id in self.held:
            self.held.remove(job.job_id)
            self._by_status[job.status].offer(slot)

    def enter_new(self, slots: list[Slot]) -> None:
        """Note jobs that have just been created."""
        self._by_status[AWAITING_PAYMENT].enter_new(slots)

    def move(self, slots: list[Slot], before: JobStatus, after: JobStatus) -> None:
        """Note jobs whose status has just changed, from the one to the other."""
        self._by_status[before].count -= len(slots)
        self._by_status[after].enter(slots, is_first=before is AWAITING_PAYMENT)

    def leave(self, job: StoredJob) -> None:
        """Note that a job is about to be removed."""
        self._by_status[job.status].count -= 1

    def entered(self, slots: Iterable[Slot]) -> dict[JobStatus, list[int]]:
        """Return the places of the jobs of each status, in the order in which they came to it.

        `slots` are those of all jobs.
        """
        indexes = {id(job): index for index, job in slots}
        return {
            status: [indexes[id(entry[1])] for entry in filter(lane.has, lane.entered)]
            for status, lane in self._by_status.items()
        }

    def restore(self, slots: Sequence[Slot], held: Iterable[str]) -> None:
        """Take over jobs that were created later than all there are, and who of them is held."""
        self.held.update(held)
        for slot in slots:
            lane = self._by_status[slot[1].status]
            lane.count += 1
            if not lane.is_last:
                lane.free.append(slot)  # behind all others: a heap still

    def restore_entered(self, status: JobStatus, slots: Iterable[Slot]) -> None:
        """Take over the order in which the jobs of a status, here by now, have come to it."""
        self._by_status[status].restore_entered(slots)
