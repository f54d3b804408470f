"""Counts the connections of a socket as they come and go, in a thread of its own.

libzmq accepts in a thread of its own, tens of thousands in a second: between two batches there is
no time to count. And with no file descriptor left, its ipc listener ends the process.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any, Final

import zmq

SHUT_S: Final = 1.0
"""How long to stay shut at least: else who comes and goes fast would keep it busy, and the log."""
FAILURES: Final[dict[int, str]] = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "handshake_broken_off",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "handshake_malformed",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "handshake_key_refused",
    zmq.Event.ACCEPT_FAILED: "accept_failed",
}


class Watch:
    """Calls `shut` when there are `most` connections, and `reopen` when half of them are gone.

    It stays shut for `shut_s` seconds at least. Both are called in the thread. `connections`
    includes those that still shake hands.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        most: int,
        shut: Callable[[], None],
        reopen: Callable[[], None],
        shut_s: float = SHUT_S,
    ) -> None:
        """Begin to watch a socket that does not listen yet."""
        self.connections = 0
        self.is_shut = False
        self._most = most
        self._shut = shut
        self._reopen = reopen
        self._shut_s = shut_s
        self._reopen_at_s = 0.0
        self._lock = Lock()
        self._failures: Counter[str] = Counter()
        self._socket = socket
        address = f"inproc://watch-{id(self)}"
        events = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | zmq.Event.MONITOR_STOPPED
        for failure in FAILURES:
            events |= failure
        socket.monitor(address, events)
        self._events: zmq.Socket[Any] = socket.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # full, it would hold up libzmq's own thread
        self._events.connect(address)
        self._thread = Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def take_failures(self) -> Counter[str]:
        """Return what went wrong with connections since the last call, by cause."""
        with self._lock:
            failures, self._failures = self._failures, Counter()
        return failures

    def close(self) -> None:
        """Watch no more."""
        self._socket.disable_monitor()
        self._thread.join()
        self._events.close(0)

    def _run(self) -> None:
        receive = self._events.recv
        accepted, disconnected = int(zmq.Event.ACCEPTED), int(zmq.Event.DISCONNECTED)
        stopped = int(zmq.Event.MONITOR_STOPPED)
        while True:
            if self._has_news():
                # By hand: pyzmq's parser takes longer than libzmq does to accept the next one.
                event = int.from_bytes(receive()[:2], sys.byteorder)
                receive()  # where it was
                if event == accepted:
                    self.connections += 1
                elif event == disconnected:
                    self.connections = max(0, self.connections - 1)
                elif event == stopped:
                    return
                else:
                    self._count(FAILURES.get(event, "handshake_failed"))
            try:
                self._judge()
            except OSError:  # the socket file is gone: nobody comes in by it, and who is in stays
                self._count("socket_file_gone")

    def _has_news(self) -> bool:
        """Return whether to wait for what comes next; False when it is time to open again."""
        if not (self.is_shut and self._has_room()):
            return True
        left_s = self._reopen_at_s - time.monotonic()
        return left_s > 0 and bool(self._events.poll(int(left_s * 1_000) + 1))

    def _has_room(self) -> bool:
        return self.connections <= self._most // 2

    def _judge(self) -> None:
        if not self.is_shut and self.connections >= self._most:
            self.is_shut = True
            self._reopen_at_s = time.monotonic() + self._shut_s
            self._count("stopped_accepting")
            self._shut()
        elif self.is_shut and self._has_room() and time.monotonic() >= self._reopen_at_s:
            self.is_shut = False
            self._reopen()

    def _count(self, cause: str) -> None:
        with self._lock:
            self._failures[cause] += 1
