"""An ipc endpoint held by one broker alone: its directory, its lock, its socket file."""

import errno
import fcntl
import grp
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tollgate.broker.access.permissions import UnsafeError, is_reached_by, make_private

IPC_PATH_BYTES_MAX: Final = 107
"""The longest path that a unix socket can have."""


class EndpointError(Exception):
    """The endpoint cannot be had; the message is one line that says what to do."""


class Endpoint:
    """Holds an `ipc://` endpoint from `with` on: nobody else can take it, nor is it anybody's.

    libzmq binds over a living socket without a word, so a lock beside the socket file says who
    is there. The lock is the kernel's: it goes with the process, however that ends.

    Nobody else can connect to it, but members of `group` (its number) if there is one.
    """

    def __init__(self, url: str, group: int | None = None) -> None:
        self.url = url
        self._group = group
        self.path = Path(url.removeprefix("ipc://"))
        self._aside = self.path.with_name(f".{self.path.name}.full")
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the endpoint. Raises EndpointError."""
        if len(os.fsencode(self.path)) > IPC_PATH_BYTES_MAX:
            raise EndpointError(
                f"{self.url}: the path is longer than {IPC_PATH_BYTES_MAX} bytes; bind elsewhere"
            )
        try:
            self._make_directory(self.path.parent)
            lock_path = self.path.with_name(self.path.name + ".lock")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(lock_path, flags, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clear()
        except BlockingIOError:
            self._close()
            raise EndpointError(
                f"{self.url}: another broker is listening there; stop it or bind elsewhere"
            ) from None
        except UnsafeError as fault:
            raise EndpointError(f"{self.url}: {fault}") from None
        except OSError as fault:
            self._close()
            if fault.errno == errno.ELOOP:
                raise EndpointError(f"{self.url}: {fault.filename} is a symbolic link") from None
            raise EndpointError(f"{self.url}: {fault.strerror}: {fault.filename}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the endpoint back."""
        self.path.unlink(missing_ok=True)
        self._aside.unlink(missing_ok=True)
        self._close()

    def opened(self) -> None:
        """Let in whom it is for, now that the socket file is there. Raises EndpointError."""
        try:
            self._let_in(self.path, 0o660)
        except OSError as fault:
            raise EndpointError(f"{self.url}: {fault.strerror}: {fault.filename}") from None

    def shut(self) -> None:
        """Let nobody else in for now; who is in stays. Libzmq's unbind would throw all out."""
        self.path.rename(self._aside)

    def reopen(self) -> None:
        """Let in whoever comes again."""
        self._aside.rename(self.path)

    def _make_directory(self, directory: Path) -> None:
        """Make the socket's directory. One that is there stays as it is: it may hold other things.

        Raises UnsafeError or OSError.
        """
        for made in make_private(directory):
            self._let_in(made, 0o750)
        if self._group is not None and not is_reached_by(self._group, directory):
            name = grp.getgrgid(self._group).gr_name
            raise UnsafeError(
                f"the group cannot enter {directory}, which was there already;"
                f" say: chgrp {name} {directory} && chmod 750 {directory}, or bind elsewhere"
            )

    def _let_in(self, path: Path, mode: int) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)
            path.chmod(mode)

    def _clear(self) -> None:
        """Remove a dead broker's socket (a living one would hold the lock), and nothing else."""
        if self._aside.is_socket():
            self._aside.unlink()
        if self.path.is_socket():
            self.path.unlink()
        elif os.path.lexists(self.path):
            self._close()
            raise EndpointError(f"{self.url}: there is a file that is no socket; bind elsewhere")

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # and with it the lock; the file stays, to be locked again
            self._lock = None
