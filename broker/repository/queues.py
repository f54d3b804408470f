"""The queues: how many jobs each has in each status, which are ready, and which queue is next.

A job is in one queue for its whole life, and has one priority. For each queue, priority and status
there is a line of the jobs that may be claimed: see `lines`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final

import msgspec

from tollgate.broker.core.timers import NEVER, Timeline, Timers
from tollgate.broker.repository.indexes import CreationIndex
from tollgate.broker.repository.job import Claimed, Slot, StoredJob
from tollgate.broker.repository.lines import READY, TIDY_MIN, ReadyLine, StaleLine
from tollgate.broker.repository.table import ShardedTable
from tollgate.domain.commands import ALL_QUEUES
from tollgate.domain.exceptions import JobConflictError
from tollgate.domain.results import DEFAULT_QUEUE
from tollgate.domain.settlement import CLAIMABLE, SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, TERMINAL, JobStatus

ONLY_ENTRY: Final = 2
"""Up to this version (created, then running) a job has entered no status twice."""
CLAIMED: Final[tuple[Claimed, ...]] = (
    AWAITING_PAYMENT, RUNNING, AWAITING_INPUT, *sorted(CLAIMABLE),
)  # fmt: skip
CHECK_EVERY: Final = 256
"""The lines of a queue are checked after this number of changes, or fewer with many queues."""
CHECK_EVERY_MIN: Final = 16
FEW_QUEUES: Final = 4
QUEUE_LOOK: Final = 0.25
"""Looking at a queue takes this part of the time of looking at a line."""
DROPS_MAX: Final = 4_096
"""How many stale entries at the heads of lines one step drops: a step must be short."""
WAKES_MAX: Final = 1_024
"""How many lines with delayed jobs that are due one step looks at."""
DATED: Final = frozenset(
    {SettlementState.WANTED, SettlementState.SUBMITTED, SettlementState.MANUAL}
)
"""The settlement states in which somebody has to act: their jobs are kept in order of entry."""


_NO_JOBS: Final[dict[JobStatus, int]] = dict.fromkeys(JobStatus, 0)
_NO_SETTLEMENTS: Final[dict[SettlementState, int]] = dict.fromkeys(SettlementState, 0)


class Level:
    """One priority of one queue, with a line for each status and settlement state."""

    __slots__ = ("lines", "priority", "queue")

    def __init__(self, queue: "JobQueue", priority: int) -> None:
        self.queue = queue
        self.priority = priority
        self.lines: dict[Claimed, ReadyLine] = {}

    def line(self, state: Claimed) -> ReadyLine:
        """Return the line for a status or settlement state."""
        line = self.lines.get(state)
        return line if line is not None else self.queue.new_line(self, state)


class JobQueue:
    """A queue: its jobs in order of creation and of entry into a status, and its ready lines."""

    __slots__ = (
        "_entered", "changes", "counts", "created", "is_paused", "jobs", "levels", "lines",
        "name", "settled",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_paused = False
        self.jobs = 0
        """How many jobs are stored."""
        self.changes = 0
        """How many jobs have come, moved or gone since its lines were checked."""
        self.counts = _NO_JOBS.copy()  # to go through the members of an enum takes a while
        self.settled = _NO_SETTLEMENTS.copy()
        self.created = CreationIndex()
        self.levels: dict[int, Level] = {}
        """By priority."""
        self.lines: dict[Claimed, list[ReadyLine]] = {}
        """By status or settlement state, the lines by priority."""
        self._entered: dict[Claimed, StaleLine[Any]] = {}

    def count(self, state: Claimed) -> int:
        """Return how many jobs are in a status or settlement state."""
        return self.counts[state] if type(state) is JobStatus else self.settled[state]  # type: ignore[index]

    def entered(self, state: Claimed) -> StaleLine[Any]:
        """Return the jobs in a status or settlement state, in order of entry.

        An entry is a slot; from a second entry on it is the version and the slot; for a settlement
        it is the time and the slot.
        """
        line = self._entered.get(state)
        if line is None:
            if isinstance(state, JobStatus):
                line = StaleLine(_is_in_status(state), frozenset(JobStatus) - {state})
            else:
                line = StaleLine(_is_in_state(state))
            self._entered[state] = line
        return line

    def entered_if_any(self, state: Claimed) -> StaleLine[Any] | None:
        """Return the same, or None if no job ever entered it: most queues use few statuses."""
        return self._entered.get(state)

    def new_line(self, level: Level, state: Claimed) -> ReadyLine:
        """Add a line to one of its levels."""
        line = level.lines[state] = ReadyLine(state, lambda: self.count(state))
        lines = {
            each: level.lines[state] for each, level in self.levels.items() if state in level.lines
        }
        self.lines[state] = [lines[priority] for priority in sorted(lines)]
        return line

    def oldest(self, state: Claimed) -> datetime | None:
        """Return when the oldest job of a status or settlement state entered it."""
        line = self.entered_if_any(state)
        entry = None if line is None else line.first()
        if entry is None:
            return None
        if type(state) is JobStatus:
            job: StoredJob = _slot_in(entry).job
            return job.updated_at
        return entry[0]  # type: ignore[no-any-return]


class _Wake(msgspec.Struct, eq=False):
    """When to look at the delayed jobs of a line again."""

    at: datetime
    line: ReadyLine
    state: Claimed
    queue: str


class _ServiceOrder:
    """The queues, those served longest ago first, and those never served before all others."""

    __slots__ = ("never", "served")

    def __init__(self) -> None:
        self.never: dict[str, None] = {}
        self.served: dict[str, None] = {}

    def add(self, queue: str) -> None:
        self.never[queue] = None

    def serve(self, queue: str) -> None:
        self.remove(queue)
        self.served[queue] = None

    def remove(self, queue: str) -> None:
        if queue in self.never:
            del self.never[queue]
        else:
            self.served.pop(queue, None)

    def __iter__(self) -> Iterator[str]:
        return chain(self.never, self.served)


class Queues:
    """All queues that have jobs or are paused."""

    def __init__(self, timeline: Timeline[datetime] | None = None) -> None:
        """Start without queues. `timeline`, by the time of records, learns when jobs are ready."""
        self.by_name: dict[str, JobQueue] = {}
        self.counts: dict[JobStatus, int] = dict.fromkeys(JobStatus, 0)
        """How many jobs of all queues are in each status."""
        self.changed: dict[tuple[Claimed, str], None] = {}
        """Where jobs may have become ready since parked claims were looked at last."""
        self.held: ShardedTable[Slot] = ShardedTable()
        """The jobs that were put on hold and not resumed, by id; ended ones too."""
        self._check_every = CHECK_EVERY
        self._tidy_min = TIDY_MIN
        """A line with fewer entries may have all of them dropped in one look."""
        self.are_many = False
        """Whether there has ever been more than one level."""
        self.are_barred = False
        """Whether a job has ever been on hold, delayed, or leased while it waits for input."""
        self.looked = 0.0
        """How many lines claims have looked at."""
        self.drops_left = DROPS_MAX
        """How many stale entries this step may still drop; 0 if something must wait for it."""
        self._orders = {state: _ServiceOrder() for state in CLAIMED}
        self._wakes: Timers[datetime, _Wake] = Timers(
            timeline or Timeline(NEVER), lambda wake: wake.at, _is_awaited, self._count_lines
        )

    # --- queues and levels ----------------------------------------------------------------------

    def level(self, name: str | None, priority: int) -> Level:
        """Return the level of a queue and priority; make both if they do not exist."""
        queue = self.add(name or DEFAULT_QUEUE)
        level = queue.levels.get(priority)
        if level is None:
            self.are_many |= bool(queue.levels) or len(self.by_name) > 1
            level = queue.levels[priority] = Level(queue, priority)
        return level

    def level_of(self, job: StoredJob) -> Level:
        """Return the level of a job; it lives as long as its jobs."""
        return self.by_name[job.queue].levels[job.priority]

    def pause(self, name: str) -> None:
        """Pause a queue. Raises JobConflictError if it is paused."""
        queue = self.add(name)
        if queue.is_paused:
            raise JobConflictError(f"queue {name} is paused")
        queue.is_paused = True

    def unpause(self, name: str) -> None:
        """End the pause of a queue. Raises JobConflictError if it is not paused."""
        if not self.is_paused(name):
            raise JobConflictError(f"queue {name} is not paused")
        queue = self.by_name[name]
        queue.is_paused = False
        for state in CLAIMED:
            self.changed[state, name] = None
        self._drop_if_empty(queue)

    def is_paused(self, name: str) -> bool:
        """Return whether a queue is paused."""
        queue = self.by_name.get(name)
        return queue is not None and queue.is_paused

    def add(self, name: str) -> JobQueue:
        """Return a queue; make it if it does not exist."""
        queue = self.by_name.get(name)
        if queue is not None:
            return queue
        name = DEFAULT_QUEUE if name == DEFAULT_QUEUE else name
        queue = self.by_name[name] = JobQueue(name)
        self._share_checks()
        for order in self._orders.values():
            order.add(name)
        return queue

    def _drop_if_empty(self, queue: JobQueue) -> None:
        if queue.jobs or queue.is_paused:
            return
        del self.by_name[queue.name]
        self._share_checks()
        for line in chain.from_iterable(queue.lines.values()):
            line.wake_at = None  # its timer is outdated
        for order in self._orders.values():
            order.remove(queue.name)

    # --- jobs come, move and go -----------------------------------------------------------------

    def add_new(self, slots: list[Slot], level: Level) -> None:
        """Add new jobs of one level, created after all others."""
        queue, added = level.queue, len(slots)
        queue.jobs += added
        queue.counts[AWAITING_PAYMENT] += added
        self.counts[AWAITING_PAYMENT] += added
        queue.created.add(slots)
        queue.entered(AWAITING_PAYMENT).extend(slots)
        level.line(AWAITING_PAYMENT).enter_new(slots)
        self.changed[AWAITING_PAYMENT, queue.name] = None

    def move(
        self, slots: list[Slot], level: Level, before: JobStatus, after: JobStatus, at: datetime
    ) -> None:
        """Record that jobs of one level have just changed from `before` to `after`."""
        queue, moved = level.queue, len(slots)
        counts = queue.counts
        counts[before] -= moved
        counts[after] += moved
        self.counts[before] -= moved
        self.counts[after] += moved
        is_first = before is AWAITING_PAYMENT
        if after in TERMINAL or is_first:
            queue.entered(after).extend(slots)
        else:
            queue.entered(after).extend(
                [
                    slot if slot.job.version <= ONLY_ENTRY else (slot.job.version, slot)
                    for slot in slots
                ]
            )
        queue.changes += moved
        if queue.changes >= self._check_every:
            self._check(queue)
        if after not in TERMINAL:
            self._offer(slots, level, after, at, is_first=is_first)

    def free(self, slot: Slot, at: datetime) -> None:
        """Put a job that was leased, on hold or delayed back in its line, now or when it is due."""
        job, level = slot.job, self.level_of(slot.job)
        if slot.entries & READY:
            return
        level.queue.changes += 1
        if job.status not in TERMINAL:
            self._offer([slot], level, job.status, at)
        elif job.settlement is not None and job.settlement.state in CLAIMABLE:
            self._offer([slot], level, job.settlement.state, at)

    def settle(
        self, slot: Slot, before: SettlementState | None, after: SettlementState, at: datetime
    ) -> None:
        """Record that the settlement of a job has just changed from `before` to `after`."""
        level = self.level_of(slot.job)
        queue = level.queue
        queue.changes += 1
        if before is not None:
            queue.settled[before] -= 1
            if before in DATED:
                queue.entered(before).check(1, queue.settled[before])
        queue.settled[after] += 1
        if after in DATED:
            queue.entered(after).extend([(at, slot)])
        if before is SettlementState.PENDING:
            slot.entries = 0  # those of its work
        if after in CLAIMABLE:
            is_first = before is SettlementState.PENDING
            self._offer([slot], level, after, at, is_first=is_first)

    def remove(self, slot: Slot) -> None:
        """Record that a finished job was removed: its version is 0 now."""
        queue, job = self.level_of(slot.job).queue, slot.job
        queue.jobs -= 1
        queue.counts[job.status] -= 1
        self.counts[job.status] -= 1
        if job.settlement is not None:
            queue.settled[job.settlement.state] -= 1
        queue.created.remove(slot)
        if job.job_id in self.held:
            del self.held[job.job_id]
        queue.changes += 1
        if queue.changes >= self._check_every:
            self._check(queue)
        self._drop_if_empty(queue)

    def _share_checks(self) -> None:
        """Set after how many changes a queue is checked: many queues share the work of a few.

        In the same way they share the entries that need not be counted when they are dropped.
        """
        queues = max(FEW_QUEUES, len(self.by_name))
        self._check_every = max(CHECK_EVERY_MIN, FEW_QUEUES * CHECK_EVERY // queues)
        self._tidy_min = FEW_QUEUES * TIDY_MIN // queues

    def _check(self, queue: JobQueue) -> None:
        """Check some entries of each line of a queue, as many as it has had changes."""
        changes, queue.changes = queue.changes, 0
        shares = len(self.by_name)
        for state in _NO_JOBS:
            queue.entered(state).check(changes, queue.counts[state], shares)
        for lines in queue.lines.values():
            for line in lines:
                line.check(changes, line.count(), shares)

    def _offer(
        self,
        slots: Sequence[Slot],
        level: Level,
        state: Claimed,
        at: datetime,
        *,
        is_first: bool = False,
    ) -> None:
        """Put jobs of a status or state in their line, each as soon as it may be claimed."""
        line = level.line(state)
        if not self.are_barred:
            line.join(slots, at, is_first=is_first)
            self.changed[state, level.queue.name] = None
            return
        level.queue.changes += len(slots)
        for slot in slots:
            if is_first:
                slot.entries = 0
            not_before = line.not_before(slot)
            if slot.lease is not None or slot.job.on_hold:
                slot.entries &= ~READY
            elif not_before is not None and not_before > at:
                line.delay(slot, not_before)
                self._wake(line, level.queue.name, not_before)
            else:
                line.join([slot], at)
                self.changed[state, level.queue.name] = None

    # --- claims ---------------------------------------------------------------------------------

    def has_ready(self, state: Claimed, name: str, at: datetime) -> bool:
        """Return whether a claim of a queue would get a job; False while it is not tidy."""
        queue = self.by_name.get(name)
        if queue is None or queue.is_paused:
            return False
        return any(
            self.is_tidy(line) and self._ready(line, name, at) is not None
            for line in queue.lines.get(state, ())
        )

    def is_tidy(self, line: StaleLine[Any]) -> bool:
        """Drop stale entries at the head of a line; return whether its first entry is known.

        All lines together drop `drops_left` entries: then nothing is tidy in this step.
        """
        if self.drops_left and len(line) + line.delayed() > self._tidy_min:
            self.drops_left = line.tidy(self.drops_left)
        return self.drops_left > 0

    def knows_oldest(self, queue: JobQueue, state: Claimed) -> bool:
        """Return whether `oldest` can be asked for a status or state in this step."""
        line = queue.entered_if_any(state)
        return line is None or self.is_tidy(line)

    def take(self, state: Claimed, names: Iterable[str], limit: int, at: datetime) -> list[Slot]:
        """Take out up to `limit` jobs that may be claimed. Lease each, or put them back.

        The queues come in the order named, and `*` stands for all of them, those served longest ago
        first. In a queue the jobs come by priority, and then in the order of their line. `looked`
        counts the lines that are empty now. It ends at a line that is not tidy.
        """
        taken: list[Slot] = []
        for name in self._orders[state] if ALL_QUEUES in names else names:
            queue = self.by_name.get(name)
            if queue is None or queue.is_paused:
                self.looked += QUEUE_LOOK
                continue
            for line in (lines := queue.lines.get(state, ())):
                if not self.is_tidy(line):
                    return taken
                while len(taken) < limit and (slot := line.take(at)) is not None:
                    taken.append(slot)
                if len(taken) == limit:
                    return taken
                self._ready(line, name, at)
            self.looked += QUEUE_LOOK + len(lines)
        return taken

    def put_back(self, state: Claimed, slots: Sequence[Slot]) -> None:
        """Put back the last of the jobs that were taken out."""
        for slot in reversed(slots):
            self.level_of(slot.job).line(state).put_back(slot)

    def served(self, served: Iterable[tuple[Claimed, str]]) -> None:
        """Record that claims got jobs in these statuses or states, of these queues."""
        for state, queue in served:
            if (order := self._orders.get(state)) is not None:
                order.serve(queue)

    def wake(self, at: datetime) -> None:
        """Add to `changed` the queues in which delayed jobs are due: some of them in each step."""
        for wake in islice(self._wakes.due(at), WAKES_MAX):
            wake.line.wake_at = None
            self.changed[wake.state, wake.queue] = None

    def _ready(self, line: ReadyLine, name: str, at: datetime) -> Slot | None:
        """Return the first job of a line; else set a timer for the next delayed job."""
        slot = line.ready(at)
        if slot is None and line.delays is not None and (first := line.delays.first()) is not None:
            self._wake(line, name, first[0])
        return slot

    def _wake(self, line: ReadyLine, name: str, at: datetime) -> None:
        if line.wake_at is None or at < line.wake_at:
            line.wake_at = at
            self._wakes.add(_Wake(at, line, line.state, name))

    def _count_lines(self) -> int:
        return sum(len(queue.lines) for queue in self.by_name.values())

    # --- snapshots ------------------------------------------------------------------------------

    def orders(self) -> list[tuple[Claimed, list[str], list[str]]]:
        """Return for each status or state the queues that were never served, and the others."""
        return [(state, [*order.never], [*order.served]) for state, order in self._orders.items()]

    def restore_order(self, state: Claimed, never: Iterable[str], served: Iterable[str]) -> None:
        """Set what `orders` has returned."""
        order = self._orders[state]
        order.never, order.served = dict.fromkeys(never), dict.fromkeys(served)

    def restore(self, slot: Slot) -> None:
        """Add a job of a snapshot, created after all others; its lines are restored apart."""
        job, queue = slot.job, self.level_of(slot.job).queue
        queue.jobs += 1
        queue.counts[job.status] += 1
        self.counts[job.status] += 1
        if job.settlement is not None:
            queue.settled[job.settlement.state] += 1
        queue.created.add([slot])
        if job.on_hold:
            self.held[job.job_id] = slot

    def restore_delayed(self, slot: Slot, at: datetime) -> None:
        """Add a job that is in no line to the delayed ones, if it is delayed."""
        job, level = slot.job, self.level_of(slot.job)
        state: Claimed = job.status
        if job.status in TERMINAL:
            if job.settlement is None or job.settlement.state not in CLAIMABLE:
                return
            state = job.settlement.state
        line = level.line(state)
        not_before = line.not_before(slot)
        if slot.lease is None and not job.on_hold and not_before is not None:
            line.delay(slot, not_before)
            self._wake(line, level.queue.name, max(at, not_before))


def _slot_in(entry: Slot | tuple[int, Slot]) -> Slot:
    return entry[1] if type(entry) is tuple else entry  # type: ignore[return-value]


def _is_in_status(status: JobStatus) -> Callable[[Any], bool]:
    is_terminal = status in TERMINAL

    def is_true(entry: Slot | tuple[int, Slot]) -> bool:
        if type(entry) is tuple:
            version, slot = entry
            return slot.job.status is status and slot.job.version == version
        job = entry.job  # type: ignore[union-attr]
        if job.status is not status or not job.version:
            return False
        return is_terminal or job.version <= ONLY_ENTRY

    return is_true


def _is_in_state(state: SettlementState) -> Callable[[Any], bool]:
    def is_true(entry: tuple[datetime, Slot]) -> bool:
        settlement = entry[1].job.settlement
        return (
            settlement is not None
            and settlement.state is state
            and settlement.updated_at == entry[0]
            and entry[1].job.version > 0
        )

    return is_true


def _is_awaited(wake: _Wake) -> bool:
    return wake.line.wake_at == wake.at
