"""Creates a job for each line of a stream, as the lines arrive."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import IO, Any, Final

from tollgate.cli.errors import NotAllDoneError, refusal_line
from tollgate.cli.options import Caller, document
from tollgate.cli.progress import Progress
from tollgate.client.errors import BatchError, BrokerUnreachableError, OutcomeUnknown
from tollgate.client.sync import Client
from tollgate.domain.exceptions import Refusal, TollgateError
from tollgate.domain.models import Job
from tollgate.terminal.text import counted, one_line

READ_BYTES: Final = 1024 * 1024
"""At most so much is taken at once of what has arrived; a line may be longer."""

_LOST: Final = (BrokerUnreachableError, OutcomeUnknown)

Line = tuple[int, bytes]
"""A line's number, from 1, and its bytes without the end of the line."""
Result = tuple[int, Job | Exception]
"""A line's number, and what became of it."""


def create_from(stream: IO[bytes], caller: Caller, fields: Mapping[str, Any]) -> None:
    """Create a job for each line of `stream`, with these further fields, and print their ids.

    Empty lines are skipped. A line that becomes no job is reported, and the others go on.

    Raises:
        NotAllDoneError: at the end, if a line became no job; at once, if nobody reads the ids.

    """
    made = _Made(caller)
    with caller.client() as client, Progress(stream) as progress:
        try:
            for lines, size_bytes in arriving(stream):
                made.note(_create(client, lines, fields), progress)
                progress.advance(size_bytes, made.created)
        except BrokenPipeError:
            raise NotAllDoneError(f"nobody reads the ids; {made.summary}") from None
        except (TollgateError, KeyboardInterrupt):
            progress.say(f"{made.summary}, then:")
            raise
    if made.failed:
        raise NotAllDoneError(f"{made.summary}, {counted(made.failed, 'line')} not")


def arriving(stream: IO[bytes]) -> Iterator[tuple[list[Line], int]]:
    """Yield the lines that have arrived, numbered, and how many bytes they took in the stream.

    A slow producer gets its jobs at once, a fast one gets many in a message.
    """
    number = 0
    rest = b""
    while chunk := stream.read1(READ_BYTES):  # type: ignore[attr-defined] # binary and buffered
        *complete, rest = (rest + chunk).split(b"\n")
        yield list(enumerate(complete, number + 1)), len(chunk)
        number += len(complete)
    if rest:
        yield [(number + 1, rest)], 0


class _Made:
    """What became of the lines so far."""

    def __init__(self, caller: Caller) -> None:
        self.created = self.failed = 0
        self._as_json = caller.as_json

    @property
    def summary(self) -> str:
        """What to say of it."""
        return f"{counted(self.created, 'job')} created"

    def note(self, results: Sequence[Result], progress: Progress) -> None:
        """Print the jobs and report the errors. Raises what ended the connection, if it did."""
        jobs = [result for _, result in results if isinstance(result, Job)]
        self.created += len(jobs)
        progress.write([self._shown(job) for job in jobs])
        for number, result in results:
            if isinstance(result, _LOST):
                raise result
            if not isinstance(result, Job):
                self.failed += 1
                reason = refusal_line(result) if isinstance(result, Refusal) else str(result)
                progress.say(f"line {number}: {one_line(reason)}")

    def _shown(self, job: Job) -> str:
        return document(dict(job)).decode() if self._as_json else job.job_id


def _create(client: Client, lines: list[Line], fields: Mapping[str, Any]) -> list[Result]:
    """Return what became of each line that is not empty, up to where the broker was lost."""
    rows: list[tuple[int, dict[str, Any]]] = []
    results: list[Result] = []
    for number, line in lines:
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            results.append((number, ValueError("not valid UTF-8")))
            continue
        if text:
            rows.append((number, {**fields, "input": text}))
    numbers = [number for number, _ in rows]
    try:
        values: list[Any] = [*client.create_many(row for _, row in rows)]
    except BatchError as error:
        values = error.results
    results += zip(numbers, values, strict=False)  # fewer values, if the broker was lost
    return sorted(results, key=itemgetter(0))
