"""Answers HTTP for Prometheus: `/metrics`, `/healthz` and `/readyz`.

Each request has a thread and a connection of its own. Both are bounded: in number by
CONNECTIONS_MAX, and in time by CONNECTION_S.
"""

import hmac
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.results import StatsResult
from tollgate.metrics.families import BrokerCollector
from tollgate.signals import obeyed_stops

log = logging.getLogger("tollgate.metrics")

BROKER_S: Final = 2.0
"""How long an answer of the broker may take, with the wait for requests before."""
SOON_S: Final = 0.001
"""The time for an answer if the requests before have used it up."""
CONNECTIONS_MAX: Final = 16
"""How many connections there may be at a time; more are closed at once."""
CONNECTION_S: Final = 10.0
"""How long a connection may last, of which reads and writes may wait READ_S each."""
READ_S: Final = 5.0
TEXT: Final = "text/plain; charset=utf-8"
Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type and body."""


class Figures:
    """Asks the broker, for one request at a time: a client is for one thread at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = Lock()
        registry = CollectorRegistry()
        registry.register(BrokerCollector(self._stats))
        self._registry = registry

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Return a content type, chosen by the header `Accept`, and all metrics in it.

        Raises TollgateError if the broker does not answer, or refuses.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def ping(self) -> None:
        """Return if the broker answers. Raises TollgateError if it does not."""
        with self._turn() as left_s:
            self._client.ping(timeout_s=left_s)

    def _stats(self) -> StatsResult:
        with self._turn() as left_s:
            return self._client.stats(timeout_s=left_s)

    @contextmanager
    def _turn(self) -> Iterator[float]:
        """Wait for the client; yield how many seconds are left for an answer."""
        end = monotonic() + BROKER_S
        if not self._lock.acquire(timeout=BROKER_S):
            raise BrokerUnreachableError("requests before this one still wait for the broker")
        try:
            yield max(SOON_S, end - monotonic())
        finally:
            self._lock.release()


class Handler(BaseHTTPRequestHandler):
    """Answers one request, and closes the connection."""

    timeout = READ_S
    server: "Server"

    def do_GET(self) -> None:
        """Answer a GET."""
        status, content_type, body = self._answer()
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - as the standard library calls it

    def _answer(self) -> Answer:
        if not self._is_allowed():
            return _text(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN")
        path = urlsplit(self.path).path
        if path == "/healthz":
            return _text(HTTPStatus.OK, "running")
        if path not in {"/metrics", "/readyz"}:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
        return self._asked(path)

    def _asked(self, path: str) -> Answer:
        """Return an answer that needs the broker."""
        figures = self.server.figures
        try:
            if path == "/readyz":
                figures.ping()
                return _text(HTTPStatus.OK, "the broker answers")
            content_type, body = figures.metrics(self.headers.get("Accept", ""))
        except BrokerUnreachableError as fault:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"the broker does not answer: {fault}")
        except TollgateError as fault:
            told = f"the broker gives no figures: {fault}"
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, told)
        return HTTPStatus.OK, content_type, body

    def _is_allowed(self) -> bool:
        if self.server.token is None:
            return True
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        told = given.strip().encode("utf-8", "surrogateescape")
        # The time that this takes does not tell how much of a guess is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(told, self.server.token)

    def version_string(self) -> str:
        """Return the header `Server`, without the version of Python."""
        return "tollgate"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log a request, or a malformed one."""
        log.debug(format, *args)


class Server(ThreadingTCPServer):
    """Listens, and gives each connection a thread. Raises OSError if it cannot listen."""

    allow_reuse_address = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], figures: Figures, token: bytes | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.figures = figures
        self.token = token
        self._lock = Lock()
        self._open: dict[socket.socket, float] = {}
        """The connections that are open, each with the time at which it is cut off."""
        super().__init__(address, Handler)

    @property
    def url(self) -> str:
        """Return where it listens."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Start a thread for a connection, or close it if there are too many."""
        with self._lock:
            is_full = len(self._open) >= CONNECTIONS_MAX
            if not is_full:
                self._open[request] = monotonic() + CONNECTION_S
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off connections that have lasted too long; the loop calls this twice a second."""
        now = monotonic()
        self._cut(socket.SHUT_RDWR, lambda end: end <= now)

    def server_close(self) -> None:
        """Stop listening, and return when the requests that are read are answered."""
        self._cut(socket.SHUT_RD, lambda _: True)  # else a silent connection would keep us
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log why a request has no answer. A client that left is no error."""
        del request, client_address
        fault = sys.exception()
        if isinstance(fault, ConnectionError | TimeoutError):
            log.debug("a client left: %s", fault)
        else:
            log.error("a request was not answered", exc_info=True)  # noqa: LOG014 - it is handled

    def _cut(self, how: int, which: Callable[[float], bool]) -> None:
        with self._lock:
            found = [request for request, end in self._open.items() if which(end)]
        for request in found:
            with suppress(OSError):  # it was closed just now
                request.shutdown(how)


def serve(address: tuple[str, int], client: Client, token: bytes | None) -> None:
    """Answer requests until SIGTERM, SIGINT or SIGHUP, and close the client.

    Raises OSError if it cannot listen on the address. With a token each request must bring it.
    """
    with client, Server(address, Figures(client), token) as server:

        def stop(*_: object) -> None:
            # In a thread: `shutdown` waits for the loop, which waits for this handler.
            Thread(target=server.shutdown, daemon=True).start()

        for sign in obeyed_stops():
            signal.signal(sign, stop)
        log.info("listening", extra={"url": server.url, "broker": client.endpoint})
        server.serve_forever()
        log.info("stopping")
    log.info("left")


def _text(status: HTTPStatus, told: str) -> Answer:
    return status, TEXT, f"{told}\n".encode("utf-8", "replace")
