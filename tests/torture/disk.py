"""A disk for the journal that can be full for a while."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

SIZE_BYTES: Final = 512 * 1024 * 1024
LIMIT_BYTES: Final = 16 * 1024
NO_LIMIT: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Disk(Protocol):
    """A directory in which there may be no room."""

    kind: str

    def fill(self) -> None:
        """Let there be no room."""

    def free(self) -> None:
        """Let there be room again."""


class SmallDisk:
    """A file system in memory. It is full when its size is what it holds."""

    kind = "a file system of its own"

    def __init__(self, directory: Path, mount: str) -> None:
        self._directory = directory
        self._mount = mount

    def fill(self) -> None:
        state = os.statvfs(self._directory)
        self._resize((state.f_blocks - state.f_bfree) * state.f_frsize)

    def free(self) -> None:
        self._resize(SIZE_BYTES)

    def _resize(self, size: int) -> None:
        options = f"remount,size={max(size, 4_096)}"
        command = [self._mount, "-o", options, str(self._directory)]
        subprocess.run(command, check=False, capture_output=True)  # it may have grown meanwhile


class LimitedFiles:
    """A limit on the length of the files that the broker writes: for it, that is a full disk."""

    kind = "a limit on the length of files"

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self._pid = pid

    def fill(self) -> None:
        self._limit((LIMIT_BYTES, resource.RLIM_INFINITY))

    def free(self) -> None:
        self._limit(NO_LIMIT)

    def _limit(self, limits: tuple[int, int]) -> None:
        if (pid := self._pid()) is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def disk(directory: Path, pid: Callable[[], int | None]) -> Iterator[Disk]:
    """Mount a disk on a directory, or if that is not allowed limit what the process `pid` writes.

    It is unmounted at the end.
    """
    directory.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount and umount:
        command = [mount, "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "tmpfs"]
        if not subprocess.run(
            [*command, str(directory)], capture_output=True, check=False
        ).returncode:
            try:
                yield SmallDisk(directory, mount)
            finally:
                subprocess.run([umount, "-l", str(directory)], check=False)
            return
    yield LimitedFiles(pid)
