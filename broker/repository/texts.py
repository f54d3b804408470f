"""The texts of jobs: what a move changes of them, and how many bytes all of them have."""

from collections.abc import Collection, Iterable

from tollgate.broker.core.events import JobTransitioned
from tollgate.broker.core.sizes import job_text_bytes, text_bytes
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.status import AWAITING_INPUT


class Texts:
    """Counts the bytes of texts, as jobs get them and lose them.

    A blockchain identifier is one if it was supplied: one that is made of the job's id counts not.
    """

    __slots__ = ("longest_bytes", "total_bytes")

    def __init__(self) -> None:
        self.total_bytes = 0
        """How many bytes the texts of all stored jobs have."""
        self.longest_bytes = 0
        """No text of any stored job has more bytes, or had."""

    def gain(self, text: str) -> None:
        """Count a text that a job has got."""
        size = len(text) if text.isascii() else len(text.encode())
        self.total_bytes += size
        if size > self.longest_bytes:  # noqa: PLR1730 - `max` takes twice as long
            self.longest_bytes = size

    def set_outcome(self, job: StoredJob, move: JobTransitioned) -> None:
        """Give a job what a move says that it came to."""
        if job.result is not None or job.error is not None:
            self._lose(job.result, job.error)
        job.result = result = move.result
        job.error = error = move.error
        if result is not None:
            self.gain(result)
        if error is not None:
            self.gain(error)

    def set_dialogue(self, job: StoredJob, move: JobTransitioned) -> None:
        """Give a job what a move says that it asks for, or has been given."""
        self._lose(job.input_schema, job.provided_input)
        if move.target is AWAITING_INPUT:
            job.input_schema = move.input_schema
        job.provided_input = move.provided_input
        self.gain(job.input_schema or "")
        self.gain(job.provided_input or "")

    def restore(self, jobs: Iterable[StoredJob], named: Collection[str]) -> None:
        """Count all texts of jobs; the identifiers of those that are `named` were supplied."""
        sizes = [
            job_text_bytes(job) - (0 if job.job_id in named else len(job.blockchain_identifier))
            for job in jobs
        ]
        self.total_bytes += sum(sizes)
        self.longest_bytes = max(self.longest_bytes, *sizes, 0)  # no text has more than its job

    def drop(self, job: StoredJob, *, is_named: bool) -> None:
        """Count the texts of a job no more."""
        self.total_bytes -= job_text_bytes(job)
        if not is_named:
            self.total_bytes += len(job.blockchain_identifier)

    def _lose(self, *texts: str | None) -> None:
        for text in texts:
            if text is not None:
                self.total_bytes -= text_bytes(text)
