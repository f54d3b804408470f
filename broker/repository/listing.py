"""Pages of jobs in order of creation, of all queues or one, in all statuses or one.

A page looks at a bounded number of jobs, so it may be short or empty although there are more. But
where few jobs are in the wanted status, only those are looked at: all of them come at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from tollgate.broker.repository.job import Claimed, Slot
from tollgate.broker.repository.queues import DATED, JobQueue, Queues
from tollgate.domain.status import JobStatus

SCAN_JOBS_MAX: Final = 10_000
"""How many jobs one page of a list looks at. A page may be short; a call may not be long."""
GATHER_COST: Final = 1
"""Looking at this number of entries of a status takes as long as looking at one job by creation.
Entries may lie in any order in memory: with more of them a page would take too long."""
FEW_QUEUES: Final = 16
"""A page of up to this number of queues costs little more than a page of one."""
MERGE_COST: Final = 3
"""With more queues, looking at a job by creation takes this number of times as long."""
_index_of = attrgetter("index")


class Wanted(NamedTuple):
    """Which jobs a list shows, and in which order."""

    state: Claimed | None = None
    """A status, or the state of a settlement."""
    queue: str | None = None
    newest: bool = False


class Page(msgspec.Struct):
    """Jobs by their slots, and `more`: the place to go on behind, None at the end."""

    slots: list[Slot]
    more: int | None
    scanned: int
    """What the page cost, in looks at one job by creation."""


def page(queues: Queues, wanted: Wanted, after: int | None, limit: int, scan_max: int) -> Page:
    """Return up to `limit` jobs behind the place `after`; None is the beginning."""
    if wanted.queue is None:
        some: Sequence[JobQueue] = [*queues.by_name.values()]
    else:
        queue = queues.by_name.get(wanted.queue)
        some = [] if queue is None else [queue]
    state = wanted.state
    if state is not None and (type(state) is JobStatus or state in DATED):
        entries = sum(len(queue.entered(state)) for queue in some)
        if entries <= GATHER_COST * scan_max:
            return _gathered(some, state, wanted, after, limit)
    return _scanned(some, wanted, after, limit, scan_max)


def is_in(slot: Slot, state: Claimed | None) -> bool:
    """Return whether a job is in a status or settlement state; None is any."""
    job = slot.job
    if state is None or not job.version:
        return job.version > 0
    if type(state) is JobStatus:
        return job.status is state
    return job.settlement is not None and job.settlement.state is state


def _gathered(
    queues: Iterable[JobQueue], state: Claimed, wanted: Wanted, after: int | None, limit: int
) -> Page:
    """Look at all jobs that have entered the status, and at no other."""
    entries = [*chain.from_iterable(queue.entered(state) for queue in queues)]
    slots: list[Slot] = [entry[1] if type(entry) is tuple else entry for entry in entries]
    if after is not None:
        newest = wanted.newest
        slots = [s for s in slots if (s.index < after if newest else s.index > after)]
    slots = [slot for slot in slots if is_in(slot, state)]
    slots.sort(key=_index_of, reverse=wanted.newest)
    shown: list[Slot] = []
    for slot in slots:
        if shown and slot is shown[-1]:  # it has entered the status more than once
            continue
        if len(shown) == limit:
            return Page(shown, shown[-1].index, len(entries) // GATHER_COST)
        shown.append(slot)
    return Page(shown, None, len(entries) // GATHER_COST)


def _scanned(
    queues: Sequence[JobQueue], wanted: Wanted, after: int | None, limit: int, scan_max: int
) -> Page:
    """Look at the jobs in order of creation, up to `scan_max` of them."""
    cost = MERGE_COST if len(queues) > FEW_QUEUES else 1
    scan_max = max(1, scan_max // cost)
    remaining = _in_order(queues, after, newest=wanted.newest)
    slots: list[Slot] = []
    scanned, last = 0, after
    for slot in islice(remaining, scan_max):
        scanned += 1
        last = slot.index
        if is_in(slot, wanted.state):
            slots.append(slot)
            if len(slots) == limit:
                break
    return Page(slots, last if next(remaining, None) is not None else None, scanned * cost)


def _in_order(queues: Sequence[JobQueue], after: int | None, *, newest: bool) -> Iterator[Slot]:
    if newest:
        lists = [queue.created.before(after) for queue in queues]
    else:
        lists = [queue.created.after(-1 if after is None else after) for queue in queues]
    if len(lists) == 1:
        return lists[0]
    return merge(*lists, key=_index_of, reverse=newest)
