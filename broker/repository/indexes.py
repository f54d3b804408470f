"""What the repository finds jobs by, beside their queues: order of creation, end, size of texts.

Large lists are kept in blocks, so that no change takes longer because there are many jobs.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Final

from tollgate.broker.core.events import JobTransitioned
from tollgate.broker.repository.job import (
    Slot,
    StoredJob,
    history_bytes,
    job_text_bytes,
    parts_bytes,
    rounds_bytes,
    text_bytes,
)
from tollgate.domain.status import AWAITING_INPUT

ROUND_COST: Final = 3
LONG_COST: Final = 16
CUT_COST: Final = 48
"""What it costs to change a round of input, to add to a long history, and to cut one, in jobs that
a list looks at."""
BLOCK: Final = 1_024
_index_of = attrgetter("index")


class CreationIndex:
    """The jobs of a queue in order of creation, in blocks of up to BLOCK."""

    __slots__ = ("_blocks", "_firsts", "_live")

    def __init__(self) -> None:
        self._blocks: list[list[Slot]] = []
        self._firsts: list[int] = []
        """The place of the first job of each block, when it was made."""
        self._live: list[int] = []
        """How many jobs of each block are not removed."""

    def add(self, slots: Sequence[Slot]) -> None:
        """Add jobs that were created after all others here."""
        if self._blocks and len(self._blocks[-1]) + len(slots) <= BLOCK:  # the common case
            self._blocks[-1] += slots
            self._live[-1] += len(slots)
            return
        start = 0
        while start < len(slots):
            if not self._blocks or len(self._blocks[-1]) >= BLOCK:
                self._blocks.append([])
                self._firsts.append(slots[start].index)
                self._live.append(0)
            block = self._blocks[-1]
            some = slots[start : start + BLOCK - len(block)]
            block += some
            self._live[-1] += len(some)
            start += len(some)

    def remove(self, slot: Slot) -> None:
        """Take note that a job was removed: its version is 0 now."""
        number = bisect_right(self._firsts, slot.index) - 1
        self._live[number] -= 1
        block = self._blocks[number]
        if not self._live[number]:
            del self._blocks[number], self._firsts[number], self._live[number]
        elif self._live[number] < len(block) // 2:
            block[:] = [each for each in block if each.job.version]

    def after(self, index: int) -> Iterator[Slot]:
        """Yield the slots behind a place, oldest first; those of removed jobs may be among them."""
        number = max(0, bisect_right(self._firsts, index) - 1)
        blocks = self._blocks
        if number < len(blocks):
            block = blocks[number]
            start = (
                0 if index < self._firsts[number] else bisect_left(block, index + 1, key=_index_of)
            )
            for place in range(start, len(block)):  # a copy of a part takes longer than a page
                yield block[place]
        for number in range(number + 1, len(blocks)):  # noqa: B020 - goes on from there
            yield from blocks[number]

    def before(self, index: int | None) -> Iterator[Slot]:
        """Yield the slots before a place (None: all), newest first."""
        number = len(self._blocks) - 1
        if index is not None:
            number = bisect_left(self._firsts, index) - 1
            if number >= 0:
                block = self._blocks[number]
                for place in range(bisect_left(block, index, key=_index_of) - 1, -1, -1):
                    yield block[place]
                number -= 1
        for place in range(number, -1, -1):
            yield from reversed(self._blocks[place])


class FinishedJobs:
    """The jobs that are finished, in the order in which they were: the first is removed first.

    A completed job whose settlement is open is not finished yet.
    """

    __slots__ = ("_slots", "count")

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self.count = 0
        """How many jobs are finished."""

    def add(self, slots: Sequence[Slot]) -> None:
        """Add jobs that have just finished."""
        self._slots.extend(slots)
        self.count += len(slots)

    def remove(self) -> None:
        """Take note that one of the jobs was removed: its version is 0 now."""
        self.count -= 1
        self.oldest()

    def first(self, count: int) -> list[StoredJob]:
        """Return the jobs that finished first, so many at most."""
        self.oldest()
        some = islice(self._slots, count)
        return [slot.job for slot in some if slot.job.version]

    def oldest(self) -> tuple[datetime, str] | None:
        """Return when the job that finished first did so, and its id."""
        slots = self._slots
        while slots and not slots[0].job.version:
            slots.popleft()
        return None if not slots else (ended_at(slots[0].job), slots[0].job.job_id)

    def order(self) -> list[int]:
        """Return the places of the jobs, in order."""
        return [slot.index for slot in self._slots if slot.job.version]


def ended_at(job: StoredJob) -> datetime:
    """Return when a job finished: its settlement may have ended later than the job itself."""
    return job.updated_at if job.settlement is None else job.settlement.updated_at


class TextTotals:
    """How many bytes the texts of all jobs have.

    A blockchain identifier counts if it was supplied, not if it was made of the job's id.
    """

    __slots__ = (
        "are_long", "longest_bytes", "longest_parts", "longest_rounds", "total_bytes", "work",
    )  # fmt: skip

    def __init__(self) -> None:
        self.total_bytes = 0
        self.longest_bytes = 0
        """No single text of a job has ever been longer."""
        self.longest_parts = 0
        """No job has ever had longer progress, settlement and rounds on the wire."""
        self.longest_rounds = 0
        """No job has ever had longer texts in its rounds of input."""
        self.are_long = False
        """Whether a job has ever had a long history or rounds of input."""
        self.work = 0
        """What long histories and rounds of input have cost since this was last read, in jobs that
        a list looks at."""

    def add(self, text: str) -> None:
        """Count a text."""
        size = len(text) if text.isascii() else len(text.encode())
        self.total_bytes += size
        if size > self.longest_bytes:  # noqa: PLR1730 - `max` takes twice as long
            self.longest_bytes = size

    def drop(self, *texts: str | None) -> None:
        """Stop counting texts."""
        for text in texts:
            self.total_bytes -= text_bytes(text)

    def set_outcome(self, job: StoredJob, move: JobTransitioned) -> None:
        """Set the result and error of a job to those of a move."""
        if job.result is not None or job.error is not None:
            self.drop(job.result, job.error)
            job.result = job.error = None
        result, error = move.result, move.error
        if result is not None:
            job.result = result
            self.add(result)
        if error is not None:
            job.error = error
            self.add(error)

    def set_dialogue(self, job: StoredJob, move: JobTransitioned) -> None:
        """Set the last question and answer of a job to those of a move."""
        self.drop(job.input_schema, job.provided_input)
        if move.target is AWAITING_INPUT:
            job.input_schema = move.input_schema
        job.provided_input = move.provided_input
        self.add(job.input_schema or "")
        self.add(job.provided_input or "")

    def set_meta(self, slot: Slot, meta: str | None) -> None:
        """Set the meta of a job."""
        job = slot.extend()
        self.drop(job.meta)
        job.meta = meta
        self.add(meta or "")

    def changed_parts(self, slot: Slot, before_bytes: int) -> None:
        """Count the parts of a job anew; before it was changed they had `before_bytes`."""
        parts, rounds = parts_bytes(slot.job), rounds_bytes(slot.rounds)
        if slot.rounds:
            self.are_long = True
            self.work += ROUND_COST * len(slot.rounds)
        self.total_bytes += parts + rounds + history_bytes(slot.history) - before_bytes
        self.longest_parts = max(self.longest_parts, parts)
        # Rounds of empty texts are rounds, too: a `get` looks for them if this is not 0.
        self.longest_rounds = max(self.longest_rounds, rounds, len(slot.rounds or ()))

    def set_history(self, slot: Slot, history: bytes) -> None:
        """Set the history of a job; the reasons in it are texts of its users."""
        before, after = history_bytes(slot.history), history_bytes(history)
        if after:
            self.are_long = True
            self.work += LONG_COST if after > before else CUT_COST
        self.total_bytes += after - before
        slot.history = history

    def restore(self, slot: Slot, *, is_named: bool) -> None:
        """Count the texts of a job of a snapshot; `is_named` if its identifier was supplied."""
        job = slot.job
        size = job_text_bytes(job) - (0 if is_named else len(job.blockchain_identifier))
        self.total_bytes += size
        self.longest_bytes = max(self.longest_bytes, size)  # no text is longer than its job's
        self.changed_parts(slot, 0)

    def remove(self, slot: Slot, *, is_named: bool) -> None:
        """Stop counting the texts of a job."""
        job = slot.job
        self.total_bytes -= job_text_bytes(job) + measured(slot)
        if not is_named:
            self.total_bytes += len(job.blockchain_identifier)


def measured(slot: Slot) -> int:
    """Return what `TextTotals` counts for the parts, rounds and history of a job."""
    return parts_bytes(slot.job) + rounds_bytes(slot.rounds) + history_bytes(slot.history)
