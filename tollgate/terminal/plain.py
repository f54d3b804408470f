"""Shows jobs and counts as plain text, for pipes and files, and lists the fields to show."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from tollgate.domain.results import CountResult
from tollgate.terminal.text import ago, iso, one_line, printable

if TYPE_CHECKING:
    from tollgate.domain.models import Job

LABEL_WIDTH = 12
STATUS_WIDTH = 16


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
    yield "payment", printable(job.blockchain_identifier)
    if job.identifier_from_purchaser is not None:
        yield "purchaser", printable(job.identifier_from_purchaser)
    yield "input hash", job.input_hash
    for label, text in (
        ("input", job.input),
        ("asks for", job.input_schema),
        ("answer", job.provided_input),
        ("result", job.result),
        ("error", job.error),
    ):
        if text is not None:
            yield label, printable(text)


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


def row(job: "Job") -> str:
    """Return a job as a line of a list."""
    return f"{job.job_id}  {job.status:{STATUS_WIDTH}}  {iso(job.created_at)}  {snippet(job)}"


def count_lines(count: CountResult) -> Iterator[str]:
    """Yield a line for each status: its name, the number, the oldest; and the total."""
    width = len(str(count.total))
    for status, number in count.by_status.items():
        since = count.oldest.get(status)
        oldest = f"  oldest since {iso(since)}" if since else ""
        yield f"{status:{STATUS_WIDTH}}  {number:>{width}}{oldest}"
    if len(count.by_status) > 1:
        yield f"{'total':{STATUS_WIDTH}}  {count.total:>{width}}"
