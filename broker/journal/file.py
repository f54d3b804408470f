"""The journal in files: numbered segments in a data directory that one process has locked.

`FileJournal` is the port: the order of calls, the fsync policy, and what an error means. `Writer`
knows where the next record goes and what is on the disk.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from tollgate.broker.journal import (
    CLOSED,
    NOT_REPLAYED,
    RECORD,
    REPLAYED_TWICE,
    Entry,
    JournalError,
    JournalFailedError,
    parse_fsync,
)
from tollgate.broker.journal.files import FILES, LOCK, NO_ROOM, TEMPORARY, Files
from tollgate.broker.journal.format import (
    END,
    FILE_HEADER_BYTES,
    FRAME_BYTES,
    encode_head,
    segment_name,
    stored_form,
    worst_stored_bytes,
)
from tollgate.broker.journal.recovery import Observer, Replay, missing
from tollgate.broker.journal.segment import (
    SPARE,
    ClosedSegment,
    SegmentReader,
    Spare,
    closed_segments,
    make_spare,
    publish,
)

SEGMENT_BYTES: Final = 64 * 1024 * 1024

SYNC_TIMES_MAX: Final = 1_024
"""More syncs than there are between two looks at how long they took."""
UNLOCKED: Final = "the directory, or the lock in it, was removed, moved or replaced"
REMOVED: Final = "the segment that it writes to was removed, moved, replaced or cut"


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
        self.sync_times_s: deque[float] = deque(maxlen=SYNC_TIMES_MAX)
        """How long the last syncs took, in seconds; the reader takes them out."""
        self._replay_began = False
        self._missing: str | None = None
        # The error that a call raises now, None while the journal may be used.
        self._refusal: tuple[type[JournalError], str] | None = (JournalError, NOT_REPLAYED)
        self._lock: tuple[int, ...] | None = files.lock(directory)
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
        try:
            yield from replay
            self._writer.resume(replay.sequence, replay.chain, replay.last)
        except OSError as error:
            raise self._failed("read", error) from error
        self._refusal = None

    def room(self, worst_bytes: int, records: int = 1) -> bool:
        """Reserve room for the largest size on disk that such a batch can have."""
        if self._refusal is not None:
            self._check()
        if self._missing is not None:
            return False
        try:
            self._writer.reserve(worst_stored_bytes(worst_bytes, records))
        except OSError as error:
            if error.errno in NO_ROOM:
                return False
            raise self._failed("reserve room in", error) from error
        return True

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write the batch, all of it in one segment."""
        if self._refusal is not None:
            self._check()
        if payloads:
            try:
                self._writer.append(payloads)
            except OSError as error:
                raise self._failed("append to", error) from error

    def sync(self) -> None:
        """Sync if the policy says that it is time; with interval:MS, call it when idle too."""
        if self._refusal is not None:
            self._check()
        if self._interval_ms == 0 and self._writer.durable == self._writer.sequence:
            return  # the most common case, without reading the clock
        now = self._clock()
        interval_ms = self._interval_ms
        if interval_ms is not None and (now - self._synced_at) * 1000 >= interval_ms:
            try:
                self._writer.sync()
            except OSError as error:
                raise self._failed("sync", error) from error
            self.sync_times_s.append(self._clock() - now)
            self._synced_at = now
        elif not self._writer.is_whole():  # what is answered now must be found by the next start
            raise self._failed("sync", OSError(errno.ENOENT, REMOVED))

    def look(self) -> str | None:
        """Check the lock, the current segment, and the files that a start would read."""
        self._check()
        try:
            if not self._has_lock():
                raise self._failed("find", OSError(errno.ENOENT, UNLOCKED))
            self._writer.look()
            self._missing = missing(self._directory, self._files)
        except OSError as error:
            raise self._failed("find", error) from error
        return self._missing

    def close(self) -> None:
        """Sync unless the policy is never, and unlock. After a failure it only unlocks."""
        if self._lock is None:
            return
        try:
            if self._refusal is None:
                self._writer.release_spare()
                if self._interval_ms is not None:
                    self._writer.sync()
        except OSError as error:
            raise self._failed("sync", error) from error
        finally:
            self._refusal = self._refusal or (JournalError, CLOSED)
            self._writer.close()
            self._files.unlock(self._lock)
            self._lock = None

    def close_segment(self) -> None:
        """Close the current segment and continue in a new one, so that it can be compacted."""
        self._check()
        try:
            self._writer.begin_segment()
        except OSError as error:
            raise self._failed("append to", error) from error

    def closed_segments(self) -> list[ClosedSegment]:
        """Return the segments that will not change any more, oldest first."""
        self._check()
        return closed_segments(self._files, self._directory)

    def _has_lock(self) -> bool:
        lock = self._lock
        return lock is not None and self._files.is_named(self._directory / LOCK, lock[0])

    def _check(self) -> None:
        if self._refusal is not None:
            kind, text = self._refusal
            raise kind(text)

    def _failed(self, doing: str, error: OSError) -> JournalFailedError:
        text = (
            f"could not {doing} the journal in {self._directory}: {error.strerror or error}."
            " Nothing after this is acknowledged, and the broker must stop; a restart recovers"
            " what is on the disk"
        )
        self._refusal = (JournalFailedError, text)
        return JournalFailedError(text)


class Writer:
    """Appends to the newest segment, and begins the next one when it is full; raises OSError.

    `sequence` is that of the last record written, `durable` that of the last one known to be on the
    disk. `sync` may run on another thread.
    """

    def __init__(self, files: Files, directory: Path, segment_bytes: int) -> None:
        self.sequence = 0
        self.durable = 0
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._chain = 0
        # The current segment; number 0 means none, as in an empty directory, and has no room.
        self._descriptor = -1
        self._number = 0
        self._seed = 0
        self._offset = 0
        self._size = 0
        self._spare: Spare | None = None
        # Held while the current segment is synced, and while another one replaces it.
        self._segment_lock = Lock()
        self._failure: OSError | None = None

    def resume(self, sequence: int, chain: int, last: SegmentReader | None) -> None:
        """Continue after the record `sequence`, the last one read, and make all of it durable.

        What was read may exist only in the page cache: the previous process may have been killed
        before it synced, or have stopped because a sync failed. After a failed sync the kernel
        treats the data as written, so a sync alone would do nothing. Therefore the records that no
        later record proves to be on the disk are written again. Zeroes replace a torn write after
        them, so that no part of it can ever be taken for a record.

        A segment of an older format gets no further record. The next append begins a new segment,
        and its header makes an older tollgate refuse a directory that it would misread.
        """
        for name in self._files.names(self._directory):
            if name.endswith(TEMPORARY):
                self._files.unlink(self._directory / name)
        self._files.sync_directory(self._directory)
        self.sequence = self.durable = sequence
        self._chain = chain
        if last is None:
            return
        self._descriptor = self._files.open(last.path)
        unproven = last.data[last.unproven : last.end] + bytes(last.used - last.end)
        self._files.write(self._descriptor, unproven, last.unproven)
        self._number, self._seed = last.number, last.seed
        self._offset = last.end
        self._size = len(last.data) if last.is_current else last.end
        try:
            # A restored copy may have lost its preallocation.
            self._files.allocate(self._descriptor, self._size)
        except OSError:
            self._size = self._offset
        try:
            self._files.sync_data(self._descriptor)
        except OSError:
            # The zeroes are only in memory. Restore the torn write, so that the next start sees it.
            self._files.write(self._descriptor, last.data[last.end : last.used], last.end)
            raise

    def reserve(self, stored_bytes: int) -> None:
        """Allocate disk space for `stored_bytes`, if the current segment has too little."""
        if self._offset + stored_bytes > self._size:
            self._prepare_spare(stored_bytes)

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write one record for each payload, all in one segment and with one write."""
        stored = [stored_form(payload) for payload in payloads]
        size = sum(map(len, stored)) + FRAME_BYTES * len(stored)
        if self._offset + size > self._size:
            self.begin_segment(size)
        seed, sequence, chain, durable = self._seed, self.sequence, self._chain, self.durable
        parts: list[bytes] = []
        for each in stored:
            sequence += 1
            head, chain = encode_head(
                each, seed=seed, previous=chain, sequence=sequence, durable=durable, kind=RECORD
            )
            parts += (head, each, END)
        self._files.write(self._descriptor, b"".join(parts), self._offset)
        self._offset += size
        self._chain = chain
        self.sequence = sequence

    def sync(self) -> None:
        """Return once all that was appended before this call is on the disk.

        A failed sync is never tried again, not even by another thread that waited for the lock: the
        kernel may report success although the data is gone.
        """
        with self._segment_lock:
            if self._failure is not None:
                raise OSError(*self._failure.args)
            written = self.sequence
            if written > self.durable:
                try:
                    self._files.sync_data(self._descriptor)
                    if not self._files.is_whole(self._descriptor, self._size):
                        raise OSError(errno.ENOENT, REMOVED)  # noqa: TRY301 - kept as a failed sync
                except OSError as failure:
                    self._failure = failure
                    raise
                self.durable = written

    def is_whole(self) -> bool:
        """Return whether the current segment, if there is one, was neither removed nor cut."""
        with self._segment_lock:
            return self._descriptor < 0 or self._files.is_whole(self._descriptor, self._size)

    def look(self) -> None:
        """Raise OSError if the current segment was removed, moved, replaced or cut."""
        path = self._directory / segment_name(self._number)
        if self._number and not (self.is_whole() and self._files.is_named(path, self._descriptor)):
            raise OSError(errno.ENOENT, REMOVED)

    def begin_segment(self, stored_bytes: int = 0) -> None:
        """Sync the current segment to its end, and continue in a new one with room for that much.

        The sync happens under every fsync policy, so that only the last segment can be torn.
        """
        spare = self._prepare_spare(stored_bytes)
        self.sync()
        closed = ClosedSegment(self._number, self.sequence, self._chain)
        self._seed = publish(self._files, self._directory, spare, closed)
        with self._segment_lock:
            self._close_current()
            self._descriptor, self._size = spare
        self._spare = None
        self._number, self._offset = closed.number + 1, FILE_HEADER_BYTES

    def release_spare(self) -> None:
        """Free the disk space that was allocated and not used."""
        if self._spare is not None:
            if self._has_spare(self._spare):
                self._files.unlink(self._directory / SPARE)
            self._close_spare()

    def close(self) -> None:
        """Close the files, without a change to the disk."""
        with self._segment_lock:
            self._close_current()
        self._close_spare()

    def _prepare_spare(self, stored_bytes: int) -> Spare:
        needed = FILE_HEADER_BYTES + stored_bytes
        if self._spare and (self._spare.size < needed or not self._has_spare(self._spare)):
            self._close_spare()
        if self._spare is None:
            size = max(self._segment_bytes, needed)
            self._spare = make_spare(self._files, self._directory, size)
        return self._spare

    def _has_spare(self, spare: Spare) -> bool:
        return self._files.is_named(self._directory / SPARE, spare.descriptor)

    def _close_spare(self) -> None:
        if self._spare is not None:
            self._files.close(self._spare.descriptor)
            self._spare = None

    def _close_current(self) -> None:
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
            self._descriptor = -1
