"""The seam to the operating system: every effect of a journal on a disk goes through `Files`.

Nothing here knows the format. Tests replace `Files` to make a call fail, to cut a write short, or
to lose, tear and reorder what was not synced.
"""

import errno
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tollgate.broker.journal import JournalLockedError

TEMPORARY: Final = ".tmp"
"""Files with this suffix are incomplete: the next start deletes them."""
LOCK: Final = "lock"
NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors that say that there is no room; EFBIG is how a limit on the size of files says it."""
_READ_BYTES: Final = 1 << 24


def _lock_directory(descriptor: int, kind: int) -> None:
    """Raise BlockingIOError if another process has it; some file systems lock files only."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


class Files:
    """The real file system. Every method raises OSError as the operating system does."""

    def make_directory(self, directory: Path) -> None:
        """Create the directory if it is missing, with mode 0700, and sync its name."""
        if directory.is_dir():
            return
        self.make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        self.sync_directory(directory.parent)

    def lock(self, directory: Path) -> tuple[int, ...]:
        """Lock the directory, created if missing, until `unlock`.

        A child made by fork shares the lock. Raises JournalLockedError if another process has it.
        The first of the descriptors returned is that of the lock file. A file can be removed, and
        then the next process would make and lock another one: so the directory is locked as well,
        where the file system allows it.
        """
        self.make_directory(directory)
        lock = [os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)]
        try:
            fcntl.flock(lock[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
            _lock_directory(lock[1], fcntl.LOCK_EX)
        except OSError as error:
            holder = os.pread(lock[0], 20, 0).decode(errors="replace").strip()
            self.unlock(lock)
            if isinstance(error, BlockingIOError):
                raise JournalLockedError(directory, holder) from None
            raise
        with suppress(OSError):  # the lock is what counts; the id is for people, a disk may be full
            os.pwrite(lock[0], f"{os.getpid():<19}\n".encode(), 0)
        return tuple(lock)

    def unlock(self, lock: Iterable[int]) -> None:
        """Release a lock."""
        for descriptor in lock:
            self.close(descriptor)

    def is_locked(self, directory: Path) -> bool:
        """Return whether some process has locked the directory."""
        descriptors = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
        try:
            _lock_directory(descriptors[0], fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                descriptors.append(os.open(directory / LOCK, os.O_RDONLY))
                fcntl.flock(descriptors[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            self.unlock(descriptors)
        return False

    def names(self, directory: Path) -> list[str]:
        """Return the names in the directory."""
        return [path.name for path in directory.iterdir()]

    def is_named(self, path: Path, descriptor: int) -> bool:
        """Return whether the path names the open file: not removed, moved or replaced."""
        try:
            return os.path.samestat(path.stat(), os.fstat(descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_whole(self, descriptor: int, size: int) -> bool:
        """Return whether the open file has a name, and at least `size` bytes."""
        state = os.fstat(descriptor)
        return state.st_nlink > 0 and state.st_size >= size

    def size(self, path: Path) -> int:
        """Return the length of the file in bytes."""
        return path.stat().st_size

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing; with `create`, a new file of mode 0600, emptied."""
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(path, flags, 0o600)

    def open_to_read(self, path: Path) -> int:
        """Open for reading only."""
        return os.open(path, os.O_RDONLY)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def read(self, path: Path, length: int = -1) -> bytes:
        """Return the first `length` bytes of the file, by default all of it."""
        with path.open("rb") as file:
            return file.read(length)

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer only at the end of the file."""
        parts = []
        while length > 0 and (part := os.pread(descriptor, min(length, _READ_BYTES), offset)):
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return b"".join(parts)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`: one call, more only to finish a short write."""
        rest = memoryview(data)
        while rest:
            written = self.write_some(descriptor, rest, offset)
            rest = rest[written:]
            offset += written

    def write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write at `offset` with one call, and return how many bytes the system took."""
        return os.pwrite(descriptor, data, offset)

    def allocate(self, descriptor: int, size: int) -> None:
        """Give the file `size` bytes of disk, the new ones zero."""
        os.posix_fallocate(descriptor, 0, size)

    def sync_data(self, descriptor: int) -> None:
        """Return once the file's data is on the disk, with the metadata needed to read it."""
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
        """Rename the file in one step, replacing a file that has the new name."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Delete the file."""
        path.unlink()

    def create_whole(self, path: Path, parts: Iterable[bytes]) -> None:
        """Create or replace the file with these parts, so that it exists complete or not at all.

        The content is on the disk before the file has its name, and the name before this returns.
        An error leaves nothing but a temporary file.
        """
        temporary = path.with_name(path.name + TEMPORARY)
        descriptor = self.open(temporary, create=True)
        offset = 0
        try:
            for part in parts:
                self.write(descriptor, part, offset)
                offset += len(part)
            self.sync_file(descriptor)
        finally:
            self.close(descriptor)
        self.rename(temporary, path)
        self.sync_directory(path.parent)


FILES: Final = Files()
