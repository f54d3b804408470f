"""Standard streams that cannot stop a process: their reader may leave, or never read.

A write to a pipe without a reader raises, and a write to a full pipe blocks. Messages for people
are not worth either. Here they wait in a queue with a limit, and a thread writes them. What cannot
be written is dropped and counted. The data that a command prints to standard output is no message:
it is written as usual.
"""

import atexit
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from signal import SIG_BLOCK, pthread_sigmask, valid_signals
from typing import Any, Final, NoReturn

STDOUT: Final = 1
STDERR: Final = 2
QUEUE_BYTES_MAX: Final = 1 << 20
"""What may wait for a reader. A line alone in the queue may be longer."""
EXIT_S: Final = 1.0
"""How long the end of a process waits for readers, of all streams together."""
PATIENCE_S: Final = 1.0
"""How long a process without a thread for its messages waits for a reader that does not read."""
TELL_S: Final = 60.0
"""Time between two reports of losses on a stream that still cannot be written."""
PIPE_BUF: Final = select.PIPE_BUF
"""A pipe that poll calls writable takes so many bytes without blocking."""


class Writer:
    """Writes messages to a file descriptor, and neither raises nor blocks.

    With `threaded`, a daemon thread writes; it starts with the first message. Without, and in a
    forked child, `put` itself writes: it waits up to PATIENCE_S for the reader, once.
    """

    def __init__(self, fd: int, *, threaded: bool = True) -> None:
        self.fd = fd
        self.dropped = 0
        """Lines that could not be written."""
        self.tell: Callable[[int], None] = self._tell_in_words
        """Called with the number of dropped lines: after the next write, or once a minute."""
        self._told = 0
        self._tell_at_s = 0.0
        self._threaded = threaded
        self._patience_s = 0.0 if threaded else PATIENCE_S
        self._reset()

    def start_thread(self) -> None:
        """From now on let a thread write."""
        self._threaded, self._patience_s = True, 0.0

    def _reset(self) -> None:
        # Reentrant: a garbage collection or a signal handler inside `put` may write a line too.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing = b""
        self._thread: threading.Thread | None = None

    def put(self, data: bytes) -> None:
        """Write whole lines, in order; drop them if there is no room."""
        if not self._threaded:  # first: at exit the thread may have died with the lock
            self._write_now(data)
            return
        with self._changed:
            if self._waiting and self._waiting_bytes + len(data) > QUEUE_BYTES_MAX:
                self._drop(data)
                return
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no threads left, or the interpreter is ending
                    self._thread = None
                    self._waiting, self._waiting_bytes = [], 0
                    self._write_now(data)
                    return
            self._changed.notify_all()

    def finish(self, until_s: float) -> None:
        """Wait until all is written, or for that time (monotonic); no thread writes afterwards."""
        if not self._threaded:
            return
        with self._changed:
            while self._waiting or self._writing:
                if not self._changed.wait(max(0.0, until_s - time.monotonic())):
                    break
            stuck = bool(self._writing)
            self._threaded = False
        # Last words of other threads: nothing to wait for, and not into the middle of a line.
        self._patience_s = 0.0
        self.fd = -1 if stuck else self.fd

    def after_fork(self) -> None:
        """Write directly in the child: the thread and what waits for it are the parent's."""
        self._reset()
        if self._threaded:
            self._threaded, self._patience_s = False, PATIENCE_S

    def _run(self) -> None:
        pthread_sigmask(SIG_BLOCK, valid_signals())  # they interrupt the main thread's sleep
        while True:
            with self._changed:
                self._writing = b""
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                self._writing = b"".join(self._waiting)
                self._waiting, self._waiting_bytes = [], 0
            rest = self._writing
            try:
                while rest:
                    rest = rest[self._write_some(rest) :]
            except OSError:  # no reader, a full disk, a closed descriptor: that may pass
                self._drop(rest)
            self._tell_losses(is_writable=not rest)

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:  # another process has set the shared file to non-blocking
            select.select([], [self.fd], [], 1.0)
            return 0

    def _write_now(self, data: bytes) -> None:
        until_s = time.monotonic() + self._patience_s
        try:
            poller = select.poll()
            poller.register(self.fd, select.POLLOUT)
            while data:
                if not poller.poll(max(0, int(1_000 * (until_s - time.monotonic())))):
                    self._patience_s = 0.0
                    break
                with suppress(BlockingIOError):
                    data = data[os.write(self.fd, data[:PIPE_BUF]) :]
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
        ):  # the last: interpreter dying
            pass
        if data:
            self._drop(data)

    def _drop(self, data: bytes) -> None:
        self.dropped += data.count(b"\n") or 1

    def _tell_losses(self, *, is_writable: bool) -> None:
        now_s = time.monotonic()
        if self.dropped != self._told and (is_writable or now_s >= self._tell_at_s):
            self._tell_at_s = now_s + TELL_S
            lost, self._told = self.dropped - self._told, self.dropped
            with suppress(Exception):
                self.tell(lost)

    def _tell_in_words(self, lost: int) -> None:
        if self.fd == STDERR:
            self.put(f"({lost} lines of standard error were dropped)\n".encode())


class MessageStream(io.TextIOWrapper):
    """A text stream over a `Writer`, for `sys.stderr` and `sys.stdout`."""

    def __init__(self, writer: Writer) -> None:
        original = sys.__stderr__ if writer.fd == STDERR else sys.__stdout__
        super().__init__(
            _Raw(writer),
            encoding=original.encoding if original else "utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )


class _Raw(io.RawIOBase):
    """What TextIOWrapper writes to: hands all bytes to the writer at once."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._fd = writer.fd
        self.name = f"<{writer.fd}>"

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer of bytes
        whole = bytes(data)
        if whole:
            self._writer.put(whole)
        return len(whole)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        try:
            return os.isatty(self._fd)
        except OSError:
            return False


_writers: Final[dict[int, Writer]] = {}


def open_missing() -> None:
    """Open the null device in place of standard streams that were closed at the start.

    Otherwise the next file or socket gets the number, and libraries write messages into it.
    """
    with suppress(OSError):  # a bare chroot has no null device; as a rule, nothing is missing there
        while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
            os.set_inheritable(fd, True)  # noqa: FBT003 - the parameter has no name
        os.close(fd)


def protect(fd: int = STDERR, *, threaded: bool = True) -> Writer:
    """Replace `sys.stderr`, or with STDOUT `sys.stdout`, by a stream that cannot stop the process.

    To be called first of all in a process. Returns the writer, which is one for each descriptor.
    """
    open_missing()
    if fd not in _writers:
        _writers[fd] = Writer(fd, threaded=threaded)
        setattr(sys, "stderr" if fd == STDERR else "stdout", MessageStream(_writers[fd]))
    elif threaded:
        _writers[fd].start_thread()
    return _writers[fd]


def finish() -> None:
    """Write what waits in all streams, for EXIT_S at most. To be called before `os._exit`."""
    until_s = time.monotonic() + EXIT_S
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, MessageStream):
            with suppress(OSError, ValueError):
                stream.flush()
    for writer in _writers.values():
        writer.finish(until_s)


def exit_now(exit_code: int) -> NoReturn:
    """End the process when its messages are written, without waiting for threads.

    Python, asyncio and libuv wait for threads that resolve names: 30 s and more if no name server
    answers.
    """
    import logging  # noqa: PLC0415 - not needed by most programs

    with suppress(Exception):
        logging.shutdown()
    finish()
    os._exit(exit_code)


def _after_fork() -> None:
    for writer in _writers.values():
        writer.after_fork()


atexit.register(finish)
os.register_at_fork(after_in_child=_after_fork)
