"""Calls of the payment service: each answer it can give is a value or one of two errors."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.payment_service.faults import Fault
from tests.payment_service.proxy import Answer
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService as StandIn
from tollgate.masumi import api
from tollgate.masumi.api import PaymentService, ServiceFailedError, ServiceRefusedError

HASH = "ab" * 32
EPOCH = "1970-01-01T00:00:00.000Z"


@pytest.fixture
async def service(server: Server) -> AsyncIterator[PaymentService]:
    async with PaymentService(server.url, server.token, "Preprod") as service:
        yield service


async def test_a_payment_is_read(service: PaymentService, server: Server) -> None:
    identifier = server.service.create(inputHash="AB" * 32)["blockchainIdentifier"]
    payment = await service.resolve(identifier)
    assert payment is not None
    assert payment.input_hash == HASH
    assert (payment.on_chain_state, payment.result_hash) == (None, None)
    assert payment.submit_by is not None
    assert payment.submit_by > datetime.now(UTC) + timedelta(hours=1)
    assert (await service.changes("Web3CardanoV1", EPOCH)).payments == [payment]
    assert (await service.changes("Web3CardanoV2", EPOCH)).payments == []


async def test_an_unknown_payment_is_none(service: PaymentService) -> None:
    assert await service.resolve("nothing") is None


async def test_a_call_that_is_refused_names_the_reason(
    service: PaymentService, server: Server
) -> None:
    identifier = server.service.create()["blockchainIdentifier"]
    with pytest.raises(ServiceRefusedError, match="invalid state") as refused:
        await service.submit(identifier, HASH)
    assert refused.value.status == 404
    assert not refused.value.is_ours


async def test_retry_after_is_told(service: PaymentService, server: Server) -> None:
    server.service.faults.retry_after_s = 7
    server.service.faults.plan("resolve", Fault.TOO_MANY)
    with pytest.raises(ServiceFailedError) as failed:
        await service.resolve("nothing")
    assert failed.value.retry_after_s == 7.0


async def test_an_answer_has_a_limit(
    service: PaymentService, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = server.service.create()["blockchainIdentifier"]
    monkeypatch.setattr(api, "ANSWER_BYTES", 100)
    with pytest.raises(ServiceFailedError, match="more than 100 bytes"):
        await service.resolve(identifier)


async def test_a_page_has_no_more_than_was_asked_for(
    service: PaymentService, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.proxy.changes["diff"] = lambda _: {"Payments": [0] * 101}
    with pytest.raises(ServiceFailedError, match="101 payments"):
        await service.changes("Web3CardanoV1", EPOCH)
    assert not caplog.records


async def test_a_page_ends_behind_what_cannot_be_read(
    service: PaymentService, server: Server
) -> None:
    last = server.service.create()["id"]
    server.proxy.changes["diff"] = lambda data: {
        "Payments": [{**data["Payments"][0], "submitResultTime": "soon"}, {"id": 1}, None]
    }
    page = await service.changes("Web3CardanoV1", EPOCH)
    assert page.last is not None
    assert (page.payments, page.last[1]) == ([], last)


async def test_the_middle_of_three_clocks_is_the_time(
    service: PaymentService, server: Server
) -> None:
    for wrong in ("Fri, 01 Jan 2100 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 GMT"):
        for _ in range(3):
            await service.resolve("nothing")
        await dated(service, server, wrong)
        assert abs(service.now() - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_time_out_of_all_calendars_is_not_read(
    service: PaymentService, server: Server
) -> None:
    for _ in range(3):
        await dated(service, server, "Fri, 31 Dec 9999 23:59:59 GMT")
    assert abs(service.now() - datetime.now(UTC)) < timedelta(minutes=1)


async def dated(service: PaymentService, server: Server, date: str) -> None:
    """Ask once, and get an answer of the service with this date."""
    refusal = b'{"status": "error", "error": {"message": "Payment not found"}}'
    server.proxy.plan("resolve", Answer(404, refusal, {"Date": date}))
    assert await service.resolve("nothing") is None


async def test_a_service_that_is_away_has_failed(server: Server) -> None:
    async with PaymentService("http://127.0.0.1:1/api/v1", "t", "Preprod") as service:
        with pytest.raises(ServiceFailedError, match="resolve"):
            await service.resolve("nothing")


@pytest.mark.parametrize("ahead_s", [-600, 0, 600])
async def test_the_time_is_the_services(ahead_s: int) -> None:
    with Server(StandIn(clock=lambda: time.time() + ahead_s)) as server:
        async with PaymentService(server.url, server.token, "Preprod") as service:
            for _ in range(2):
                await service.resolve("nothing")
            off = service.now() - datetime.now(UTC)
            assert abs(off.total_seconds() - ahead_s) < 60


@asynccontextmanager
async def answering(*parts: bytes, timeout_s: float = 30.0) -> AsyncIterator[PaymentService]:
    """Yield the client of a server that answers with these parts, a tenth of a second apart."""

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            for number, part in enumerate(parts):
                await asyncio.sleep(0.1 if number else 0)
                writer.write(part)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    async with PaymentService(url, "t", "Preprod", timeout_s=timeout_s) as service:
        yield service
    server.close()
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    await server.wait_closed()


async def test_an_answer_that_drips_has_a_time_limit() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with answering(head, *[b"x"] * 100, timeout_s=0.5) as service:
        with pytest.raises(ServiceFailedError, match="no answer within"):
            await service.resolve("nothing")


@pytest.mark.parametrize("status", ["302", "307", "400", "401", "403", "404", "405", "409", "413"])
@pytest.mark.parametrize("page", ["", "<html>", '{"message": "no Route matched"}', '{"status": 1}'])
async def test_an_answer_of_a_proxy_is_no_word_of_the_service(status: str, page: str) -> None:
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nLocation: /\r\n"
    answer = f"{head}Content-Length: {len(page)}\r\n\r\n{page}"
    async with answering(answer.encode()) as service:
        with pytest.raises(ServiceFailedError):
            await service.resolve("nothing")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"data": 1}', b"\xff", b"[" * 100_000])
async def test_an_answer_that_is_no_answer_has_failed(text: bytes) -> None:
    length = str(len(text)).encode()
    async with answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + text
    ) as service:
        with pytest.raises(ServiceFailedError, match="not as expected"):
            await service.changes("Web3CardanoV1", EPOCH)


@pytest.mark.parametrize(
    ("told", "least", "most"),
    [
        ("7", 7, 7),
        ("86400", 600, 600),
        ("-3", 0, 0),
        ("nan", None, None),
        ("soon", None, None),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 600, 600),
        ("Fri, 01 Jan 2021 00:00:00 GMT", 0, 0),
    ],
)
async def test_retry_after_is_read_and_bounded(
    told: str, least: float | None, most: float | None
) -> None:
    head = f"HTTP/1.1 503 Away\r\nRetry-After: {told}\r\nContent-Length: 0\r\n\r\n"
    async with answering(head.encode()) as service:
        with pytest.raises(ServiceFailedError) as failed:
            await service.resolve("nothing")
    if least is None or most is None:
        assert failed.value.retry_after_s is None
    else:
        assert failed.value.retry_after_s is not None
        assert least <= failed.value.retry_after_s <= most
