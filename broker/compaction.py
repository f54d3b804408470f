"""Compaction: a snapshot of the state replaces closed segments of the journal.

`python -m tollgate.broker.compaction DIRECTORY`, a process of low priority beside the broker,
replays the closed segments, writes the snapshot, and prints, as JSON, the names of the files that
it replaces. It deletes nothing: only the process that holds the directory's lock may, since another
replay may need the files. The broker's `Compactor` starts it and deletes.

Disk use stays within two snapshots and three segments if each closed segment is compacted before
the next one is full.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Final

import msgspec

from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import Entry, JournalError
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import listing, segment_name, snapshot_name
from tollgate.broker.journal.recovery import Replay
from tollgate.broker.journal.segment import ClosedSegment, closed_segments, read_header
from tollgate.broker.journal.snapshot import verify_snapshot, write_snapshot
from tollgate.log import get_logger

LOOK_MS: Final = 1_000
"""Time between two looks for closed segments, and for the end of the process."""
RETRY_MS: Final = 60_000
"""Time before the next try after a failure."""
LONGEST_MS: Final = 3_600_000
"""A process that takes longer hangs, on a network disk for example: it is killed."""

log = get_logger("tollgate.broker")


class Compactor:
    """Starts the process for closed segments, and deletes the files that its snapshot replaces.

    To delete a file of a gigabyte takes the kernel 50 ms and more: a thread does it, beside the
    loop. Without a journal on disk it does nothing.
    """

    def __init__(self, journal: FileJournal | None, directory: Path) -> None:
        self._journal = journal
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None
        self._deletion: _Deletion | None = None
        self.look_at_ms = 0.0 if journal is not None else inf
        """When `step` has something to do, at the earliest."""
        self._kill_at_ms = 0

    def step(self, now_ms: int) -> None:
        """Start the process, or collect its result, without waiting for it.

        Raises JournalError if a file that is left cannot be read.
        """
        if self._journal is None or now_ms < self.look_at_ms:
            return
        self.look_at_ms = now_ms + LOOK_MS
        try:
            if self._child is not None:
                self._collect(self._child, now_ms)
            elif self._deletion is not None:
                self._end_deletion(self._deletion)
            elif self._journal.closed_segments():
                self._child = subprocess.Popen(  # noqa: S603 - our own module, our own directory
                    [sys.executable, "-P", "-m", "tollgate.broker.compaction", self._directory],
                    stdin=subprocess.PIPE,  # never written to: its end tells the child of ours
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                self._kill_at_ms = now_ms + LONGEST_MS
        except OSError as fault:  # the process cannot be started, or a file cannot be deleted
            self.look_at_ms = now_ms + RETRY_MS
            log.error("compaction failed", reason=str(fault))  # noqa: TRY400 - the reason is all

    def close(self) -> None:
        """Kill the process, if it runs; a snapshot that it has not finished does not count.

        Files that are being deleted are waited for: the lock on the directory is still held.
        """
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
        if self._deletion is not None and self._deletion.thread.is_alive():
            self._deletion.thread.join()

    def _collect(self, child: subprocess.Popen[bytes], now_ms: int) -> None:
        if child.poll() is None:
            if now_ms >= self._kill_at_ms:
                self._kill_at_ms = now_ms + LONGEST_MS
                log.error("compaction takes too long: it is killed", limit_ms=LONGEST_MS)
                child.kill()  # and collected at a later look: it may take long to die
            return
        output, complaint = child.communicate()
        self._child = None
        if child.returncode:
            self.look_at_ms = now_ms + RETRY_MS
            reason = complaint.decode(errors="replace").strip().splitlines()[-1:]
            log.error("compaction failed", exit_code=child.returncode, reason=reason)
            return
        names = msgspec.json.decode(output, type=list[str])
        self._deletion = _Deletion(self._directory, names)

    def _end_deletion(self, deletion: "_Deletion") -> None:
        """Note that the files are deleted, if they are; raise what has prevented it."""
        if deletion.thread.is_alive():
            return
        self._deletion = None
        if deletion.fault is not None:
            raise deletion.fault
        log.info("compacted", deleted=deletion.names)


class _Deletion:
    """Deletes files in a thread; `fault` is what has prevented it, once the thread has ended."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        """Begin. Without a thread to spare, delete them before this returns."""
        self.names = names
        self.fault: Exception | None = None
        self._directory = directory
        self.thread = threading.Thread(target=self._delete, name="delete", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self._delete()

    def _delete(self) -> None:
        try:
            delete(self._directory, self.names)
        except Exception as fault:  # noqa: BLE001 - `step` raises it in the loop
            self.fault = fault


def compact_directory(directory: Path) -> list[str]:
    """Write a snapshot of all closed segments; return the names of the files that it replaces."""
    closed = closed_segments(FILES, directory)
    return compact(directory, closed[-1], state_chunks) if closed else []


def state_chunks(entries: Iterator[Entry]) -> Iterable[bytes]:
    """Return the chunks of the state that results from the entries."""
    state = State()
    replay(entries, state)
    return snapshot_chunks(state)


def compact(
    directory: Path,
    closed: ClosedSegment,
    chunks_of: Callable[[Iterator[Entry]], Iterable[bytes]],
    files: Files = FILES,
) -> list[str]:
    """Write the snapshot of all records up to the end of this closed segment.

    `chunks_of` consumes every entry of the replay and returns the chunks that represent them.
    Returns the names that may be deleted then; the snapshot has been read back. Raises as a replay
    does, JournalError if `chunks_of` left entries unread, and OSError; there is no snapshot then.
    """
    entries = Replay(directory, files, through=closed.number)

    def chunks() -> Iterator[bytes]:
        yield from chunks_of(iter(entries))
        if (entries.sequence, entries.chain) != (closed.sequence, closed.chain):
            raise JournalError(
                f"compaction ended at record {entries.sequence} of {closed.sequence}"
            )

    write_snapshot(directory, closed.sequence, closed.chain, chunks(), files)
    return replaced(directory, closed.sequence, files)


def replaced(directory: Path, sequence: int, files: Files = FILES) -> list[str]:
    """Read the snapshot of this sequence back, and return the names of the files it replaces.

    Raises JournalDamagedError if the snapshot is not sound.
    """
    verify_snapshot(directory / snapshot_name(sequence), files)
    found = listing(files.names(directory))
    return plan(_first_sequences(directory, found.segments, files), found.snapshots, sequence)


def _first_sequences(
    directory: Path, numbers: Iterable[int], files: Files
) -> list[tuple[int, int]]:
    return [
        (number, read_header(files, directory / segment_name(number)).sequence)
        for number in numbers
    ]


def plan(segments: Sequence[tuple[int, int]], snapshots: Sequence[int], sequence: int) -> list[str]:
    """Return the names of the files that a sound snapshot of the records up to `sequence` replaces.

    `segments` are numbers and sequences of first records, ascending: one is covered when the next
    begins at the latest with the record after the snapshot. `snapshots` are the sequences of all
    snapshots. The last segment, this snapshot and newer ones are never among the names.
    """
    covered = [
        segment_name(number)
        for (number, _), (_, next_first) in pairwise(segments)
        if next_first <= sequence + 1
    ]
    older = [snapshot_name(each) for each in snapshots if each < sequence]
    return older + covered


def delete(directory: Path, names: Iterable[str], files: Files = FILES) -> None:
    """Delete the files that a snapshot replaces; raises OSError.

    Skips a name that does not exist any more, and one that the newest snapshot does not replace:
    the snapshot that did may have been removed after it was written.
    """
    found = listing(files.names(directory))
    if not found.snapshots:
        return
    removable = plan(
        _first_sequences(directory, found.segments, files), found.snapshots, found.snapshots[-1]
    )
    for name in names:
        if name in removable:
            files.unlink(directory / name)
    files.sync_directory(directory)


def _die_with_parent() -> None:
    """Exit when the broker ends, however it ends: it holds the other end of stdin."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(OSError):  # a service manager may forbid it; then it has the broker's priority
        os.nice(10)
    sys.stdout.buffer.write(msgspec.json.encode(compact_directory(Path(sys.argv[1]))))
