"""A listening tcp socket that can be shut and opened again while who came in by it stays.

Libzmq's own unbind ends the connections that stand, takes a moment, and is for the thread that has
the socket: too late, if that one is busy. A filter in the kernel does it at once, from any thread.
"""

import ctypes
import errno
import os
import socket
import sys
from typing import Final

from tollgate.broker.transport.endpoints import EndpointError

SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
"""Of Linux's <asm/socket.h>; Python has no name for them."""
RETURN: Final = 6
"""BPF_RET | BPF_K: keep so many bytes of the packet; none is to drop it."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


_DROP: Final = _Instruction(RETURN, 0, 0, 0)
_DROP_ALL: Final = _Program(1, ctypes.pointer(_DROP))


class Listener:
    """Listens at `tcp://address:port`, for libzmq to accept from; nobody comes in before `opened`.

    Shut, it drops what would become a connection: who tries again comes in once it is open.
    """

    def __init__(self, url: str, backlog: int) -> None:
        """Raises EndpointError if the address is taken, or the kernel cannot do it."""
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]*") or "0.0.0.0"  # noqa: S104 - the settings have asked for a word
        address = (host, 0 if port == "*" else int(port))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._try_to_shut()
            self._socket.listen(backlog)
        except OSError as fault:
            self._socket.close()
            raise EndpointError(f"{url}: {fault.strerror}") from None
        name = self._socket.getsockname()
        shown = f"[{name[0]}]" if family == socket.AF_INET6 else name[0]
        self.url = f"tcp://{shown}:{name[1]}"

    def give(self) -> int:
        """Return the socket once more, for libzmq to have and to close."""
        return os.dup(self._socket.fileno())

    def opened(self) -> None:
        """Let in who comes."""
        self.reopen()

    def _try_to_shut(self) -> None:
        try:
            self.shut()
        except OSError as fault:
            why = f"this system cannot hold off a crowd on tcp ({fault.strerror}); bind ipc alone"
            raise OSError(fault.errno, why) from None

    def shut(self) -> None:
        """Let nobody else in for now; who is in stays."""
        if sys.platform != "linux":
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(_DROP_ALL))

    def reopen(self) -> None:
        """Let in whoever comes again."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Give the address back, when libzmq does too."""
        self._socket.close()
