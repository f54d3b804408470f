"""What a producer writes down of each operation: before it is sent, and when it has ended."""

import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

TAG: Final = re.compile(r"op-[0-9]+\.[0-9]+-[0-9]+;")
"""The name of an operation; it is in a text that the operation stores."""


class Outcome(StrEnum):
    """How an operation ended, for its caller."""

    BEGUN = "begun"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """The broker refused it: nothing was changed."""
    NOT_DONE = "not done"
    """No broker was reached: nothing was changed."""
    UNKNOWN = "unknown"
    """It may have been executed."""


class Operation(msgspec.Struct, array_like=True):
    """One line of a producer's log."""

    tag: str
    kind: str
    outcome: Outcome
    at_s: float
    """By the monotonic clock, which all processes share."""
    is_tagged: bool = False
    """Whether its tag is in the text that it stores."""
    job: list[Any] | None = None
    """Its answer, a job; see `tests.crash.summaries.of_job`."""
    leases: list[list[Any]] | None = None
    """Its answer, leases: job and token of each."""
    meta: str | None = None
    """What the job in its answer has as `meta`."""
    message: str = ""


class OperationLog:
    """A producer's log. What is written stays when the process is killed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encoder = msgspec.json.Encoder()

    def write(self, operation: Operation) -> None:
        os.write(self._file, self._encoder.encode(operation) + b"\n")


def read(path: Path) -> Iterator[Operation]:
    """Yield the operations in a log; a line that a kill has cut off is left out."""
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Operation)
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield decoder.decode(line)
