"""Writing: batches are appended to the newest segment, and the next one follows when it is full."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from tollgate.broker.journal import RECORD
from tollgate.broker.journal.files import TEMPORARY, Files
from tollgate.broker.journal.format import (
    END,
    FILE_HEADER_BYTES,
    FRAME_BYTES,
    encode_head,
    stored_form,
)
from tollgate.broker.journal.segment import SPARE, SegmentReader, Spare, make_spare, publish


class Writer:
    """Appends records after those that a replay has read. Every method raises OSError.

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
        self._offset, self._size = last.end, len(last.data)
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
        sequence, chain, durable = self.sequence, self._chain, self.durable
        parts: list[bytes] = []
        for each in stored:
            sequence += 1
            head, chain = encode_head(
                each,
                seed=self._seed,
                previous=chain,
                sequence=sequence,
                durable=durable,
                kind=RECORD,
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
                except OSError as failure:
                    self._failure = failure
                    raise
                self.durable = written

    def begin_segment(self, stored_bytes: int = 0) -> None:
        """Sync the current segment to its end, and continue in a new one with room for that much.

        The sync happens under every fsync policy, so that only the last segment can be torn.
        """
        spare = self._prepare_spare(stored_bytes)
        self.sync()
        number = self._number + 1
        seed = publish(
            self._files,
            self._directory,
            spare,
            number=number,
            sequence=self.sequence + 1,
            chain=self._chain,
        )
        with self._segment_lock:
            self._close_current()
            self._descriptor, self._size = spare
        self._spare = None
        self._number, self._seed, self._offset = number, seed, FILE_HEADER_BYTES

    def release_spare(self) -> None:
        """Free the disk space that was allocated and not used."""
        if self._spare is not None:
            self._files.unlink(self._directory / SPARE)
            self._close_spare()

    def close(self) -> None:
        """Close the files, without a change to the disk."""
        with self._segment_lock:
            self._close_current()
        self._close_spare()

    def _prepare_spare(self, stored_bytes: int) -> Spare:
        needed = FILE_HEADER_BYTES + stored_bytes
        if self._spare is not None and self._spare.size < needed:
            self._close_spare()
        if self._spare is None:
            size = max(self._segment_bytes, needed)
            self._spare = make_spare(self._files, self._directory, size)
        return self._spare

    def _close_spare(self) -> None:
        if self._spare is not None:
            self._files.close(self._spare.descriptor)
            self._spare = None

    def _close_current(self) -> None:
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
            self._descriptor = -1
