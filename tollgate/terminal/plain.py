"""Shows jobs, histories and counts as plain text, for pipes and files; says what to show."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from tollgate.domain.results import (
    DEFAULT_QUEUE,
    CountResult,
    HistoryEntry,
    HistoryResult,
    JobEvent,
    LeaseInfo,
    Progress,
    Settlement,
)
from tollgate.terminal.text import ago, counted, duration, iso, local_iso, one_line, printable

if TYPE_CHECKING:
    from tollgate.domain.models import Job

LABEL_WIDTH = 12
STATUS_WIDTH = 16
EVENT_WIDTH = 27
"""As wide as the longest move."""
HISTORY_LAST = 48
"""How many of the newest entries of a history a broker keeps; what is left out is before them."""


def fields(job: "Job", now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the fields of a job that a person reads, as labels and values that are safe to show."""
    yield "created", _moment(job.created_at, now)
    if job.version > 1:
        yield "updated", _moment(job.updated_at, now)
    if job.pay_by_time and job.status == "awaiting_payment":
        yield "pay by", _moment(job.pay_by_time, now)
    if job.submit_result_time:
        yield "result by", _moment(job.submit_result_time, now)
    yield "version", str(job.version)
    yield from _work(job, now)
    yield "payment", printable(job.blockchain_identifier)
    if job.identifier_from_purchaser is not None:
        yield "purchaser", printable(job.identifier_from_purchaser)
    yield "input hash", job.input_hash
    texts = [("input", job.input)]
    rounds = list(enumerate(job.inputs or (), 1))
    for number, asked in rounds[:-1]:  # the last one is in the job's own fields
        texts += [(f"question {number}", asked.schema), (f"answer {number}", asked.text)]
    texts += [
        ("asks for", job.input_schema),
        ("answer", job.provided_input),
        ("result", job.result),
        ("error", job.error),
        ("meta", job.meta),
    ]
    for label, text in texts:
        if text is not None:
            yield label, printable(text)


def _work(job: "Job", now: datetime) -> Iterator[tuple[str, str]]:
    """Yield who gets the job and when, and how far its work and its settlement are."""
    if job.queue != DEFAULT_QUEUE:
        yield "queue", job.queue
    if job.priority:
        yield "priority", str(job.priority)
    if job.not_before and job.not_before > now:
        yield "not before", _moment(job.not_before, now)
    if job.attempts:
        yield "attempts", str(job.attempts)
    if job.on_hold:
        yield "on hold", "until `tollgate resume`"
    if job.stop_requested:
        yield "stop", "requested"
    if job.lease:
        yield "held by", held_by(job.lease)
    if job.progress:
        yield "progress", _progress(job.progress, now)
    if job.settlement:
        yield "settlement", _settlement(job.settlement, now)


def held_by(lease: LeaseInfo) -> str:
    """Return who holds a lease and how long it lasts, if it is not extended."""
    return printable(f"{lease.by} {lease.client}, {duration(lease.left_ms / 1_000)} left")


def _progress(progress: Progress, now: datetime) -> str:
    part = "" if progress.fraction is None else f"{progress.fraction:.0%}  "
    since = f"  {ago(progress.at, now)}" if progress.at else ""
    return f"{part}{one_line(progress.text)}{since}"


def _settlement(settlement: Settlement, now: datetime) -> str:
    parts = [settlement.state, ago(settlement.updated_at, now)]
    if settlement.on_chain_state:
        parts.append(f"on chain {settlement.on_chain_state}")
    if settlement.not_before and settlement.not_before > now:
        parts.append(f"again {ago(settlement.not_before, now)}")
    if settlement.reason:
        parts.append(settlement.reason)
    return one_line(", ".join(parts))


def _moment(moment: datetime, now: datetime) -> str:
    return f"{iso(moment)}  {ago(moment, now)}"


def job_lines(job: "Job", now: datetime) -> Iterator[str]:
    """Yield a job as lines of a label and a value; further lines of a text are indented."""
    yield f"{'job':{LABEL_WIDTH}}{job.job_id}"
    yield f"{'status':{LABEL_WIDTH}}{job.status}"
    for label, value in fields(job, now):
        yield f"{label:{LABEL_WIDTH}}{value}".replace("\n", "\n" + " " * LABEL_WIDTH)


def snippet(job: "Job") -> str:
    """Return a job's result, error or input in one line."""
    return one_line(job.result or job.error or job.input or "")


def marks(job: "Job") -> str:
    """Return in brackets what is unusual about a job, for a line of a list."""
    found = [
        job.queue if job.queue != DEFAULT_QUEUE else "",
        "on hold" if job.on_hold else "",
        "asked to stop" if job.stop_requested else "",
    ]
    text = ", ".join(filter(None, found))
    return f"[{text}] " if text else ""


def row(job: "Job") -> str:
    """Return a job as a line of a list."""
    held = f"[held by {held_by(job.lease)}] " if job.lease else ""
    start = f"{job.job_id}  {job.status:{STATUS_WIDTH}}  {iso(job.created_at)}  "
    return f"{start}{held}{marks(job)}{snippet(job)}"


def history_lines(history: HistoryResult) -> Iterator[str]:
    """Yield a history as a line for each entry: its time, what happened, who did it, and why."""
    what_width, who_width = widths(history)
    for entry in entries_and_gap(history):
        if isinstance(entry, str):
            yield entry
        else:
            line = f"{local_iso(entry.at)}  {what(entry):{what_width}}  {who(entry):{who_width}}"
            yield f"{line}  {one_line(why(entry))}".rstrip()
    if history.lease:
        yield f"held by {held_by(history.lease)}"


def entries_and_gap(history: HistoryResult) -> Iterator[HistoryEntry | str]:
    """Yield the entries of a history, and a text in the place of those that were not kept."""
    gap = len(history.entries) - HISTORY_LAST
    for number, entry in enumerate(history.entries):
        if number == gap and history.left_out:
            yield f"... {counted(history.left_out, 'change')} in between: not kept"
        yield entry


def widths(history: HistoryResult) -> tuple[int, int]:
    """Return how wide the columns of a history are: what happened, and who did it."""
    return (
        max((len(what(entry)) for entry in history.entries), default=0),
        max((len(who(entry)) for entry in history.entries), default=0),
    )


_WHAT = {
    "lapsed": "lease lapsed",
    "held": "put on hold",
    "resumed": "taken off hold",
    "stop_requested": "asked to stop",
    "annotated": "note changed",
    "input_provided": "answered",
    "settled": "settlement noted",
}


def what(entry: HistoryEntry) -> str:
    """Return what happened, in a few words."""
    if entry.what == "moved":
        text = f"{entry.from_} -> {entry.to}"
    elif entry.what == "settled" and entry.to:  # what it was before stands in a line above
        text = f"settlement -> {entry.to}"
    else:
        text = _WHAT.get(entry.what, entry.what.replace("_", " "))
    return text if entry.attempt is None else f"{text}, attempt {entry.attempt}"


def event_line(event: JobEvent) -> str:
    """Return an event as a line: its time, what happened, to which job, who did it, and why."""
    changed, reason = event.changed, event.reason
    to: str | None = event.status
    if changed is not None and isinstance(changed.settlement, Settlement):
        to = changed.settlement.state if event.what == "settled" else to
    if changed is not None and isinstance(changed.progress, Progress):
        reason = changed.progress.text
    entry = HistoryEntry(
        event.at, event.what, event.from_, to, event.by, event.client, event.attempt, reason
    )
    of = event.job_id or f"queue {event.queue}"
    if event.job_id and event.queue != DEFAULT_QUEUE:
        of += f" [{event.queue}]"
    does = who(entry) if event.by or event.client else "broker"
    line = f"{local_iso(event.at)}  {what(entry):{EVENT_WIDTH}}  {printable(of)}  {does}"
    return f"{line}  {one_line(why(entry))}".rstrip()


def why(entry: HistoryEntry) -> str:
    """Return the reason that was given; of a lease that lapsed, the broker gives its holder."""
    reason = printable(entry.reason or "")
    return f"held by {reason}" if reason and entry.what == "lapsed" else reason


def who(entry: HistoryEntry) -> str:
    """Return who did it: a principal and its client, or the broker by itself."""
    known = printable(" ".join(filter(None, (entry.by, entry.client))))
    return known or ("-" if entry.what == "created" else "broker")


def count_lines(count: CountResult) -> Iterator[str]:
    """Yield a line for each status: its name, the number, the oldest; the total; settlements."""
    width = len(str(count.total))
    for status, number in count.by_status.items():
        since = count.oldest.get(status)
        oldest = f"  oldest since {iso(since)}" if since else ""
        yield f"{status:{STATUS_WIDTH}}  {number:>{width}}{oldest}"
    if len(count.by_status) > 1:
        yield f"{'total':{STATUS_WIDTH}}  {count.total:>{width}}"
    for state, number in count.by_settlement.items():
        yield f"{f'settle {state}':{STATUS_WIDTH}}  {number:>{width}}"
