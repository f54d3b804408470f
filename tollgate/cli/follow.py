"""Follows jobs: those that there are, then each again when it changes."""

from collections.abc import Iterable, Iterator, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from tollgate.cli.events import pages
from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import DrainingError, JobNotFoundError, TollgateError
from tollgate.domain.results import JobEvent
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

if TYPE_CHECKING:
    from tollgate.domain.models import Job

PAGE: Final = 100
PAUSE_S: Final = 0.5
"""How long to wait before a broker that is away is asked again."""
Shown = tuple[int, SettlementState | None]
"""What tells two states of a job apart: its version, and the state of its settlement."""


def follow_jobs(
    client: Client,
    status: JobStatus | None = None,
    *,
    queue: str | None = None,
    settlement: SettlementState | None = None,
    lease: bool = False,
) -> Iterator["Job"]:
    """Yield the jobs by creation, then each one again when its status changes, without end.

    With `settlement`, also when its settlement changes. A job is yielded as it is by then, and only
    if it is still what was asked for. No change is missed: the events are read on from the position
    of the first page of the list. Raises EventsGoneError if the reader is too slow for that.
    """
    shown: dict[str, Shown] = {}  # until the events have caught up with the list
    only: dict[str, Any] = {"queue": queue, "settlement": settlement, "lease": lease}
    page = client.list_page(status, limit=PAGE, **only)
    position = page.as_of
    while True:
        for job in page.jobs:
            shown[job.job_id] = _shown(job)
            yield job
        if page.next is None:
            break
        page = client.list_page(status, limit=PAGE, after=page.next, **only)
    for events in pages(client, position, follow=True, queues=queue, statuses=status):
        ids = _changed(events.events, with_settlements=settlement is not None)
        for job in _current(client, ids, lease=lease):
            is_wanted = status in (None, job.status) and settlement in (None, _shown(job)[1])
            if is_wanted and shown.get(job.job_id) != _shown(job):
                shown[job.job_id] = _shown(job)
                yield job
        if events.next == events.as_of:
            shown = {job_id: shown[job_id] for job_id in ids if job_id in shown}


def _shown(job: "Job") -> Shown:
    return job.version, None if job.settlement is None else job.settlement.state


def _changed(events: Iterable[JobEvent], *, with_settlements: bool) -> Sequence[str]:
    """Return the jobs that were created, have moved, or whose settlement has changed; each once."""
    found: dict[str, None] = {}
    for event in events:
        if event.job_id is None:
            continue
        changed = event.changed
        is_settled = with_settlements and changed is not None and changed.settlement is not UNSET
        if event.what == "created" or event.from_ is not None or is_settled:
            found[event.job_id] = None
    return [*found]


def _current(client: Client, ids: Sequence[str], *, lease: bool) -> Iterator["Job"]:
    """Yield jobs as they are now, without those that are gone; wait for a broker that is away."""
    for start in range(0, len(ids), PAGE):
        left = ids[start : start + PAGE]
        while left:
            batch = client.batch()
            for job_id in left:
                batch.get(job_id, lease=lease)
            answers, asked, left = batch.send(), left, []
            for job_id, answer in zip(asked, answers, strict=True):
                if isinstance(answer, BrokerUnreachableError | DrainingError):
                    left.append(job_id)
                elif isinstance(answer, TollgateError):
                    if not isinstance(answer, JobNotFoundError):
                        raise answer
                else:
                    yield answer
            if left:
                sleep(PAUSE_S)
