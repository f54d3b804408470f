"""A replica of all jobs as `list` shows them, without their texts: made from a list and events."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tollgate.domain.models import Job
from tollgate.domain.results import JobEvent, JobFields

TEXTS = frozenset({"input", "result", "error", "input_schema", "provided_input"})
NOT_KEPT = TEXTS | {"lease"}
"""The holder of a job is no event: it is shown only by commands that ask for it."""
_NEW: dict[str, Any] = {
    field.name: field.default
    for field in msgspec.structs.fields(JobFields)
    if field.name not in NOT_KEPT and field.default is not msgspec.NODEFAULT
}
"""The fields that a new job has without its event telling them."""

Jobs = dict[str, dict[str, Any]]


def shown(job: JobFields | Job) -> dict[str, Any]:
    """Return the fields of a job that a replica keeps."""
    fields = msgspec.structs.asdict(job) if isinstance(job, msgspec.Struct) else dict(job)
    return {name: value for name, value in fields.items() if name not in NOT_KEPT}


class Replica:
    """Takes the events in order. Raises AssertionError for one that contradicts what it has.

    A list of several pages already shows a part of what the events after its first page tell. So
    they are taken as they come until `is_strict`: fields have their new values, and an event of a
    job that the list does not have is of one that was removed meanwhile.
    """

    def __init__(self, jobs: Iterable[JobFields | Job] = (), *, is_strict: bool = True) -> None:
        self.jobs: Jobs = {job.job_id: shown(job) for job in jobs}
        self.events = 0
        self.is_strict = is_strict

    def apply(self, event: JobEvent) -> None:
        self.events += 1
        if event.job_id is None:  # of a queue
            return
        job = self.jobs.get(event.job_id)
        if self.is_strict:
            check(event, job)
        if event.what == "created":
            self.jobs[event.job_id] = {**_NEW, "job_id": event.job_id, **event.fields}
        elif event.what == "removed":
            self.jobs.pop(event.job_id, None)
        elif job is not None:
            job.update(event.fields)

    def apply_all(self, events: Iterable[JobEvent]) -> None:
        for event in events:
            self.apply(event)


def check(event: JobEvent, job: dict[str, Any] | None) -> None:
    """Raise AssertionError if an event is missing before this one, or if it comes twice."""
    if event.what == "created":
        assert job is None, f"{event} comes twice"
        return
    assert job is not None, f"{event} is of a job that was not created"
    before = job["version"]
    if event.what in ("moved", "input_provided"):
        assert (event.version, event.from_) == (before + 1, job["status"]), (event, job)
    else:
        assert (event.version, event.status) == (before, job["status"]), (event, job)
    assert event.queue == job["queue"], (event, job)


def differences(replica: Jobs, true: Jobs) -> list[str]:
    """Return how a replica differs from what the broker lists, a line for each job."""
    told = [f"{job_id} is missing" for job_id in true.keys() - replica.keys()]
    told += [f"{job_id} is there no longer" for job_id in replica.keys() - true.keys()]
    for job_id in true.keys() & replica.keys():
        mine, theirs = replica[job_id], true[job_id]
        fields = {name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
        told += [
            f"{job_id}: {name} is {mine.get(name)!r}, not {theirs.get(name)!r}"
            for name in sorted(fields)
        ]
    return told
