"""HTTP/1.1 of uvicorn, with limits on what comes before a body: uvicorn has none there."""

from asyncio import BaseTransport, TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 64 * 1024
"""Of the first line and the headers. What follows them in the same packet counts too."""
HEAD_S: Final = 15.0
"""How long they may take to come."""
_BODY: Final = b'{"error":"bad_request","message":"this is no HTTP/1.1 request that can be taken"}'


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are too large, or take too long."""

    _head_bytes = 0
    _in_head = True
    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + len(data):  # a packet may hold a body as well
                self.send_400_response("")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Wait for the headers of a request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop waiting: the gate has limits for what follows."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count anew from here."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say as JSON that this is no request, and close the connection."""
        del msg  # it says no more
        self._stop_waiting()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
        )
        self.transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self.transport.close()
