"""What the handlers write down: one line for each thing that they do, synced to the disk.

Each job has a file of its own. A line is written whole, by one call, whatever the process does
afterwards. So a line that is there has happened before what follows it in the handler.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

HOME: Final = "TOLLGATE_CHAOS_HOME"
WORKER: Final = "TOLLGATE_CHAOS_WORKER"
"""Environment variables: where the files are, and the name of the worker."""

BEGUN: Final = "begun"
FAULT: Final = "fault"
FINISHED: Final = "finished"
LEFT: Final = "left"


class Note(msgspec.Struct, array_like=True):
    """One line."""

    at: float
    """Unix time in seconds."""
    what: str
    """`begun`: a call has begun. `fault`: it fails now, as its script says; `detail` is how.
    `finished`: it returns a result now. `left`: it has ended with an exception, `detail`."""
    job_id: str
    run: str
    """Names the call, and is in its result."""
    worker: str
    pid: int
    attempt: int
    detail: str = ""


class Notes:
    """Writes the notes of one call."""

    def __init__(self, job_id: str, attempt: int) -> None:
        self._path = Path(os.environ[HOME]) / job_id
        self.run = os.urandom(6).hex()
        self._job_id = job_id
        self._attempt = attempt
        self.faults = sum(note.what == FAULT for note in read(self._path))
        """How many calls have failed before as the script says."""

    def write(self, what: str, detail: str = "") -> None:
        note = Note(
            time.time(), what, self._job_id, self.run, os.environ[WORKER], os.getpid(),
            self._attempt, detail,
        )  # fmt: skip
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, msgspec.json.encode(note) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)


def read(path: Path) -> Iterator[Note]:
    """Yield the notes of one job."""
    if path.exists():
        decoder = msgspec.json.Decoder(Note)
        yield from map(decoder.decode, path.read_bytes().splitlines())
