"""Defines the lifecycle for both sides: ids, fields and shape."""

from dataclasses import dataclass
from os import urandom
from typing import Final
from uuid import UUID

INPUT_HASH: Final = "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080"
RESULT: Final = '{"answer": "done"}'
STEPS: Final = 4
"""create, running, completed, get."""


@dataclass(frozen=True)
class Shape:
    """How a producer works: commands a message, messages in flight, and the input of a job."""

    batch: int
    in_flight: int
    input: str | None = None

    @property
    def groups(self) -> int:
        """Number of batches in one piece of work when several messages are in flight."""
        return self.in_flight if self.batch >= 1_000 else 2 * self.in_flight

    def __str__(self) -> str:
        return f"{self.batch} x {self.in_flight}"


def input_of(size_bytes: int) -> str:
    """Return a JSON input of this many bytes."""
    return '{"prompt": "' + "x" * (size_bytes - 14) + '"}'


def job_ids(count: int) -> list[str]:
    """Return new UUID4s as text."""
    random = urandom(16 * count)
    return [
        str(UUID(bytes=random[start : start + 16], version=4)) for start in range(0, 16 * count, 16)
    ]
