"""First-in-first-out lines whose entries go stale where they stand: the jobs ready to be claimed.

Nothing is searched for to be taken out of a line. An entry that is no longer true is dropped when
it comes to the head. So that stale entries do not pile up behind a true one, each change also
checks a few entries while too many are stale.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import chain, islice, repeat
from typing import Any, Final, Generic, TypeVar

from tollgate.broker.repository.job import Claimed, Slot
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, TERMINAL, JobStatus

Entry = TypeVar("Entry")

SLACK: Final = 16_384
"""How many stale entries there may be beyond as many as there are true ones, over all queues."""
TIDY_MIN: Final = 2_048
"""A line of a few queues with fewer entries may have all of them dropped in one look."""
CHECKS: Final = 2
"""How many entries are checked for each job that comes or goes, while too many are stale."""

HEAP_COST: Final = 4
"""An entry of a heap takes so much longer to drop than one of a line."""
READY: Final = 1
"""A bit of `Slot.entries`: the job may be claimed."""
FIRST: Final = 2 | READY
"""`Slot.entries` of a job with one entry, which is ready."""
_LOW: Final = 0xFFFF_FFFE
_HIGH: Final = _LOW << 32
_HIGH_UNIT: Final = 2 << 32
_UNITS: Final[dict[Claimed, tuple[int, int]]] = {
    AWAITING_PAYMENT: (2, _LOW),
    RUNNING: (2, _LOW),
    AWAITING_INPUT: (_HIGH_UNIT, _HIGH),
    SettlementState.WANTED: (2, _LOW),
    SettlementState.SUBMITTED: (_HIGH_UNIT, _HIGH),
}
"""Where `Slot.entries` counts the entries in a line. A job leaves `awaiting_payment` once and for
all, and is settled after it has ended, so three lines can use the same bits. There are more bits
than a line can have entries: with many true ones, as many may be stale, all of one job."""


class StaleLine(Generic[Entry]):
    """A line of entries; `is_true` tells whether one still is. It is dropped if not."""

    __slots__ = ("_checked", "_gone", "_unchecked", "is_true")

    def __init__(
        self, is_true: Callable[[Entry], bool], gone: frozenset[JobStatus] = frozenset()
    ) -> None:
        """Start empty. A slot whose job is in one of the statuses `gone` is stale.

        `is_true` must say the same of it. To ask that takes longer, and most entries go stale so.
        """
        self.is_true = is_true
        """Tells whether an entry is true; an entry that is not must be dropped then."""
        self._gone = gone
        self._checked: deque[Entry] | None = None
        """The front of the line: all that was checked since the last round."""
        self._unchecked: deque[Entry] = deque()

    def __len__(self) -> int:
        """Return how many entries there are, stale ones included."""
        return len(self._unchecked) + (len(self._checked) if self._checked else 0)

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries, stale ones included."""
        yield from self._checked or ()
        yield from self._unchecked

    def true_entries(self) -> list[Entry]:
        """Return the entries that are true. Ask this of no ready line: see its `order`."""
        return [entry for entry in self if self.is_true(entry)]

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add entries at the end."""
        self._unchecked.extend(entries)

    def first(self) -> Entry | None:
        """Return the first true entry, and drop the stale ones before it."""
        while True:
            front = self._checked or self._unchecked
            if not front:
                return None
            if self.is_true(front[0]):
                return front[0]
            front.popleft()

    def delayed(self) -> int:
        """Return how many entries it has for delayed jobs: a line of a status has none."""
        return 0

    def tidy(self, left: int) -> int:
        """Drop stale entries at the head, `left` at most; return how many more it could drop.

        If it returns 0, there may be more: then do not ask for the first entry yet.
        """
        return self._drop_stale(left)

    def check(self, changes: int, true_max: int, shares: int = 1) -> None:
        """Drop stale entries at the head; check others if more are stale than `true_max` are true.

        A change drops a few of them, so that one call for the first entry does not drop all. The
        slack is for all queues together: this line has one of so many `shares`.
        """
        slack = SLACK // shares
        if len(self._unchecked) + len(self._checked or ()) <= true_max + slack // 2:
            return
        is_true, left = self.is_true, self._drop_stale(CHECKS * changes + CHECKS)
        excess = len(self._unchecked) + len(self._checked or ()) - 2 * true_max - slack
        if excess <= 0:
            return
        for _ in range(left):
            if not self._unchecked:
                self._unchecked, self._checked = self._checked or deque(), None
                if not self._unchecked:
                    return
            entry = self._unchecked.popleft()
            if is_true(entry):
                if self._checked is None:
                    self._checked = deque()
                self._keep(self._checked, entry)
            else:
                excess -= 1
                if not excess:
                    return

    def _drop_stale(self, left: int) -> int:
        """Drop stale entries at the head, `left` at most; return how many more it could drop."""
        gone = self._gone
        while left and (front := self._checked or self._unchecked):
            count = 0
            entry: Any
            for entry in islice(front, left):
                if type(entry) is not Slot or entry.job.status not in gone:
                    break
                count += 1
            if not count:
                if self.is_true(front[0]):
                    break
                count = 1
            for _ in repeat(None, count):
                front.popleft()
            left -= count
        return left

    def _keep(self, checked: deque[Entry], entry: Entry) -> None:
        checked.append(entry)


class Delays:
    """Jobs that may be claimed from a time on: a heap by that time, and then by creation."""

    __slots__ = ("_checked", "_heap", "is_true")

    def __init__(self, is_true: Callable[[datetime, Slot], bool]) -> None:
        self.is_true = is_true
        self._heap: list[tuple[datetime, int, Slot]] = []
        self._checked: list[tuple[datetime, int, Slot]] = []

    def add(self, not_before: datetime, slot: Slot, true_max: int) -> None:
        """Add a job."""
        heappush(self._heap, (not_before, slot.index, slot))
        if len(self._heap) + len(self._checked) > 2 * true_max + SLACK:
            for _ in range(2 * CHECKS):
                if not self._heap:
                    self._heap, self._checked = self._checked, self._heap
                entry = self._heap.pop()  # the last leaf: the rest is still a heap
                if self.is_true(entry[0], entry[2]):
                    heappush(self._checked, entry)

    def first(self) -> tuple[datetime, Slot] | None:
        """Return the first job and its time."""
        heap = self._first_heap()
        return None if heap is None else (heap[0][0], heap[0][2])

    def __len__(self) -> int:
        """Return how many entries there are, stale ones included."""
        return len(self._heap) + len(self._checked)

    def tidy(self, left: int) -> int:
        """Drop stale entries at the heads, `left` at most; return how many more it could drop."""
        for heap in (self._heap, self._checked):
            while left > 0 and heap and not self.is_true(heap[0][0], heap[0][2]):
                heappop(heap)
                left -= HEAP_COST
        return max(0, left)

    def pop(self) -> Slot:
        """Take out the job that `first` has returned.

        A job that came back with the same time has an equal entry more, which goes too.
        """
        entry = heappop(self._first_heap() or self._heap)
        for heap in (self._heap, self._checked):
            while heap and heap[0] == entry:
                heappop(heap)
        return entry[2]

    def times(self) -> list[datetime]:
        """Return the times of all jobs, in order."""
        entries = {
            index: not_before
            for not_before, index, slot in [*self._heap, *self._checked]
            if self.is_true(not_before, slot)
        }
        return sorted(entries.values())

    def later(self, at: datetime, scan_max: int) -> tuple[int, int]:
        """Return how many jobs are delayed until after `at`, and how many entries there are.

        Only `scan_max` entries are looked at. If there are more, the number is an estimate.
        """
        entries = len(self)
        looked = min(entries, scan_max)
        later = {
            (index, not_before)
            for not_before, index, slot in islice(chain(self._heap, self._checked), looked)
            if not_before > at and self.is_true(not_before, slot)
        }
        return (len(later) if looked == entries else len(later) * entries // looked), entries

    def due(self, at: datetime) -> list[tuple[datetime, int]]:
        """Return the times and places of the jobs that are due at `at`, in order."""
        return sorted(
            {
                (not_before, index)
                for not_before, index, slot in [*self._heap, *self._checked]
                if not_before <= at and self.is_true(not_before, slot)
            }
        )

    def _first_heap(self) -> list[tuple[datetime, int, Slot]] | None:
        """Return the heap with the first job at its head."""
        for heap in (self._heap, self._checked):
            while heap and not self.is_true(heap[0][0], heap[0][2]):
                heappop(heap)
        if not self._checked:  # the common case
            return self._heap or None
        heaps = [heap for heap in (self._heap, self._checked) if heap]
        return min(heaps, key=lambda heap: heap[0][:2], default=None)


class ReadyLine(StaleLine[Any]):
    """The jobs of one queue, priority and status (or settlement state) that may be claimed.

    An entry is a slot, or a time. A time stands for all delayed jobs that were due then: so they
    have their place before what came at that time, and nothing is moved when they become due.
    """

    __slots__ = ("_field", "_is_of_jobs", "_unit", "count", "delays", "state", "wake_at")

    def __init__(self, state: Claimed, count: Callable[[], int]) -> None:
        """Start empty. `count` tells how many jobs there can be at most."""
        super().__init__(self._is_ready, _gone_from(state))
        self.state = state
        self.count = count
        self._is_of_jobs = isinstance(state, JobStatus)
        self._unit, self._field = _UNITS[state]
        self.delays: Delays | None = None
        self.wake_at: datetime | None = None
        """When `Queues` will look at the delayed jobs."""

    def enter_new(self, slots: Sequence[Slot]) -> None:
        """Add new jobs; they are marked as ready already."""
        self._unchecked.extend(slots)

    def join(self, slots: Sequence[Slot], at: datetime, *, is_first: bool = False) -> None:
        """Add jobs that are ready from now on. With `is_first` they have no other entry here."""
        if self.delays is not None and self._due(at) is not None:
            self._mark(at)
        if is_first:
            for slot in slots:
                if slot.entries != FIRST:  # a comparison takes a tenth of a change
                    slot.entries = FIRST
        else:
            unit = self._unit
            for slot in slots:
                slot.entries = (slot.entries + unit) | READY
        self._unchecked.extend(slots)

    def delay(self, slot: Slot, not_before: datetime) -> None:
        """Add a job that is ready from a later time on."""
        slot.entries &= ~READY
        if self.delays is None:
            self.delays = Delays(self._is_delayed)
        self.delays.add(not_before, slot, self.count())

    def delayed(self) -> int:
        """Return how many entries its delayed jobs have."""
        return 0 if self.delays is None else len(self.delays)

    def tidy(self, left: int) -> int:
        """Drop stale entries at the head, as any line does; also of delayed jobs."""
        if self.delays is not None:
            left = self.delays.tidy(left)
        while left and (front := self._checked or self._unchecked):
            entry = front[0]
            if type(entry) is Slot:
                if self.is_true(entry):
                    break
            elif self._due(entry) is not None:
                break
            front.popleft()
            left -= 1
        return left

    def ready(self, at: datetime) -> Slot | None:
        """Return the first job that may be claimed at that time."""
        while True:
            entry = self.first()
            if entry is None:
                return self._due(at)
            if type(entry) is Slot:
                return entry
            if (slot := self._due(entry)) is not None:
                return slot
            (self._checked or self._unchecked).popleft()

    def take(self, at: datetime) -> Slot | None:
        """Take out that job. Lease it, or put it back."""
        slot = self.ready(at)
        if slot is None:
            return None
        if slot.entries & READY:
            (self._checked or self._unchecked).popleft()
            slot.entries -= self._unit
        elif self.delays is not None:
            self.delays.pop()
        return slot

    def put_back(self, slot: Slot) -> None:
        """Put back the job that was taken out last."""
        front = self._checked or self._unchecked
        not_before = self.not_before(slot)
        if slot.entries & READY:
            slot.entries += self._unit
            front.appendleft(slot)
        elif self.delays is not None and not_before is not None:
            self.delays.add(not_before, slot, self.count())
            front.appendleft(not_before)

    def not_before(self, slot: Slot) -> datetime | None:
        """Return from when on a job may be claimed in this line."""
        if self.state is RUNNING:
            return slot.job.not_before
        settlement = slot.job.settlement
        if settlement is None or self._is_of_jobs:
            return None
        return settlement.not_before

    def order(self) -> list[int | datetime]:
        """Return the line for a snapshot: places of jobs, and times that stand for delayed ones."""
        times = [] if self.delays is None else self.delays.times()
        place, order = 0, list[int | datetime]()
        seen: dict[int, int] = {}
        for entry in self:
            if type(entry) is not Slot:
                before = place
                while place < len(times) and times[place] <= entry:
                    place += 1
                if place > before:
                    if order and isinstance(order[-1], datetime):
                        order.pop()
                    order.append(entry)
                continue
            # Only the last entry of a job is true: earlier ones are taken off its count.
            seen[entry.index] = seen.get(entry.index, 0) + 1
            if (
                self._is_here(entry)
                and entry.entries & self._field == seen[entry.index] * self._unit
            ):
                order.append(entry.index)
        return order

    def ahead_of(self, slot: Slot | None, at: datetime, scan_max: int) -> tuple[int, int]:
        """Return how many jobs may be claimed before one of this line; before None are all.

        Returns also how many entries were looked at. It looks at `scan_max` at most: if it has
        looked at more, there may be more jobs. Nothing is dropped: any job may be asked for.
        """
        delays = self.delays
        looked = 0 if delays is None else len(delays)
        due = [] if delays is None or looked > scan_max else delays.due(at)
        ahead, seen = 0, dict[int, int]()
        for entry in self:
            looked += 1
            if looked > scan_max:
                return ahead, looked
            if type(entry) is not Slot:
                while due and due[0][0] <= entry:
                    if slot is not None and due[0][1] == slot.index:
                        return ahead, looked
                    del due[0]
                    ahead += 1
                continue
            seen[entry.index] = times = seen.get(entry.index, 0) + 1
            if self._is_here(entry) and entry.entries & self._field == times * self._unit:
                if entry is slot:
                    return ahead, looked
                ahead += 1
        for _, index in due:
            if slot is not None and index == slot.index:
                break
            ahead += 1
        return ahead, looked

    def restore(self, order: Iterable[Slot | datetime]) -> None:
        """Add what `order` has returned, with slots for places."""
        for entry in order:
            if type(entry) is Slot:
                entry.entries = self._unit | READY
            self._unchecked.append(entry)

    def _due(self, at: datetime) -> Slot | None:
        """Return the first delayed job if it is due."""
        first = None if self.delays is None else self.delays.first()
        return first[1] if first is not None and first[0] <= at else None

    def _mark(self, at: datetime) -> None:
        """Let the delayed jobs that are due come before what is added next."""
        last = self._unchecked or self._checked
        if last and type(last[-1]) is not Slot:
            last[-1] = at
        else:
            self._unchecked.append(at)

    def _is_here(self, slot: Slot) -> bool:
        return slot.entries & READY > 0 and self.is_at(slot)

    def is_at(self, slot: Slot) -> bool:
        """Return whether a job is in the status or state of this line."""
        if self._is_of_jobs:
            return slot.job.status is self.state and slot.job.version > 0
        settlement = slot.job.settlement
        return settlement is not None and settlement.state is self.state

    def _is_ready(self, entry: Any) -> bool:  # noqa: ANN401 - a slot or a time
        if not isinstance(entry, Slot):
            return True
        status = entry.job.status
        if self.state is AWAITING_PAYMENT:
            if status is not AWAITING_PAYMENT:
                return False  # for ever; its entries are counted for the next line now
        elif status in TERMINAL and self._is_of_jobs:
            return False  # the same
        if not self.is_at(entry):
            entry.entries -= self._unit
            return False
        return self._is_only(entry)

    def _is_only(self, slot: Slot) -> bool:
        """Return whether a job is ready and this is its only entry; take the entry off if not."""
        entries = slot.entries
        if entries & READY and entries & self._field == self._unit:
            return True
        slot.entries = entries - self._unit
        return False

    def _is_delayed(self, not_before: datetime, slot: Slot) -> bool:
        return (
            slot.lease is None
            and not slot.entries & READY
            and not slot.job.on_hold
            and self.is_at(slot)
            and self.not_before(slot) == not_before
        )

    def _keep(self, checked: deque[Any], entry: Slot | datetime) -> None:
        if type(entry) is not Slot and checked and type(checked[-1]) is not Slot:
            checked[-1] = entry  # two times in a row: the later one stands for both
        else:
            checked.append(entry)


def _gone_from(state: Claimed) -> frozenset[JobStatus]:
    """Return the statuses of jobs that never come back to the ready line of a status or state."""
    if state is AWAITING_PAYMENT:
        return frozenset(JobStatus) - {AWAITING_PAYMENT}
    return TERMINAL if isinstance(state, JobStatus) else frozenset()
