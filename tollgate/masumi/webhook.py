"""Takes webhooks of the payment service: any POST is a hint to look at once, and nothing more.

What a webhook says is not read: it may be late, repeated, or not the service's at all.
"""

import asyncio
from collections.abc import Callable
from typing import Final

HEAD_BYTES: Final = 16 * 1024
REQUEST_S: Final = 5.0
"""How long a request may take to come."""
CONNECTIONS_MAX: Final = 50


class Webhook:
    """A server on `host` and `port` that calls `on_hint` for each POST; 0 is any free port."""

    def __init__(self, host: str, port: int, on_hint: Callable[[], None]) -> None:
        self._host = host
        self._port = port
        self._on_hint = on_hint
        self._open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port. Raises OSError."""
        self._server = await asyncio.start_server(
            self._serve, self._host, self._port, limit=HEAD_BYTES
        )
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_S):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a hint that is no request, or came to nothing: the next poll looks anyway
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        if not head.startswith(b"POST "):
            return b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"
        self._on_hint()
        return b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
