"""What happens to requests before and after their endpoint: sizes, times, ids, log, other pages."""

import asyncio
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from tests.gateway.conftest import Town
from tests.gateway.running import FREE, GatewayProcess, running_gateway
from tests.serving import PATIENCE_S
from tollgate.gateway import gate
from tollgate.gateway.agent import HttpSettings
from tollgate.gateway.gate import Gate
from tollgate.gateway.http_protocol import HEAD_S, BoundedProtocol
from tollgate.gateway.limits import Limits

HIRE = {"input_data": {"text": "a"}, "identifier_from_purchaser": "gate"}


def connected(gateway: GatewayProcess) -> socket.socket:
    parts = urlsplit(gateway.url)
    assert parts.hostname
    assert parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def answer_on(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes the connection."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("size", [2**20 + 1, 5 * 2**20])
@pytest.mark.parametrize("is_told", [True, False])
def test_large_body_is_refused(town: Town, size: int, is_told: bool) -> None:
    def parts() -> object:
        for _ in range(size // 1_000 + 1):
            yield b" " * 1_000

    answer = httpx.post(
        f"{town.free.url}/start_job",
        content=b" " * size if is_told else parts(),  # type: ignore[arg-type]
        timeout=30,
    )
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert town.free.post("/start_job", HIRE).status_code == 200


def test_sender_of_a_large_body_reads_its_answer(town: Town) -> None:
    """A connection that is closed while its caller sends is reset, and the answer is lost."""
    body = b" " * (5 * 2**20)
    head = b"POST /start_job HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connected(town.free) as connection:
        connection.sendall(head)
        for begin in range(0, len(body), 100_000):
            connection.sendall(body[begin : begin + 100_000])
            time.sleep(0.005)
        assert connection.recv(1_000).startswith(b"HTTP/1.1 413")


async def test_large_body_that_drips_for_ever_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DRAIN_S", 0.1)
    settings = HttpSettings(body_bytes=1_000)
    limits, parts, answer = Limits(settings), iter([b"x" * 1_001]), list[Any]()

    async def app(scope: Any, receive: Any, _: Any) -> None:
        await Request(scope, receive).body()

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": next(parts, b"x"), "more_body": True}

    async def send(message: Any) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "POST", "path": "/start_job", "headers": []}
    async with asyncio.timeout(PATIENCE_S):
        await Gate(app, settings, limits)(scope, drip, send)
    assert answer[0]["status"] == 413
    assert limits.open == 0


def test_answered_requests_count_no_more(tmp_path: Path, town: Town) -> None:
    agent = FREE + "[http]\nconcurrency = 2\nconcurrency_per_address = 2\n"
    with running_gateway(tmp_path, agent, town.broker.endpoint) as gateway:
        for _ in range(5):
            assert gateway.get("/availability").status_code == 200
            assert gateway.get("/nothing").status_code == 404


def test_input_larger_than_the_broker_takes(tmp_path: Path, town: Town) -> None:
    agent = FREE.replace('{ validation = "max", value = "1000" }', "")
    agent += "[http]\nbody_bytes = 20000000\n"
    with running_gateway(tmp_path, agent, town.broker.endpoint) as gateway:
        answer = gateway.post("/start_job", {"input_data": {"text": "x" * 10_000_000}})
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


def test_slow_body_is_given_up(tmp_path: Path, town: Town) -> None:
    agent = FREE + "[http]\ntimeout_s = 0.5\n"
    with running_gateway(tmp_path, agent, town.broker.endpoint) as gateway:
        with connected(gateway) as slow:
            slow.sendall(b"POST /start_job HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            assert slow.recv(1_000).startswith(b"HTTP/1.1 408")
        assert gateway.post("/start_job", HIRE).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /status HTTP/1.1\r\nHost: a\r\n" + b"X-Many: " + b"x" * 200_000,
        b"GET /status HTTP/1.1\r\nHost: a\r\n" + b"X-Many: x\r\n" * 20_000,
        b"GET /" + b"x" * 200_000,
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ],
)
def test_bad_head_is_refused(town: Town, head: bytes) -> None:
    with connected(town.free) as connection:
        connection.settimeout(HEAD_S / 2)  # else the time limit would close it, too
        for begin in range(0, len(head), 4_000):
            try:
                connection.sendall(head[begin : begin + 4_000])
            except OSError:
                break
            time.sleep(0.001)
        try:
            answer = answer_on(connection)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert town.free.get("/availability").status_code == 200


async def test_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.gateway.http_protocol.HEAD_S", 0.2)
    config, state = uvicorn.Config(lambda: None, ws="none"), ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: BoundedProtocol(config, state, {}, loop), "127.0.0.1", 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        for begun in (b"", b"GET /status HTTP/1.1\r\nHos"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            async with asyncio.timeout(30):
                assert await reader.read() == b""
            writer.close()


def test_caller_that_leaves_changes_nothing(town: Town) -> None:
    before = town.client.count().total
    with connected(town.free) as connection:
        connection.sendall(b"POST /start_job HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\n{")
    assert town.free.get("/availability").status_code == 200
    assert town.client.count().total == before


def test_request_id_is_told_and_logged(town: Town) -> None:
    answer = town.free.post("/start_job", HIRE, headers={"X-Request-ID": "my-id.7"})
    assert answer.headers["x-request-id"] == "my-id.7"
    line = town.free.logged(request_id="my-id.7")
    assert (line["path"], line["status"], line["job_id"]) == (
        "/start_job",
        200,
        answer.json()["id"],
    )
    made = town.free.post("/start_job", b"{", headers={"X-Request-ID": "no id"})
    assert made.headers["x-request-id"] == made.json()["request_id"]
    assert len(made.json()["request_id"]) == 16


def test_other_paths_and_methods(town: Town) -> None:
    assert town.free.get("/nothing").json()["error"] == "not_found"
    wrong = town.free.post("/status")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert httpx.head(f"{town.free.url}/availability").status_code == 200
    assert town.free.get("/status/").status_code == 404


def test_pages_of_other_sites(tmp_path: Path, town: Town) -> None:
    headers = {"Origin": "https://example.com"}
    plain = httpx.get(f"{town.free.url}/availability", headers=headers)
    assert "access-control-allow-origin" not in plain.headers
    agent = FREE + '[http]\ncors_origins = ["https://example.com"]\n'
    with running_gateway(tmp_path, agent, town.broker.endpoint) as gateway:
        url = f"{gateway.url}/start_job"
        told = httpx.post(url, json=HIRE, headers=headers)
        asks = httpx.options(url, headers={**headers, "Access-Control-Request-Method": "POST"})
        other = httpx.post(url, json=HIRE, headers={"Origin": "https://other.example"})
    assert told.headers["access-control-allow-origin"] == "https://example.com"
    assert asks.status_code == 200
    assert "access-control-allow-origin" not in other.headers


def test_preflights_are_limited_and_logged(tmp_path: Path, town: Town) -> None:
    http = '[http]\ncors_origins = ["https://example.com"]\nrequests_per_s = 2\nhires_per_s = 0.1\n'
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    told = {**headers, "X-Request-ID": "preflight"}
    with running_gateway(
        tmp_path, FREE + http, town.broker.endpoint, "--log-level", "debug"
    ) as gateway:
        url = f"{gateway.url}/start_job"
        codes = [httpx.options(url, headers=told).status_code for _ in range(20)]
        assert codes[:4] == [200] * 4
        assert 429 in codes
        gateway.logged("request", request_id="preflight", method="OPTIONS", status=200)
        gateway.logged("request", request_id="preflight", status=429)
        other = {**headers, "X-Forwarded-For": "203.0.113.7"}
        assert httpx.options(url, headers=other).status_code == 200
        assert httpx.post(url, json=HIRE, headers=other).status_code == 200  # its only hire


@pytest.mark.parametrize("path", ["/start_job", "/start_job%0A", "/%73tart_job"])
async def test_flood_is_held_off(tmp_path: Path, town: Town, path: str) -> None:
    agent = FREE + "[http]\nrequests_per_s = 100\nhires_per_s = 1\n"
    with running_gateway(tmp_path, agent, town.broker.endpoint) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as flood:

            async def ask(number: int) -> int:
                body = {"input_data": {"text": str(number)}}
                return (await flood.post(path, json=body)).status_code

            codes = Counter(await asyncio.gather(*map(ask, range(100))))
            other = await flood.get("/availability", headers={"X-Forwarded-For": "203.0.113.7"})
    assert set(codes) == {200, 429}
    assert 10 <= codes[200] <= 30
    assert other.status_code == 200


def test_many_connections_do_not_stop_others(town: Town) -> None:
    silent = [connected(town.free) for _ in range(300)]
    try:
        for connection in silent[::2]:
            connection.sendall(b"GET /status HTTP/1.1\r\nHos")
        assert town.free.post("/start_job", HIRE).status_code == 200
    finally:
        for connection in silent:
            connection.close()
