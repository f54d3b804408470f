"""What callers do to a connection beside sending requests: more, less, and slower than they should.

The limits of time are shortened where a test waits for one.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tollgate.gateway.http_protocol import HEAD_BYTES, PIPELINED_MAX, BoundedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WHERE = "tollgate.gateway.http_protocol."


class Serving:
    """A server that answers when `answering` is set: at once, whatever of the body has come."""

    def __init__(self, body: bytes = b"ok") -> None:
        self.state = ServerState()
        self.bodies: list[bytes] = []
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self._body = body
        self._reads_body = False

    def reads_bodies(self) -> None:
        self._reads_body = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", self._reads_body
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        self.asked.set()
        await self.answering.wait()
        headers = [(b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})

    async def is_left(self) -> bool:
        """Return True when no connection is left."""
        async with asyncio.timeout(30):
            while self.state.connections:  # noqa: ASYNC110 - the server's, which tells no end
                await asyncio.sleep(0.01)
        return True


@asynccontextmanager
async def served(app: Serving) -> AsyncIterator[int]:
    """Serve on a free port, and return it."""
    config = uvicorn.Config(app, ws="none", lifespan="off", timeout_keep_alive=600)
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: BoundedProtocol(config, app.state, {}, loop), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection is closed, in whatever way."""
    parts = []
    async with asyncio.timeout(30):
        try:
            while part := await reader.read(65_536):
                parts.append(part)
        except ConnectionError:
            pass
    return b"".join(parts)


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\n", b"{"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n"),
        (GET, b"\r\n"),
    ],
)
async def test_bytes_behind_an_answer_hold_nothing(
    monkeypatch: pytest.MonkeyPatch, request_: bytes, more: bytes
) -> None:
    """A few bytes after the answer, and then silence, would hold a connection for ever."""
    monkeypatch.setattr(f"{WHERE}HEAD_S", 0.2)
    async with served(Serving()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        assert (await reader.read(1_000)).startswith(b"HTTP/1.1 200")
        writer.write(more)
        assert await all_of(reader) == b""
        writer.close()


@pytest.mark.parametrize("line", [b"X-Many: x\r\n" * 1_000, b"x" * 10_000])
async def test_headers_behind_a_body_are_bounded(line: bytes) -> None:
    async with served(Serving()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Long: ")
        sent = 0
        try:
            while sent < 100 * HEAD_BYTES:
                writer.write(line)
                await writer.drain()
                sent += len(line)
        except ConnectionError:
            pass
        assert sent < 100 * HEAD_BYTES
        await all_of(reader)
        writer.close()


async def test_body_in_many_parts_is_taken() -> None:
    app = Serving()
    app.reads_bodies()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            writer.write(b"400;a=b\r\n" + b"x" * 1_024)
            await writer.drain()
            writer.write(b"\r\n")
        writer.write(b"0\r\nX-Last: 1\r\n\r\n" + GET)
        answers = b""
        async with asyncio.timeout(30):
            while answers.count(b"HTTP/1.1 200") < 2:
                answers += await reader.read(1_000)
        writer.close()
    assert [len(body) for body in app.bodies] == [100 * 1_024, 0]


async def test_waiting_requests_of_a_connection_are_bounded() -> None:
    """They are kept before they are counted, and take a hundred times what was sent."""
    app = Serving()
    app.answering.clear()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * (PIPELINED_MAX + 1))
        async with asyncio.timeout(30):
            await app.asked.wait()
        app.answering.set()
        answers = b""
        async with asyncio.timeout(30):
            while answers.count(b"HTTP/1.1 200") <= PIPELINED_MAX:
                answers += await reader.read(65_536)
        app.answering.clear()
        writer.write(GET * (PIPELINED_MAX + 2))
        assert await all_of(reader) == b""  # no 400 either: the first one would be given it
        app.answering.set()
        writer.close()


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.0\r\n"])
async def test_unread_answer_holds_nothing(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(f"{WHERE}UNREAD_S", 0.2)
    app = Serving(b"x" * 20_000_000)
    async with served(app) as port:
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            silent.connect(("127.0.0.1", port))
            silent.sendall(head + b"\r\n")
            async with asyncio.timeout(30):
                await app.asked.wait()
            assert await app.is_left()


@pytest.mark.parametrize("is_complete", [True, False])
async def test_half_closed_connection(is_complete: bool) -> None:
    """A caller that has said all still reads; one that breaks off in a body does not."""
    app = Serving()
    app.reads_bodies()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        app.answering.clear()
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{" + (b"}" if is_complete else b""))
        writer.write_eof()
        await asyncio.sleep(0.1)
        app.answering.set()
        answer = await all_of(reader)
        writer.close()
        assert await app.is_left()
    assert answer.endswith(b"ok") if is_complete else answer == b""


async def test_silent_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{WHERE}CONNECTIONS_MAX", 5)
    app = Serving()
    app.answering.clear()
    async with served(app) as port:
        busy = await asyncio.open_connection("127.0.0.1", port)
        busy[1].write(GET)
        async with asyncio.timeout(30):
            await app.asked.wait()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        app.answering.set()
        writer.write(GET)
        async with asyncio.timeout(30):
            assert (await reader.read(1_000)).startswith(b"HTTP/1.1 200")
            assert (await busy[0].read(1_000)).startswith(b"HTTP/1.1 200")
        assert len(app.state.connections) == 5
        for _, each in (busy, (reader, writer), *silent):
            each.close()


async def test_offer_of_another_protocol_is_passed_over() -> None:
    """So ask Java's client and `curl --http2`, also with a body."""
    app = Serving()
    app.reads_bodies()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n")
            writer.write(b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: 2\r\n\r\n{}")
            async with asyncio.timeout(30):
                assert (await reader.read(1_000)).endswith(b"ok")
        writer.close()
    assert app.bodies == [b"{}", b"{}"]


async def test_answer_is_not_mixed_with_a_refusal() -> None:
    """What is no request comes behind one that is being answered."""
    app = Serving()
    async with served(app) as port:
        app.answering.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"nonsense\r\n\r\n")
        assert await all_of(reader) == b""
        app.answering.set()
        writer.close()


@pytest.mark.parametrize("is_read", [True, False])
async def test_body_that_is_cut_wrongly_is_refused(is_read: bool) -> None:
    app = Serving()
    if is_read:
        app.reads_bodies()
    app.answering.clear()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"x\r\n")
        answer = await all_of(reader)
        app.answering.set()
        assert await app.is_left()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"content-length") == 1


async def test_body_that_is_cut_wrongly_behind_half_an_answer() -> None:
    class Half(Serving):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
            await super().__call__(scope, receive, self._nothing)

        async def _nothing(self, message: Any) -> None:
            pass

    app = Half()
    app.answering.clear()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        await app.asked.wait()
        writer.write(b"x\r\n")
        answer = await all_of(reader)
        app.answering.set()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"400" not in answer
