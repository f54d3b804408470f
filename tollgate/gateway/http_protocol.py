"""HTTP/1.1 of uvicorn, with limits on what comes beside a body: uvicorn has none there."""

import re
import resource
from asyncio import BaseTransport, TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES: Final = 64 * 1024
"""Of the first line and the headers, and of headers behind a body (trailers).

What follows them in the same packet counts too.
"""
HEAD_S: Final = 15.0
"""How long they may take to come, and the rest of a body whose request is answered."""
UNREAD_S: Final = 30.0
"""How long a caller may leave an answer unread."""
PIPELINED_MAX: Final = 100
"""How many requests of one connection may wait. One takes about 4 KiB, whatever it sends."""
_DESCRIPTORS: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
CONNECTIONS_MAX: Final = 10_000 if _DESCRIPTORS < 0 else min(10_000, _DESCRIPTORS * 3 // 4)
"""Of one process. Without a descriptor left, it could reach neither callers nor its broker."""
_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_NO_UPGRADE: Final = b"\r\nX-Upgrd:"
"""Of the same length, so that the sizes in the packet hold."""
_BODY: Final = b'{"error":"bad_request","message":"this is no HTTP/1.1 request that can be taken"}'


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose callers send too much beside bodies, or are too slow.

    While no request is being answered, a timer runs: `_timer`, or uvicorn's after an answer. While
    an answer waits for its reader, `_unread_timer` runs.
    """

    _head_bytes = 0
    _in_head = True
    _timer: TimerHandle | None = None
    _unread_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()
        if len(self.connections) > CONNECTIONS_MAX:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._stop_waiting_for_reader()

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + len(data):  # a packet may hold a body as well
                self.send_400_response("")
                return
            head, end, rest = data.partition(b"\r\n\r\n")
            # Some callers offer HTTP/2 in this way, and go on without. The parser would not: it
            # drops the body, and takes no request after that.
            data = _UPGRADE.sub(_NO_UPGRADE, head) + end + rest
        super().data_received(data)
        if self._timer is None and self.is_idle():  # uvicorn's own timer ends with any byte
            self._wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # the base says None
        """Answer a request that is complete: its caller has stopped sending, but may read."""
        if self.is_idle() or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Wait for the headers of a request."""
        if len(self.pipeline) >= PIPELINED_MAX:
            raise OverflowError  # the parser makes a bad request of it
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop waiting: the gate has limits for what follows."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Count from here: behind the last part of a body, headers may follow."""
        self._in_head = True
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Count no part of a body: the gate does."""
        self._in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count anew from here."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the reader of an answer, if it is the last one."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without a further request."""
        super().timeout_keep_alive_handler()
        self._wait_for_reader()

    def pause_writing(self) -> None:
        """Wait for the reader of an answer."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Go on: the reader reads."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Say as JSON that this is no request, and close the connection."""
        del msg  # the answer is the same for all
        self._stop_waiting()
        if self.is_idle() or self._is_in_body():  # else it would answer an earlier request
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
            )
        self.transport.close()
        self._wait_for_reader()

    def _is_in_body(self) -> bool:
        """Return whether what came belongs to a request that has no part of an answer yet."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or self.pipeline:
            return False
        return cycle.more_body and not cycle.response_started

    def _make_room(self) -> None:
        """Close a connection that waits for a request: a caller that sends one does not wait."""
        waiting = (
            each
            for each in self.connections
            if isinstance(each, BoundedProtocol) and each is not self and each.is_idle()
        )
        chosen = next(waiting, self)
        self.connections.discard(chosen)
        chosen.transport.abort()

    def is_idle(self) -> bool:
        """Return whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_reader(self) -> None:
        # Without it, a connection that is closed stays until its last byte is read.
        self._stop_waiting_for_reader()
        self._unread_timer = self.loop.call_later(UNREAD_S, self.transport.abort)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
