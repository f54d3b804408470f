"""The journal in files: numbered segments in a data directory that one process has locked."""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tollgate.broker.journal import (
    CLOSED,
    NOT_REPLAYED,
    REPLAYED_TWICE,
    Entry,
    JournalError,
    JournalFailedError,
    parse_fsync,
)
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import worst_stored_bytes
from tollgate.broker.journal.recovery import Observer, Replay
from tollgate.broker.journal.segment import ClosedSegment, closed_segments
from tollgate.broker.journal.writer import Writer

SEGMENT_BYTES: Final = 64 * 1024 * 1024

# EFBIG is how a limit on the size of files reports that there is no room.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileJournal:
    """Implements the port `Journal` on a directory; see there for the order of calls.

    `fsync` is a policy as `parse_fsync` reads it. A segment has `segment_bytes`, more if one batch
    needs more. Tests replace `files` and `clock` (monotonic seconds). The directory is created if
    missing, and locked from construction to `close`: JournalLockedError if another process has
    locked it. A forked child shares the lock, so start children by other means.
    """

    is_kept = True

    def __init__(  # noqa: PLR0913 (what there is to configure, each with its default)
        self,
        directory: Path,
        fsync: str = "always",
        segment_bytes: int = SEGMENT_BYTES,
        *,
        files: Files = FILES,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        self._interval_ms = parse_fsync(fsync)
        self._directory = directory
        self._files = files
        self._clock = clock
        self._observer = observer
        self._synced_at = clock()
        self._replay_began = False
        # The error that a call raises now, None while the journal may be used.
        self._refusal: tuple[type[JournalError], str] | None = (JournalError, NOT_REPLAYED)
        self._lock: int | None = files.lock(directory)
        self._writer = Writer(self._files, directory, segment_bytes)

    @property
    def sequence(self) -> int:
        """Sequence of the last record appended, 0 for none."""
        return self._writer.sequence

    @property
    def durable(self) -> int:
        """Sequence of the last record known to be on the disk, 0 for none."""
        return self._writer.durable

    def replay(self) -> Iterator[Entry]:
        """Yield what is stored, then make it durable; after that the journal may be used."""
        if self._replay_began or self._lock is None:
            raise JournalError(REPLAYED_TWICE)
        self._replay_began = True
        replay = Replay(self._directory, self._files, observer=self._observer)
        with self._stopping_on_failure("read"):
            yield from replay
            self._writer.resume(replay.sequence, replay.chain, replay.last)
        self._refusal = None

    def room(self, worst_bytes: int, records: int = 1) -> bool:
        """Reserve room for the largest size on disk that such a batch can have."""
        self._check()
        try:
            self._writer.reserve(worst_stored_bytes(worst_bytes, records))
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise self._failed("reserve room in", error) from error
        return True

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write the batch, all of it in one segment."""
        self._check()
        if payloads:
            try:  # not `_stopping_on_failure`, which would take as long as the append
                self._writer.append(payloads)
            except OSError as error:
                raise self._failed("append to", error) from error

    def sync(self) -> None:
        """Sync if the policy says that it is time; with interval:MS, call it when idle too."""
        self._check()
        if self._interval_ms == 0 and self._writer.durable == self._writer.sequence:
            return  # the most common case, without reading the clock
        now = self._clock()
        elapsed_ms = (now - self._synced_at) * 1000
        if self._interval_ms is not None and elapsed_ms >= self._interval_ms:
            try:
                self._writer.sync()
            except OSError as error:
                raise self._failed("sync", error) from error
            self._synced_at = now

    def close(self) -> None:
        """Sync unless the policy is never, and unlock. After a failure it only unlocks."""
        if self._lock is None:
            return
        try:
            if self._refusal is None:
                with self._stopping_on_failure("sync"):
                    self._writer.release_spare()
                    if self._interval_ms is not None:
                        self._writer.sync()
        finally:
            self._refusal = self._refusal or (JournalError, CLOSED)
            self._writer.close()
            self._files.close(self._lock)
            self._lock = None

    def close_segment(self) -> None:
        """Close the current segment and continue in a new one, so that it can be compacted."""
        self._check()
        with self._stopping_on_failure("append to"):
            self._writer.begin_segment()

    def closed_segments(self) -> list[ClosedSegment]:
        """Return the segments that will not change any more, oldest first."""
        self._check()
        return closed_segments(self._files, self._directory)

    def _check(self) -> None:
        if self._refusal is not None:
            kind, text = self._refusal
            raise kind(text)

    @contextmanager
    def _stopping_on_failure(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(doing, error) from error

    def _failed(self, doing: str, error: OSError) -> JournalFailedError:
        text = (
            f"could not {doing} the journal in {self._directory}: {error.strerror or error}."
            " Nothing after this is acknowledged, and the broker must stop; a restart recovers"
            " what is on the disk"
        )
        self._refusal = (JournalFailedError, text)
        return JournalFailedError(text)
