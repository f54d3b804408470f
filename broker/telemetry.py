"""What the broker tells operators: counters, a replay's progress, its state for systemd."""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tollgate.broker.journal.recovery import Observer
from tollgate.log import get_logger

US_PER_MS: Final = 1_000
START_MS: Final = 30_000
"""How long a replay may report nothing before systemd takes it for hung."""
TOLD_S: Final = 1.0
"""A disk that takes longer is worth a warning."""
STALL_S: Final = 300.0
"""How long a disk may take before systemd may take the broker for hung."""
PROGRESS_S: Final = 1.0
"""How often a long replay reports its progress."""

log = get_logger("tollgate.broker")


class Counters(Counter[str]):
    """How often something was refused, dropped or cut off, by cause."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, int] = {}

    def news(self) -> dict[str, int]:
        """Return the counts that have changed since the last call."""
        news = {cause: count for cause, count in self.items() if count != self._told.get(cause)}
        self._told = dict(self)
        return news


class Notifier:
    """Reports the broker's state to the socket in NOTIFY_SOCKET, by systemd's protocol.

    That variable is looked for in `environment`. Without it nothing is sent, and a message that
    cannot be sent is dropped. `watchdog_ms` is the longest time between two calls of `alive`: half
    of WATCHDOG_USEC, after which systemd takes the broker for hung. It is None if systemd sets no
    watchdog.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        span = environment.get("WATCHDOG_USEC", "")
        is_meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_ms = int(span) // US_PER_MS // 2 if span.isdecimal() and is_meant else None

    def starting(self, status: str, for_ms: int) -> None:
        """Report that the start goes on, and may take that much longer."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={for_ms * US_PER_MS}")

    def ready(self, status: str) -> None:
        """Report that clients can connect."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Report that the loop runs."""
        self._send("WATCHDOG=1")

    def vouch(self, disk_since_s: Callable[[], float | None]) -> None:
        """From now on report also while the loop waits for the disk: it does not hang then.

        `disk_since_s` returns since when (monotonic) it waits, or None. A restart would wait for
        the same disk. After STALL_S systemd may end the broker all the same.
        """
        if self.watchdog_ms is not None:
            args = (self.watchdog_ms / 1_000, disk_since_s)
            threading.Thread(target=self._vouch, args=args, name="disk", daemon=True).start()

    def _vouch(self, every_s: float, disk_since_s: Callable[[], float | None]) -> None:
        while True:
            time.sleep(every_s)
            since_s = disk_since_s()
            waited_s = 0.0 if since_s is None else time.monotonic() - since_s
            if every_s / 2 < waited_s < STALL_S:
                self.alive()
                if waited_s > TOLD_S:
                    log.warning("the disk does not answer", for_s=round(waited_s, 3))

    def stopping(self) -> None:
        """Report that the broker is about to stop."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(0)
                sender.sendto(message.encode(), self._address)
        except OSError:
            pass  # no free descriptor, no reader, or a full queue: the broker does not depend on it


class ReplayLog(Observer):
    """Reports the progress of a long replay, and what it found."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._next_s = time.monotonic() + PROGRESS_S

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Report how much is done, once a second."""
        if time.monotonic() >= self._next_s:
            self._next_s += PROGRESS_S
            percent = 100 * done_bytes // max(1, total_bytes)
            self._notifier.starting(f"replaying: {percent} %", START_MS)
            log.info("replaying", percent=percent, done_bytes=done_bytes, total_bytes=total_bytes)

    def torn(self, file: Path, offset: int, length: int) -> None:
        """Report a write that was neither finished nor acknowledged."""
        log.warning("torn write cut off", file=str(file), offset=offset, bytes=length)

    def skipped(self, file: Path, reason: str) -> None:
        """Report a damaged snapshot that is not needed."""
        log.error("damaged snapshot skipped", file=str(file), reason=reason)
