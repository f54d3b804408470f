"""What the repository finds jobs by: their status, their order of creation, their texts' size.

An index drops the entries of jobs that have moved on when they reach its head. If they pile up
behind the head, it sweeps: at most SLACK stale entries stand beyond as many as there are live ones.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import Final

from tollgate.broker.core.events import JobTransitioned
from tollgate.broker.repository.job import Slot, StoredJob, job_text_bytes, text_bytes
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, TERMINAL, JobStatus

SLACK = 1_024
"""How many stale entries an index may hold beyond as many as there are live ones."""
ONLY_ENTRY: Final = 2
"""Up to this version (created, then running) a job has entered no status twice."""
SCAN_JOBS_MAX: Final = 10_000
"""How many jobs one page of a list looks at. A page may be short; a call may not be long."""


class StatusQueue:
    """The jobs in one status: how many, in order of entry, and those that may be claimed."""

    __slots__ = ("_sweep_in", "count", "entered", "is_terminal", "ready", "status")

    def __init__(self, status: JobStatus) -> None:
        self.status = status
        self.is_terminal = status in TERMINAL
        self.count = 0
        self.entered: deque[Slot] = deque()
        """In order of entry: a slot. From a second entry on, minus the version is its place."""
        self.ready: list[Slot] = []
        """A heap by creation. An entry is stale while the job is leased, or in another status."""
        self._sweep_in = SLACK

    def has_entry(self, entry: Slot) -> bool:
        """Return whether the job is still in this status since the entry was made."""
        mark, job = entry
        if job.status is not self.status or not job.version:
            return False
        if mark < 0:
            return job.version == -mark
        return self.is_terminal or job.version <= ONLY_ENTRY

    def has_job(self, job: StoredJob) -> bool:
        """Return whether the job is in this status."""
        return job.status is self.status and job.version > 0

    def enter_new(self, slots: list[Slot]) -> None:
        """Add new jobs, created after all others."""
        self.count += len(slots)
        self.entered += slots
        self.ready += slots  # each is larger than all others, so the heap stays a heap
        self._grew(len(slots))

    def enter(self, slots: list[Slot], *, is_first: bool) -> None:
        """Add jobs that a move has just brought here; with `is_first` none can have been before."""
        self.count += len(slots)
        if self.is_terminal or is_first:
            self.entered += slots
        else:
            self.entered += [
                slot if slot[1].version <= ONLY_ENTRY else (-slot[1].version, slot[1])
                for slot in slots
            ]
        if not self.is_terminal:
            for slot in slots:
                heappush(self.ready, slot)
        self._grew(len(slots))

    def offer(self, slot: Slot) -> None:
        """Make a job ready to be claimed again."""
        heappush(self.ready, slot)
        self._grew(1)

    def restore(self, slot: Slot) -> None:
        """Add a job of a snapshot; it was created after all others here."""
        self.count += 1
        if not self.is_terminal:
            self.ready.append(slot)

    def restore_entered(self, slots: Iterable[Slot]) -> None:
        """Add the order in which the jobs here have entered this status."""
        for index, job in slots:
            again = not self.is_terminal and job.version > ONLY_ENTRY
            self.entered.append((-job.version if again else index, job))

    def oldest(self) -> StoredJob | None:
        """Return the job that has been in this status longest."""
        entered = self.entered
        while entered:
            if self.has_entry(entered[0]):
                return entered[0][1]
            entered.popleft()
        return None

    def _grew(self, by: int) -> None:
        """Sweep often enough: between two sweeps each index grows by half of SLACK at most."""
        self._sweep_in -= by
        if self._sweep_in >= 0:
            return
        self._sweep_in = SLACK // 2
        most = 2 * self.count + SLACK // 2
        if len(self.entered) > most:
            self.entered = deque(filter(self.has_entry, self.entered))
        if len(self.ready) > most:
            here = {slot[0]: slot for slot in self.ready if self.has_job(slot[1])}
            self.ready = [*here.values()]
            heapify(self.ready)


class StatusIndex:
    """The jobs by status, and which of them are leased."""

    __slots__ = ("_by_status", "_terminal", "finished", "leased")

    def __init__(self) -> None:
        self._by_status = {status: StatusQueue(status) for status in JobStatus}
        self._terminal = [self._by_status[status] for status in TERMINAL]
        self.finished = 0
        """How many jobs are completed or failed."""
        self.leased: set[str] = set()
        """The ids of the jobs under a lease: none of them may be claimed."""

    def count(self, status: JobStatus) -> int:
        """Return how many jobs are in `status`."""
        return self._by_status[status].count

    def oldest(self, status: JobStatus) -> StoredJob | None:
        """Return the job that has been in `status` longest."""
        return self._by_status[status].oldest()

    def oldest_finished(self) -> tuple[datetime, str] | None:
        """Return when the job that finished first did so, and its id."""
        oldest = [queue.oldest() for queue in self._terminal]
        return min(((job.updated_at, job.job_id) for job in oldest if job), default=None)

    def first_ready(self, status: JobStatus) -> StoredJob | None:
        """Return the job in `status` that was created first and is not leased."""
        queue = self._by_status[status]
        while queue.ready:
            job = queue.ready[0][1]
            if queue.has_job(job) and job.job_id not in self.leased:
                return job
            heappop(queue.ready)
        return None

    def take_ready(self, status: JobStatus, limit: int) -> list[Slot]:
        """Take out up to `limit` such jobs, by creation. Lease each, or put it back."""
        queue, taken = self._by_status[status], list[Slot]()
        while queue.ready and len(taken) < limit:
            slot = heappop(queue.ready)
            if taken and taken[-1] is slot:  # a job can stand in the heap twice
                continue
            if queue.has_job(slot[1]) and slot[1].job_id not in self.leased:
                taken.append(slot)
        return taken

    def put_back(self, slots: Iterable[Slot]) -> None:
        """Make jobs that were taken ready again."""
        for slot in slots:
            self._by_status[slot[1].status].offer(slot)

    def free(self, slot: Slot) -> None:
        """End the lease on a job, if there is one."""
        job = slot[1]
        if job.job_id in self.leased:
            self.leased.remove(job.job_id)
            self._by_status[job.status].offer(slot)

    def enter_new(self, slots: list[Slot]) -> None:
        """Add new jobs."""
        self._by_status[AWAITING_PAYMENT].enter_new(slots)

    def move(self, slots: list[Slot], before: JobStatus, after: JobStatus) -> None:
        """Take note of jobs whose status has just changed from `before` to `after`."""
        self._by_status[before].count -= len(slots)
        self._by_status[after].enter(slots, is_first=before is AWAITING_PAYMENT)
        if after in TERMINAL:
            self.finished += len(slots)

    def remove(self, job: StoredJob) -> None:
        """Take note of a finished job that is about to be removed."""
        self._by_status[job.status].count -= 1
        self.finished -= 1

    def entered(self, slots: Iterable[Slot]) -> dict[JobStatus, list[int]]:
        """Return the places of the jobs of each status, in order of entry.

        `slots` are those of all jobs.
        """
        indexes = {id(job): index for index, job in slots}
        return {
            status: [indexes[id(entry[1])] for entry in filter(queue.has_entry, queue.entered)]
            for status, queue in self._by_status.items()
        }

    def restore(self, slots: Sequence[Slot], leased: Iterable[str]) -> None:
        """Add jobs of a snapshot, created after all others, and the ids of the leased ones."""
        self.leased.update(leased)
        for slot in slots:
            status = slot[1].status
            self._by_status[status].restore(slot)
            self.finished += status in TERMINAL

    def restore_entered(self, status: JobStatus, slots: Iterable[Slot]) -> None:
        """Add the order in which the jobs of a status have entered it."""
        self._by_status[status].restore_entered(slots)


class CreationIndex:
    """All jobs in order of creation. A removed job's slot stays for a while."""

    __slots__ = ("_slots", "next_index", "scanned")

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self.next_index = 0
        """The place of the next job."""
        self.scanned = 0
        """How many jobs all pages so far have looked at."""

    def add_new(self, slots: Sequence[Slot]) -> None:
        """Add jobs that were given the next places, in order."""
        self._slots += slots
        self.next_index += len(slots)

    def restore(self, slots: Sequence[Slot]) -> None:
        """Add jobs of a snapshot, created after all others."""
        self._slots += slots

    def by_index(self) -> dict[int, StoredJob]:
        """Return the jobs by their places."""
        return dict(self._slots)

    def page(
        self,
        after: int,
        limit: int,
        status: JobStatus | None = None,
        *,
        scan_max: int = SCAN_JOBS_MAX,
    ) -> tuple[list[StoredJob], list[int]]:
        """Return up to `limit` jobs created after place `after` (-1: all), and their cursors.

        Where there is more to see, one more cursor points behind everything that was looked at.
        Looks at no more than `scan_max` jobs, and counts them in `scanned`.
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
        """Drop the slots of removed jobs if they are the most; `live` jobs are stored."""
        if len(self._slots) > 2 * live + SLACK:
            self._slots = [slot for slot in self._slots if slot[1].version]


class TextTotals:
    """How many bytes the texts of all jobs have.

    A blockchain identifier counts if it was supplied, not if it was made of the job's id.
    """

    __slots__ = ("longest_bytes", "total_bytes")

    def __init__(self) -> None:
        self.total_bytes = 0
        """Bytes of the texts of all stored jobs."""
        self.longest_bytes = 0
        """No text of a stored job is longer. It never falls, though such a job may be gone."""

    def add(self, text: str) -> None:
        """Count a text that a job has received."""
        size = len(text) if text.isascii() else len(text.encode())
        self.total_bytes += size
        if size > self.longest_bytes:  # noqa: PLR1730 - `max` takes twice as long
            self.longest_bytes = size

    def set_outcome(self, job: StoredJob, move: JobTransitioned) -> None:
        """Set the result and error of a job to those of a move."""
        if job.result is not None or job.error is not None:
            self._drop(job.result, job.error)
        job.result = result = move.result
        job.error = error = move.error
        if result is not None:
            self.add(result)
        if error is not None:
            self.add(error)

    def set_dialogue(self, job: StoredJob, move: JobTransitioned) -> None:
        """Set the question and the answer of a job to those of a move."""
        self._drop(job.input_schema, job.provided_input)
        if move.target is AWAITING_INPUT:
            job.input_schema = move.input_schema
        job.provided_input = move.provided_input
        self.add(job.input_schema or "")
        self.add(job.provided_input or "")

    def restore(self, jobs: Iterable[StoredJob], named: Collection[str]) -> None:
        """Count the texts of jobs; the identifiers of the `named` ones, by id, were supplied."""
        sizes = [
            job_text_bytes(job) - (0 if job.job_id in named else len(job.blockchain_identifier))
            for job in jobs
        ]
        self.total_bytes += sum(sizes)
        self.longest_bytes = max(self.longest_bytes, *sizes, 0)  # no text is longer than its job's

    def remove(self, job: StoredJob, *, is_named: bool) -> None:
        """Stop counting the texts of a job."""
        self.total_bytes -= job_text_bytes(job)
        if not is_named:
            self.total_bytes += len(job.blockchain_identifier)

    def _drop(self, *texts: str | None) -> None:
        for text in texts:
            self.total_bytes -= text_bytes(text)
