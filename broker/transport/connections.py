"""Counts the connections of a socket as they come and go, in a thread of its own.

libzmq accepts in a thread of its own, tens of thousands in a second: between two batches there is
no time to count. And its ipc listener ends the process when no file descriptor is left.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any, Final

import zmq

PAUSE_S: Final = 1.0
"""Shortest pause: otherwise peers that come and go fast keep it busy, and the log."""
FAILURES: Final[dict[int, str]] = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "handshake_broken_off",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "handshake_malformed",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "handshake_key_refused",
    zmq.Event.ACCEPT_FAILED: "accept_failed",
}


class ConnectionMonitor:
    """Calls `pause` at `limit` connections, and `resume` when half of them are gone.

    A pause lasts `pause_s` seconds at least. Both are called in the monitor's thread.
    `connections` includes those whose handshake is not finished.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        limit: int,
        pause: Callable[[], None],
        resume: Callable[[], None],
        pause_s: float = PAUSE_S,
    ) -> None:
        """Start to monitor a socket that is not bound yet."""
        self.connections = 0
        self.is_paused = False
        self._limit = limit
        self._pause = pause
        self._resume = resume
        self._pause_s = pause_s
        self._resume_at_s = 0.0
        self._lock = Lock()
        self.failures: Counter[str] = Counter()
        """What went wrong with connections, by cause, until `take_failures` takes it."""
        self._socket = socket
        address = f"inproc://connections-{id(self)}"
        events = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | zmq.Event.MONITOR_STOPPED
        for failure in FAILURES:
            events |= failure
        socket.monitor(address, events)
        self._events: zmq.Socket[Any] = socket.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # a full queue would block libzmq's own thread
        self._events.connect(address)
        self._thread = Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def take_failures(self) -> Counter[str]:
        """Return what went wrong with connections since the last call, by cause."""
        with self._lock:
            failures, self.failures = self.failures, Counter()
        return failures

    def close(self) -> None:
        """Stop the thread."""
        self._socket.disable_monitor()
        self._thread.join()
        self._events.close(0)

    def _run(self) -> None:
        receive = self._events.recv
        accepted, disconnected = int(zmq.Event.ACCEPTED), int(zmq.Event.DISCONNECTED)
        stopped = int(zmq.Event.MONITOR_STOPPED)
        while True:
            if self._has_event():
                # By hand: pyzmq's parser takes longer than libzmq takes to accept the next one.
                event = int.from_bytes(receive()[:2], sys.byteorder)
                receive()  # the address
                if event == accepted:
                    self.connections += 1
                elif event == disconnected:
                    self.connections = max(0, self.connections - 1)
                elif event == stopped:
                    return
                else:
                    self._count(FAILURES.get(event, "handshake_failed"))
            try:
                self._pause_or_resume()
            except OSError:  # the socket file is gone: no new peer can connect anyway
                self._count("socket_file_gone")

    def _has_event(self) -> bool:
        """Return whether to receive the next event; False when it is time to resume."""
        if not (self.is_paused and self._has_room()):
            return True
        left_s = self._resume_at_s - time.monotonic()
        return left_s > 0 and bool(self._events.poll(int(left_s * 1_000) + 1))

    def _has_room(self) -> bool:
        return self.connections <= self._limit // 2

    def _pause_or_resume(self) -> None:
        if not self.is_paused and self.connections >= self._limit:
            self.is_paused = True
            self._resume_at_s = time.monotonic() + self._pause_s
            self._count("stopped_accepting")
            self._pause()
        elif self.is_paused and self._has_room() and time.monotonic() >= self._resume_at_s:
            self.is_paused = False
            self._resume()

    def _count(self, cause: str) -> None:
        with self._lock:
            self.failures[cause] += 1
