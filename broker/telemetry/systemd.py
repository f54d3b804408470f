"""Tells the service manager how the broker is, by systemd's protocol; without one, nobody."""

import os
import socket
from typing import Final

MICROSECONDS: Final = 1_000
"""Of a millisecond."""


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names; what cannot be sent is let go.

    `watchdog_ms` is how often to send `alive` at least, None if nobody waits for it: twice in the
    time after which the manager takes the broker for hung (WATCHDOG_USEC).
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        span = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_ms = int(span) // MICROSECONDS // 2 if span.isdecimal() and meant else None

    def starting(self, status: str, for_ms: int) -> None:
        """Say that the start goes on, and may take so much longer."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={for_ms * MICROSECONDS}")

    def ready(self, status: str) -> None:
        """Say that whoever waits for the broker may come."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Say that the loop goes round."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the broker is about to leave."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(0)
                sender.sendto(message.encode(), self._address)
        except OSError:
            pass  # no file to be had, nobody there, or not reading: nothing of ours depends on it
