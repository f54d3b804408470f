"""Any POST is a hint. Everything else is answered or dropped, and the watcher goes on."""

import asyncio

import httpx
import pytest

from tollgate.masumi import webhook
from tollgate.masumi.webhook import HEAD_BYTES, Webhook


class Hints:
    def __init__(self) -> None:
        self.count = 0
        self.webhook = Webhook("127.0.0.1", 0, self.add)

    def add(self) -> None:
        self.count += 1


async def test_a_post_is_a_hint_whatever_it_says() -> None:
    hints = Hints()
    url = f"http://127.0.0.1:{await hints.webhook.start()}/any/path"
    async with httpx.AsyncClient() as http:
        assert (await http.post(url, json={"event": "PAYMENT_ON_CHAIN_STATUS_CHANGED"})).is_success
        assert (await http.post(url, content=b"\xff" * 100_000)).is_success
        assert hints.count == 2
        assert (await http.get(url)).status_code == 405
    assert hints.count == 2
    hints.webhook.close()


@pytest.mark.parametrize(
    ("request_", "limit_s"),
    [(b"", 0.2), (b"POST / HTTP/1.1\r\n", 0.2), (b"POST /" + bytes(4 * HEAD_BYTES), 3_600.0)],
)
async def test_what_is_no_request_is_dropped(
    request_: bytes, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "REQUEST_S", limit_s)
    hints = Hints()
    port = await hints.webhook.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    assert hints.count == 0
    async with httpx.AsyncClient() as http:
        assert (await http.post(f"http://127.0.0.1:{port}/")).is_success
    hints.webhook.close()


async def test_only_so_many_connections_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "CONNECTIONS_MAX", 2)
    monkeypatch.setattr(webhook, "REQUEST_S", 3_600.0)
    hints = Hints()
    port = await hints.webhook.start()
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    writer.close()
    for _, each in idle:
        each.close()
    hints.webhook.close()
