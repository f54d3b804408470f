"""The seam to the operating system: every effect that a journal has on a disk passes here.

Nothing here knows the format. A test double takes the place of `Files` to fail a call, to cut a
write short, or to lose, tear and reorder what was not synced.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_READ_BYTES = 1 << 24


class Files:
    """The real file system. Every method raises OSError as the operating system does."""

    def make_directory(self, directory: Path) -> None:
        """Make sure that the directory exists; one that is made has mode 0700 and survives."""
        if directory.is_dir():
            return
        self.make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        self.sync_directory(directory.parent)

    def lock(self, path: Path) -> int:
        """Lock the file for this process, note its id there, and return the descriptor.

        The lock lasts until the descriptor is closed, in a forked child too. Raises
        BlockingIOError if another process has it.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        with suppress(OSError):  # The lock counts, the note is for people; a disk may be full.
            os.pwrite(descriptor, f"{os.getpid():<19}\n".encode(), 0)
        return descriptor

    def is_locked(self, path: Path) -> bool:
        """Say whether some process has the lock."""
        if not path.exists():
            return False
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def names(self, directory: Path) -> list[str]:
        """List the directory."""
        return [path.name for path in directory.iterdir()]

    def size(self, path: Path) -> int:
        """Return the length of the file in bytes."""
        return path.stat().st_size

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing; with `create`, a new file of mode 0600, emptied."""
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(path, flags, 0o600)

    def open_to_read(self, path: Path) -> int:
        """Open for reading alone."""
        return os.open(path, os.O_RDONLY)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def read(self, path: Path) -> bytes:
        """Return the whole file."""
        return path.read_bytes()

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer only where the file ends."""
        parts = []
        while length > 0 and (part := os.pread(descriptor, min(length, _READ_BYTES), offset)):
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return b"".join(parts)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`: one call, and more only to finish a short write."""
        rest = memoryview(data)
        while rest:
            written = self.write_some(descriptor, rest, offset)
            rest = rest[written:]
            offset += written

    def write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write at `offset` what the system takes at once, and return how many bytes it took."""
        return os.pwrite(descriptor, data, offset)

    def allocate(self, descriptor: int, size: int) -> None:
        """Give the file `size` bytes of disk, the new ones zero."""
        os.posix_fallocate(descriptor, 0, size)

    def sync_data(self, descriptor: int) -> None:
        """Return once the file's data is on the disk, and what is needed to read it."""
        os.fdatasync(descriptor)

    def sync_file(self, descriptor: int) -> None:
        """Return once the file's data and all of its metadata are on the disk."""
        os.fsync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Return once the names in the directory are on the disk."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give the file another name in one step, taking the place of what had it."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Take the file's name away."""
        path.unlink()
