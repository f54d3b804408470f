"""Endpoints that one broker holds alone, and that can stop accepting while connections stay.

After `bind`, any thread may call `pause` and `resume`. libzmq's own unbind would not do: it ends
the connections that stand, takes a moment, and is for the socket's own thread, which may be busy.

A socket file can vanish under a running broker: something cleans temporary folders, a runtime
directory is removed. libzmq does not notice. So the broker calls `look` every few seconds.
"""

import ctypes
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from threading import Lock
from typing import Final, NoReturn, Self

import zmq

from tollgate.broker.access.permissions import UnsafeError, is_reached_by, make_private
from tollgate.domain.endpoint import IPC_PATH_BYTES_MAX

SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
"""Of Linux's <asm/socket.h>; Python has no name for them."""
OTHERS_ENTER: Final = stat.S_IXGRP | stat.S_IXOTH
BACKLOG_MAX: Final = 100
BINDS_MAX: Final = 100
"""How often a socket file is bound: each time takes a file descriptor for ever."""
EXHAUSTED: Final = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.ENOSPC,
    errno.EDQUOT,
}
"""Errors that pass: what is held already stays, and binding is tried again."""
BPF_RETURN: Final = 6
"""BPF_RET | BPF_K: keep as many bytes of the packet as the operand says; 0 drops it."""
_DROP: Final = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
DROP_ALL: Final = struct.pack("HP", 1, ctypes.addressof(_DROP))
"""A struct sock_fprog: the number of instructions, and where they are."""


class EndpointError(Exception):
    """The endpoint cannot be used; the message is one line that says what to do."""


def _is_same(path: Path, state: os.stat_result) -> bool:
    """Return whether a path, links not followed, names the file with this state."""
    try:
        return os.path.samestat(path.lstat(), state)
    except OSError:
        return False


def backlog_for(connections: int) -> int:
    """Return the length of the kernel's queue: what stands in it is accepted after a pause."""
    return min(BACKLOG_MAX, max(1, connections // 8))


class IpcEndpoint:
    """An `ipc://` endpoint, locked from `with` on.

    libzmq binds over a living socket without a word, so a lock file beside the socket file says
    that a broker is there. The kernel releases the lock when the process ends, in whatever way.

    Only this user can connect, and the members of `group` (its number) if there is one.
    """

    def __init__(self, url: str, group: int | None = None) -> None:
        self.url = url
        self._group = group
        self.path = Path(url.removeprefix("ipc://"))
        self._paused_path = self.path.with_name(f".{self.path.name}.full")
        self._lock_path = self.path.with_name(f"{self.path.name}.lock")
        self._lock: int | None = None
        # Held while the socket file is moved, bound or removed: two threads do that.
        self._moving = Lock()
        self._bound: os.stat_result | None = None
        self._is_paused = False
        self._binds = 0

    def __enter__(self) -> Self:
        """Take the endpoint. Raises EndpointError."""
        if len(os.fsencode(self.path)) > IPC_PATH_BYTES_MAX:
            raise EndpointError(
                f"{self.url}: the path is longer than {IPC_PATH_BYTES_MAX} bytes; bind elsewhere"
            )
        try:
            self._take()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Give the endpoint back."""
        with self._moving:
            for path in (self.path, self._paused_path):
                if self._is_ours(path):
                    path.unlink(missing_ok=True)
            self._unlock()

    def bind(self, router: "zmq.Socket[bytes]") -> None:
        """Bind a socket here; the socket file is for this user alone. Raises EndpointError."""
        try:
            self._bind(router)
        except zmq.ZMQError as fault:
            raise EndpointError(f"{self.url}: {fault}") from None
        except OSError as fault:
            self._refuse(fault)

    def look(self, router: "zmq.Socket[bytes]") -> str | None:
        """Bind the socket anew if its file is gone; return what happened, None if nothing did.

        Connections that stand are not touched. Raises EndpointError if another broker has taken the
        endpoint, or nothing can be bound here.
        """
        with self._moving:
            path = self._paused_path if self._is_paused else self.path
            if self._is_ours(path) and self._has_lock():
                return None
            try:
                self._take()
                self._bind(router)
            except (zmq.ZMQError, OSError) as fault:
                if fault.errno in EXHAUSTED:
                    return f"the socket file is gone and cannot be bound now: {fault}"
                raise EndpointError(f"{self.url}: the socket file is gone, and {fault}") from None
            if self._is_paused:
                self.path.rename(self._paused_path)
            return "the socket file was gone: bound anew"

    def pause(self) -> None:
        """Accept no new connections."""
        with self._moving:
            self._is_paused = True
            self._move(self.path, self._paused_path)

    def resume(self) -> None:
        """Accept new connections again."""
        with self._moving:
            self._is_paused = False
            self._move(self._paused_path, self.path)

    def _move(self, source: Path, target: Path) -> None:
        """Move the socket file. Raises OSError, also if it is not ours, or the endpoint is not."""
        if not (self._is_ours(source) and self._has_lock()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        source.rename(target)

    def _take(self) -> None:
        """Make the directory, lock the endpoint, and remove what a dead broker has left.

        Raises EndpointError, also for any OSError but those of EXHAUSTED while it was bound before.
        """
        try:
            self._make_directory(self.path.parent)
            if not self._has_lock():
                self._unlock()
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._lock = os.open(self._lock_path, flags, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_stale()
        except BlockingIOError:
            raise EndpointError(
                f"{self.url}: another broker is listening there; stop it or bind elsewhere"
            ) from None
        except UnsafeError as fault:
            raise EndpointError(f"{self.url}: {fault}") from None
        except OSError as fault:
            if self._binds and fault.errno in EXHAUSTED:
                raise
            self._refuse(fault)

    def _bind(self, router: "zmq.Socket[bytes]") -> None:
        """Raises zmq.ZMQError, OSError, and EndpointError after BINDS_MAX times."""
        if self._binds >= BINDS_MAX:
            raise EndpointError(
                f"{self.url}: the socket file was removed {self._binds} times; find out what"
                " removes it, or bind elsewhere"
            )
        # The umask is of the whole process, in which a test may run several brokers and threads. In
        # a directory that others cannot enter it is not needed.
        is_private = not self.path.parent.stat().st_mode & OTHERS_ENTER
        umask = None if is_private else os.umask(0o177)
        try:
            router.bind(self.url)
            self._binds += 1
            self.path.chmod(0o600)
            self._share(self.path, 0o660)
            self._bound = self.path.stat()
        finally:
            if umask is not None:
                os.umask(umask)

    def _refuse(self, fault: OSError) -> NoReturn:
        if fault.errno == errno.ELOOP:
            raise EndpointError(f"{self.url}: {fault.filename} is a symbolic link") from None
        raise EndpointError(
            f"{self.url}: {fault.strerror}: {fault.filename}; bind elsewhere with --bind"
        ) from None

    def _is_ours(self, path: Path) -> bool:
        """Return whether this is the socket file that was bound, not another one of that name."""
        return self._bound is not None and _is_same(path, self._bound)

    def _has_lock(self) -> bool:
        """Return whether the lock is the one that another broker would look for."""
        return self._lock is not None and _is_same(self._lock_path, os.fstat(self._lock))

    def _make_directory(self, directory: Path) -> None:
        """Make the socket's directory. An existing one is not changed: it may hold other things.

        Raises UnsafeError or OSError.
        """
        for made in make_private(directory):
            self._share(made, 0o750)
        if self._group is not None and not is_reached_by(self._group, directory):
            name = grp.getgrgid(self._group).gr_name
            raise UnsafeError(
                f"the group cannot enter {directory}, which was there already;"
                f" say: chgrp {name} {directory} && chmod 750 {directory}, or bind elsewhere"
            )

    def _share(self, path: Path, mode: int) -> None:
        """Give the group access to a file or directory, if there is a group."""
        if self._group is not None:
            os.chown(path, -1, self._group)
            path.chmod(mode)

    def _remove_stale(self) -> None:
        """Remove the socket of a dead broker (a living one would hold the lock), nothing else."""
        if self._paused_path.is_socket():
            self._paused_path.unlink()
        if self.path.is_socket():
            self.path.unlink()
        elif os.path.lexists(self.path):
            raise EndpointError(f"{self.url}: there is a file that is no socket; bind elsewhere")

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # this releases the lock; the file stays for the next broker
            self._lock = None


class TcpEndpoint:
    """A socket that listens at `tcp://address:port`, for libzmq to accept from.

    While it is paused, a filter in the kernel drops the packets that would open a connection: a
    peer that tries again connects after `resume`. It begins paused, and `bind` resumes it.
    """

    def __init__(self, url: str, connections: int) -> None:
        """Listen for at most so many connections at a time, see `backlog_for`.

        Raises EndpointError if the address is taken, or the system cannot filter.
        """
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]*") or "0.0.0.0"  # noqa: S104 - the settings allow it explicitly
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, 0 if port == "*" else int(port)))
            self._pause_first()
            self._socket.listen(backlog_for(connections))
        except OSError as fault:
            self._socket.close()
            raise EndpointError(f"{url}: {fault.strerror}") from None
        name = self._socket.getsockname()
        shown = f"[{name[0]}]" if family == socket.AF_INET6 else name[0]
        self.url = f"tcp://{shown}:{name[1]}"

    def bind(self, router: "zmq.Socket[bytes]") -> None:
        """Hand the listening socket to a ROUTER socket, and accept. Raises EndpointError."""
        try:
            router.setsockopt(zmq.USE_FD, os.dup(self._socket.fileno()))  # libzmq closes it
            router.bind(self.url)
            self.resume()
        except (zmq.ZMQError, OSError) as fault:
            raise EndpointError(f"{self.url}: {fault}") from None

    def look(self, _: "zmq.Socket[bytes]") -> None:
        """Do nothing: no file belongs to this endpoint."""

    def pause(self) -> None:
        """Accept no new connections."""
        if sys.platform != "linux":
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, DROP_ALL)

    def resume(self) -> None:
        """Accept new connections again."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Give the address back, as soon as libzmq does too."""
        self._socket.close()

    def _pause_first(self) -> None:
        try:
            self.pause()
        except OSError as fault:
            why = f"this system cannot hold off a crowd on tcp ({fault.strerror}); bind ipc alone"
            raise OSError(fault.errno, why) from None
