"""A job as the repository stores it, how large its texts are, and what a change came to."""

from collections.abc import Callable
from copy import copy
from operator import attrgetter
from typing import Final

import msgspec

from tollgate.domain.exceptions import Refusal
from tollgate.domain.models import Job
from tollgate.domain.results import JobFields

TEXT_FIELDS: Final = (
    "input", "result", "error", "input_schema", "provided_input",
    "blockchain_identifier", "identifier_from_purchaser",
)  # fmt: skip
"""The fields of a job that hold a text of its users."""


class StoredJob(JobFields, gc=False):
    """A job as it is stored, and as it goes on the wire. Only the repository changes one."""

    def job(self) -> Job:
        """Return the job as it is now, frozen."""
        return Job.from_checked(copy(self))


Slot = tuple[int, StoredJob]
"""A job's place in the order of creation, and the job. No place is given twice."""


class Changes(msgspec.Struct):
    """What a run of events did: the jobs, in order, and the refusals by the place of the event."""

    jobs: list[StoredJob] = msgspec.field(default_factory=list)
    refused: dict[int, Refusal] = msgspec.field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        """Note that the next event was refused."""
        # The traceback can hold the frame that holds this object: a reference cycle.
        self.refused[len(self.jobs) + len(self.refused)] = refusal.with_traceback(None)

    def only(self) -> StoredJob:
        """Return the job of a run of one event, or raise its Refusal."""
        if self.refused:
            raise self.refused.pop(0)
        return self.jobs[0]


def mock_identifier(job_id: str) -> str:
    """Return the blockchain identifier of a job whose creator supplied none."""
    return "mock_bc_" + job_id[:8]


def text_bytes(text: str | None) -> int:
    """Return the length of a text in bytes of UTF-8."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def job_text_bytes(job: StoredJob) -> int:
    """Return how many bytes the texts of a job have."""
    return sum([text_bytes(text) for text in _texts_of(job) if text is not None])


_texts_of: Callable[[StoredJob], tuple[str | None, ...]] = attrgetter(*TEXT_FIELDS)
