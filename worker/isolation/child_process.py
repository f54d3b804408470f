"""A process for handlers as the worker sees it: it is started, spoken with, ended and reaped."""

import asyncio
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import msgspec

from tollgate.streams import STDERR
from tollgate.worker.isolation.messages import Frames, FromChild, ToChild, frame, from_child

LEAVE_S: Final = 5.0
"""How long a process may take to leave by itself."""
EXIT_S: Final = 0.5
"""How long a process that has closed its socket may take to end."""
POLL_S: Final = 0.02
"""How often a process is looked at that the system tells nothing of."""
_READ_BYTES: Final = 1 << 18

# `-c`, and not `-m`: the main module of the process is to be no module of ours, because children of
# the handler (`multiprocessing`) import the main module of their parent.
_START: Final = (
    "import sys; fd, parent, *sys.path = sys.argv[1:];"
    " from tollgate.worker.isolation.child import main; main(int(fd), int(parent))"
)


class ChildProcess:
    """A fresh interpreter in a session and process group of its own.

    `on_message` is called with each message, and `on_end` once, when the process has ended. Both
    are called in the running loop. The process is killed if the thread ends that made it (Linux).
    """

    def __init__(self, on_message: Callable[[FromChild], None], on_end: Callable[[], None]) -> None:
        """Start the process.

        Raises:
            OSError: that is not possible.

        """
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._unsent = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self.is_alive = True
        """Whether a message may reach it, as far as is known."""
        self._fault: str | None = None
        self._socket, theirs = socket.socketpair()
        try:
            self._process = _start(theirs)
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._pidfd = _pidfd(self.pid)
        self._socket.setblocking(False)  # noqa: FBT003 - the parameter has no name
        self._loop.add_reader(self._socket, self._read)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._exited)

    def has_ended(self) -> bool:
        """Return whether the process has ended; `on_end` may not have been called yet."""
        if self._pidfd is not None:
            return bool(_poll(self._pidfd, 0))
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, message: ToChild) -> None:
        """Send a message, or nothing if the process has ended or hung up."""
        if not self.is_alive:
            return
        is_waiting = bool(self._unsent)
        self._unsent += frame(message)
        if not is_waiting:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket, self._write)

    def leave(self) -> None:
        """Ask an idle process to end by itself. It has LEAVE_S."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._after(LEAVE_S, self.kill)

    def kill(self) -> None:
        """End the process and all others of its group, and listen no longer."""
        self._hang_up()
        self._kill()
        if self._pidfd is None:
            self._poll()

    def end(self, until_s: float) -> None:
        """Wait until then (monotonic) for the end of the process, kill it, and close all."""
        if not self._is_open:
            return
        left_s = max(0.0, until_s - monotonic())
        if self._pidfd is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(left_s)
        else:
            _poll(self._pidfd, left_s)
        self._finish()

    def cause(self) -> str:
        """Return how the process ended, to follow "the handler's process"."""
        code = self._process.returncode
        if self._fault is not None:
            return self._fault
        if code is not None and code >= 0:
            return f"exited with code {code}"
        number = -(code or 0)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = " (the system may have run out of memory)" if number == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"

    @property
    def ended_by(self) -> int | None:
        """The signal that ended the process, if one did."""
        code = self._process.returncode
        return -code if code is not None and code < 0 else None

    def listen(self) -> None:
        """Take what the process has said so far, before the loop comes to it."""
        if self.is_alive:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            # Usually its last act. But a handler may have closed all files, and may go on.
            self._hang_up()
            self._after(EXIT_S, self.kill)
            if self._pidfd is None:
                self._poll()

    def _take(self, data: bytes) -> None:
        try:
            messages = [from_child.decode(message) for message in self._frames.feed(data)]
        except (ValueError, msgspec.MsgspecError) as fault:
            self._fault = f"sent what cannot be read: {fault}"
            self.kill()
            return
        for message in messages:
            if self._is_open:
                self._on_message(message)

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it has ended, and its end will be seen
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _exited(self) -> None:
        """Take its last messages, and tell of its end."""
        self._finish()
        self._on_end()

    def _poll(self) -> None:
        if not self._is_open:
            return
        if self._process.poll() is None:
            self._loop.call_later(POLL_S, self._poll)
        else:
            self._exited()

    def _finish(self) -> None:
        self.is_alive = False
        with suppress(OSError):
            while self._socket.fileno() >= 0 and (data := self._socket.recv(_READ_BYTES)):
                self._take(data)
        self._is_open = False
        self._hang_up()
        self._kill()
        self._process.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _hang_up(self) -> None:
        self.is_alive = False
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _kill(self) -> None:
        # The group first, and before the process is reaped: until then its number is taken.
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.returncode is None:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, act)


def _start(connection: socket.socket) -> subprocess.Popen[bytes]:
    # Standard streams that were closed leave their numbers to other files.
    fd = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, STDERR + 1)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001 - as multiprocessing does
    try:
        return subprocess.Popen(  # noqa: S603 - this interpreter
            [
                sys.executable,
                *flags,
                "-P",
                "-c",
                _START,
                str(fd),
                str(os.getpid()),
                *map(str, sys.path),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,  # no Ctrl-C of a terminal reaches it
        )
    finally:
        os.close(fd)


def _poll(pidfd: int, timeout_s: float) -> object:
    """Wait for the end of a process; return what is true if it has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return poller.poll(timeout_s * 1_000)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, a container that forbids it
        return None
