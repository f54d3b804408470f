"""The texts of jobs: what a move changes of them, and how many bytes all of them have."""

from broker.events import JobTransitioned
from broker.sizes import job_text_bytes, text_bytes
from broker.stored import StoredJob
from domain.status import AWAITING_INPUT


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

    def add(self, job: StoredJob, *, is_named: bool) -> None:
        """Count all texts of a job; `is_named` if its blockchain identifier was supplied."""
        size = _bytes_of(job, is_named=is_named)
        self.total_bytes += size
        self.longest_bytes = max(self.longest_bytes, size)  # none of them has more

    def drop(self, job: StoredJob, *, is_named: bool) -> None:
        """Count the texts of a job no more."""
        self.total_bytes -= _bytes_of(job, is_named=is_named)

    def _lose(self, *texts: str | None) -> None:
        for text in texts:
            if text is not None:
                self.total_bytes -= text_bytes(text)


def _bytes_of(job: StoredJob, *, is_named: bool) -> int:
    made_up = 0 if is_named else len(job.blockchain_identifier)
    return job_text_bytes(job) - made_up
