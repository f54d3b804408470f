"""The commands that read many jobs, or the whole life of one: count, list, history."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tollgate.broker.core.context import Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.leases import info
from tollgate.broker.core.limits import RESULT_BYTES, job_bytes_max
from tollgate.broker.repository.job import Claimed
from tollgate.broker.repository.listing import FEW_QUEUES, Wanted
from tollgate.broker.repository.queues import JobQueue
from tollgate.domain.commands import Count, History, List
from tollgate.domain.exceptions import ReplyFullError
from tollgate.domain.results import CountResult, HistoryResult, JobsResult
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

STATUSES: Final = [*JobStatus]
"""A list: to go through the members of an enum takes a while."""
LIST_QUEUE_SCANS: Final = 3
"""Cost of beginning a page, for each queue, in scans: looks at one job."""
COUNT_SCANS: Final = 16
"""Cost of counting, in scans."""
COUNT_QUEUE_SCANS: Final = 2
"""What each queue adds to it."""
SHOWN_SCANS: Final = 3
"""Cost of showing a job in a page, in scans,"""
LEASE_SCANS: Final = 2
"""and of showing its lease."""
HISTORY_SCANS: Final = 160
"""Cost of reading a long history, in scans."""


def count_jobs(context: Context, command: Count, _: RequestContext) -> CountResult:
    """Count jobs by status, and tell since when the oldest of each has been there.

    Counts are kept until something happens: a message may ask a thousand times.
    """
    position = context.position()
    if context.counted_at != position:
        context.counted_at = position
        context.counted.clear()
    key = (command.status, command.settlement, command.queue)
    counted = context.counted.get(key)
    if counted is None:
        context.check_scans()
        queues = _queues(context, command.queue)
        if not all(_are_tidy(context, queue, command) for queue in queues):
            raise context.put_off()
        context.scans_left -= COUNT_SCANS + COUNT_QUEUE_SCANS * len(queues)
        counted = _count(queues, command, position)
        if queues:  # anybody can make up names of queues that are not there
            context.counted[key] = counted
    return counted


def _are_tidy(context: Context, queue: JobQueue, command: Count) -> bool:
    """Return whether the oldest of a status or state can be asked for in this step."""
    state = command.status or command.settlement
    states: Sequence[Claimed] = [state] if state else STATUSES
    queues = context.state.jobs.queues
    return all(queues.knows_oldest(queue, each) for each in states if queue.count(each))


def _count(queues: list[JobQueue], command: Count, position: str) -> CountResult:
    asked = [command.status] if command.status else STATUSES
    states = [command.settlement] if command.settlement else [*SettlementState]
    if command.settlement:
        asked = []
    by_status = {status.value: sum(queue.counts[status] for queue in queues) for status in asked}
    by_settlement: dict[str, int] = {}
    if command.status is None:
        counted = {state.value: sum(queue.settled[state] for queue in queues) for state in states}
        by_settlement = {
            state: number for state, number in counted.items() if number or command.settlement
        }
    shown: list[Claimed] = [*asked, *([command.settlement] if command.settlement else [])]
    oldest: dict[str, datetime | None] = {}
    for each in shown:
        times = [queue.oldest(each) for queue in queues if queue.count(each)]
        oldest[each.value] = min(filter(None, times), default=None)
    total = sum((by_settlement if command.settlement else by_status).values())
    return CountResult(total, by_status, oldest, by_settlement, position)


def _queues(context: Context, name: str | None) -> list[JobQueue]:
    by_name = context.state.jobs.queues.by_name
    if name is None:
        return [*by_name.values()]
    return [by_name[name]] if name in by_name else []


def list_jobs(context: Context, command: List, request: RequestContext) -> JobsResult:
    """Show a page of jobs: as many as there are, as were asked for, and as fit.

    All pages of a batch share one scan budget; a page that begins without any left scans one job.
    """
    queues = 1 if command.queue else len(context.state.jobs.queues.by_name)
    if queues > FEW_QUEUES:
        context.check_scans()
    wanted = Wanted(command.status or command.settlement, command.queue, command.newest)
    after = None if command.after is None else int(command.after)
    if queues > FEW_QUEUES:
        context.scans_left -= LIST_QUEUE_SCANS * queues
    scan_max = max(1, context.scans_left)
    page = context.state.jobs.page(wanted, after, command.limit, scan_max)
    context.scans_left -= page.scanned
    room_bytes = request.room_bytes - RESULT_BYTES
    slots, more = page.slots, page.more
    for place, slot in enumerate(slots):
        room_bytes -= job_bytes_max(slot)
        if room_bytes < 0:
            if place == 0:
                raise ReplyFullError("the next job would not fit in this reply")
            slots, more = slots[:place], slots[place - 1].index
            break
    jobs: list[Any] = [slot.job for slot in slots]
    context.scans_left -= SHOWN_SCANS * len(jobs)
    if context.state.jobs.have_parts:
        context.scans_left -= sum([len(job.inputs) for job in jobs if job.inputs])
    if command.lease:
        for place, slot in enumerate(slots):
            if slot.lease is not None:
                jobs[place] = slot.job.shown(info(slot, request.now_ms))
                context.scans_left -= LEASE_SCANS
    return JobsResult(jobs, None if more is None else str(more), context.position())


def history(context: Context, command: History, request: RequestContext) -> HistoryResult:
    """Show what has happened to a job, and who holds it now."""
    jobs = context.state.jobs
    slot = jobs.require(command.job_id)
    context.check_scans()
    context.scans_left -= HISTORY_SCANS
    entries, left_out = jobs.origins.read(slot.job.created_at, slot.history)
    lease = info(slot, request.now_ms)
    return HistoryResult(command.job_id, entries, left_out, lease, context.position())


LIST_COMMANDS: Final[Handlers] = {
    Count: one_by_one(count_jobs),
    List: one_by_one(list_jobs),
    History: one_by_one(history),
}
