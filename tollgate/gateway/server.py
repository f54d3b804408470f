"""Runs a gateway: binds its port, serves until a signal, and then lets open requests end."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import uvicorn

from tollgate.client.aio import AsyncClient
from tollgate.gateway.agent import Agent
from tollgate.gateway.app import build
from tollgate.gateway.http_protocol import BoundedProtocol
from tollgate.masumi.api import PaymentService
from tollgate.signals import obeyed_stops
from tollgate.streams import exit_now
from tollgate.token_file import read_token

log = logging.getLogger("tollgate.gateway")

GRACE_S: Final = 8
"""How long open requests may take after a stop signal."""
BROKER_S: Final = 5.0
"""How long an answer of the broker may take."""
BACKLOG: Final = 1_024
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a socket that is bound. Raises OSError.

    With `reuse_port` several processes may have the same port, and share its connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def serve(
    agent: Agent, bound: socket.socket, endpoint: str, *, key: str | None, name: str | None
) -> NoReturn:
    """Serve an agent on a bound socket until SIGTERM, SIGINT or SIGHUP, and end the process.

    Raises:
        TokenError: there is no API key for the payment service.

    """
    client = AsyncClient(endpoint, key=key, name=name, timeout_s=BROKER_S)
    payments, settings = None, agent.payment_service
    if settings is not None and not agent.is_free:
        payments = PaymentService(
            settings.url, read_token(settings.token_file, "API key"), settings.network,
            timeout_s=settings.timeout_s,
        )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        build(agent, client, payments),
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=bool(agent.http.trusted_proxies),
        forwarded_allow_ips=list(agent.http.trusted_proxies),
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
    )
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    fields = {
        "url": f"http://{shown}:{port}", "agent": agent.name, "queue": agent.queue,
        "broker": client.endpoint,
    }  # fmt: skip
    runner = asyncio.Runner(loop_factory=config.get_loop_factory())
    runner.run(_Server(config, fields).serve([bound]))
    _leave()  # the runner is not closed: that would wait for threads


def _leave() -> NoReturn:
    log.info("left")
    exit_now(0)


class _Server(uvicorn.Server):
    """A server that leaves with exit code 0 after a stop signal."""

    def __init__(self, config: uvicorn.Config, fields: dict[str, str]) -> None:
        super().__init__(config)
        self._fields = fields

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so when requests are taken."""
        await super().startup(sockets)
        log.info("listening", extra=self._fields)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the stop signals. uvicorn would end the process by them once it has stopped."""
        loop = asyncio.get_running_loop()
        for sign in obeyed_stops():
            loop.add_signal_handler(sign, self._stop)
        yield

    def _stop(self) -> None:
        if self.should_exit:
            _leave()  # the second signal: wait for nothing
        else:
            log.info("stopping")
            self.should_exit = True
