"""Stop signals that are seen while the main thread is blocked, and that children do not inherit."""

import os
import signal
import socket
from collections import Counter
from contextlib import suppress
from types import FrameType
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AS_PYTHON: Final = 0x80
"""Added to the number of a signal that is written by Python code, not by the interpreter."""

_installed: "list[StopSignals]" = []


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGHUP, by a socket that any thread can read.

    The interpreter writes each signal's number there at once, whatever the main thread does. A
    handler that uses `loop.add_signal_handler` or `signal.set_wakeup_fd` takes that away, so our
    signal handler, which runs in the main thread when it can, writes there too.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)  # noqa: FBT003 - socket has it so
        self._writer.setblocking(False)  # noqa: FBT003
        self._by_interpreter: Counter[int] = Counter()
        self._by_python: Counter[int] = Counter()
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self.last: signal.Signals | None = None
        """The signal that came last."""

    def install(self) -> None:
        """Take the signals; only the main thread may."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a parent may have blocked them
        for sign in STOP_SIGNALS:
            is_ignored = signal.getsignal(sign) is signal.SIG_IGN
            if sign is not signal.SIGHUP or not is_ignored:  # `nohup` has it ignored
                self._before[sign] = signal.signal(sign, self._on_signal)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        _installed.append(self)

    def restore(self) -> None:
        """Put everything back as it was; only the main thread may."""
        if self not in _installed:
            return
        _installed.remove(self)
        signal.set_wakeup_fd(self._wakeup_before)
        for sign, before in self._before.items():
            if signal.getsignal(sign) == self._on_signal:  # else a handler has taken it
                signal.signal(sign, before)
        self._reader.close()
        self._writer.close()

    def keep(self) -> None:
        """Take the signals again if a handler took them away; only the main thread may.

        What handlers do with signals is theirs, but a worker that nothing can stop, or that a stop
        kills with its jobs, is worse. A loop's `add_signal_handler` goes on as well: its own
        descriptor stays.
        """
        ours = self._writer.fileno()
        other = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        is_seen = other in {ours, -1}
        if not is_seen:
            signal.set_wakeup_fd(other)
        for sign in self._before:
            now = signal.getsignal(sign)
            is_function = callable(now) and now is not signal.default_int_handler
            if now != self._on_signal and not (is_function and is_seen):
                signal.signal(sign, self._on_signal)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are signals to count."""
        return self._reader.fileno()

    def count(self) -> int:
        """Read what has come; return how many signals there were in all."""
        with suppress(BlockingIOError, OSError):
            for number in self._reader.recv(4_096):
                kind = number & ~_AS_PYTHON
                if kind in STOP_SIGNALS:
                    self.last = signal.Signals(kind)
                    (self._by_python if number & _AS_PYTHON else self._by_interpreter)[kind] += 1
        came = self._by_python | self._by_interpreter
        # A terminal that is closed may send SIGHUP more than once: that is no second wish.
        is_hung_up = came.pop(signal.SIGHUP, 0) > 0
        return max(sum(came.values()), int(is_hung_up))

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        with suppress(OSError):
            self._writer.send(bytes([number | _AS_PYTHON]))

    def leave_to_parent(self) -> None:
        """In a forked child: let signals do there what they did before."""
        signal.set_wakeup_fd(-1)  # whichever thread forked it is the child's main thread
        for sign, before in self._before.items():
            if signal.getsignal(sign) == self._on_signal:
                signal.signal(sign, before)


def _after_fork() -> None:
    while _installed:
        _installed.pop().leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
