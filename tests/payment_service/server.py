"""The stand-in over HTTP, on 127.0.0.1."""

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from tests.payment_service.faults import DONE, Fault
from tests.payment_service.proxy import Proxy
from tests.payment_service.service import (
    DIFF_BOTH,
    DIFF_NEXT_ACTION,
    DIFF_ON_CHAIN,
    Key,
    PaymentService,
    ServiceError,
)

PREFIX: Final = "/api/v1"
BODY_MAX: Final = 1_000_000
IDLE_S: Final = 30.0
"""A connection on which nothing comes for so long is closed."""
PAGE: Final = b"<!doctype html><html><body><h1>Please wait</h1></body></html>"

Call = Callable[[PaymentService, Mapping[str, Any], Key], dict[str, Any]]


def _diff(by: str) -> Call:
    return lambda service, values, key: service.diff(values, key, by=by)


ROUTES: Final[dict[tuple[str, str], tuple[str, Call]]] = {
    ("GET", "/payment"): ("list", PaymentService.list),
    ("POST", "/payment"): ("create", PaymentService.create_payment),
    ("GET", "/payment/diff"): ("diff", _diff(DIFF_BOTH)),
    ("GET", "/payment/diff/next-action"): ("diff", _diff(DIFF_NEXT_ACTION)),
    ("GET", "/payment/diff/onchain-state-or-result"): ("diff", _diff(DIFF_ON_CHAIN)),
    ("POST", "/payment/resolve-blockchain-identifier"): ("resolve", PaymentService.resolve),
    ("POST", "/payment/submit-result"): ("submit-result", PaymentService.submit_result),
    ("POST", "/payment/error-state-recovery"): ("error-state-recovery", PaymentService.recover),
    ("POST", "/payment/authorize-refund"): ("authorize-refund", PaymentService.authorize_refund),
}
"""Method and path, to the name of the call (which faults know) and what does it."""
READING: Final = frozenset({"list", "diff", "resolve"})


class Server:
    """Serves a `PaymentService` until the end of its `with` block.

    Args:
        service: what it serves; a new one if left out.
        port: 0 for any free one.
    """

    def __init__(self, service: PaymentService | None = None, port: int = 0) -> None:
        self.service = service or PaymentService()
        self.proxy = Proxy()
        self.token = self.service.key.token
        self._port = port

    def __enter__(self) -> Self:
        self._http = _HTTPServer(("127.0.0.1", self._port), self.service, self.proxy)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="payment-service", daemon=True
        )
        self._thread.start()
        self._port = self._http.server_address[1]  # a restart has the same address
        self.url = f"http://127.0.0.1:{self._port}{PREFIX}"
        return self

    def __exit__(self, *error: object) -> None:
        self._http.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.close_connections()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port, which stays the same when the server is entered again."""
        return self._port


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], service: PaymentService, proxy: Proxy) -> None:
        self.service = service
        self.proxy = proxy
        self.stopped = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # its caller was faster
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that are gone: tests kill them."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: _HTTPServer

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header tells the service's time, which a test may set."""
        return super().date_time_string(
            self.server.service.now_ms / 1_000 if timestamp is None else timestamp
        )

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(size)  # all of it: a caller that still sends reads no answer
        if size > BODY_MAX:
            self._send_error(413, "request entity too large")
            return
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        try:
            body = json.loads(text or b"{}") if is_json else {}
        except ValueError as error:
            self._send_error(400, str(error))
            return
        if not isinstance(body, dict):
            self._send_error(400, "the body must be an object")
            return
        self._answer(body)

    def _answer(self, body: dict[str, Any]) -> None:
        parts = urlsplit(self.path)
        path = parts.path.rstrip("/")
        if path == f"{PREFIX}/health" and self.command == "GET":
            self._send(200, {"status": "success", "data": {"status": "ok"}})
            return
        route = ROUTES.get((self.command, path.removeprefix(PREFIX)))
        if route is None or not path.startswith(PREFIX):
            self._send_error(404, f"Can not {self.command} {parts.path}")
            return
        name, call = route
        answer = self.server.proxy.answer(name)
        if answer is not None:
            self._send_bytes(answer.status, answer.body, headers=answer.headers)
            return
        values = body if self.command == "POST" else dict(parse_qsl(parts.query))
        fault = self.server.service.faults.draw(name)
        status, data = HTTPStatus.OK.value, {}
        if fault is None or fault in DONE:
            try:
                told = call(self.server.service, values, self._key(name))
                data = {"status": "success", "data": self.server.proxy.changed(name, told)}
            except ServiceError as error:
                status, data = error.status, _error(error.message)
        if fault is None:
            self._send(status, data)
        else:
            self._send_fault(fault, status, data)

    def _key(self, name: str) -> Key:
        token = self.headers.get("token")
        if not token:
            raise ServiceError(401, "Unauthorized, no authentication token provided")
        key = self.server.service.keys.get(token)
        if key is None:
            raise ServiceError(401, "Unauthorized, invalid authentication token provided")
        if name not in READING and not key.can_pay:
            raise ServiceError(401, "Unauthorized, payment access required")
        return key

    def _send_fault(self, fault: Fault, status: int, data: dict[str, Any]) -> None:
        faults = self.server.service.faults
        if fault in {Fault.ERROR_BEFORE, Fault.ERROR_AFTER}:
            self._send_error(500, "Internal Server Error")
        elif fault is Fault.CONFLICT:
            self._send_error(409, "Payment state changed concurrently; retry")
        elif fault is Fault.SLOW:
            self.server.stopped.wait(faults.slow_s)
            self._send(status, data)
        elif fault is Fault.HTML_OK:
            self._send_bytes(200, PAGE, "text/html")
        elif fault is Fault.HTML_ERROR:
            self._send_bytes(502, PAGE, "text/html")
        elif fault is Fault.HALF:
            text = json.dumps(data).encode()
            self.close_connection = True
            self._send_bytes(status, text[: len(text) // 2], size=len(text))
        else:
            self._send_bytes(
                429,
                json.dumps(_error("Too Many Requests")).encode(),
                headers={"Retry-After": str(faults.retry_after_s)},
            )

    def _send(self, status: int, data: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(data).encode())

    def _send_error(self, status: int, message: str) -> None:
        self._send(status, _error(message))

    def _send_bytes(
        self,
        status: int,
        text: bytes,
        kind: str = "application/json; charset=utf-8",
        *,
        size: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        length = str(len(text) if size is None else size)
        self.send_response_only(status)
        for name, value in {
            "Date": self.date_time_string(),
            "Content-Type": kind,
            "Content-Length": length,
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: a test's output is for its failures."""


def _error(message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"message": message}}
