"""One broker and two gateways for a module: a free agent, and one that is paid."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.running import FREE, PAID, GatewayProcess, running_gateway
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tollgate import Client
from tollgate.testing import Broker


@dataclass
class Town:
    """All of it."""

    broker: Broker
    client: Client
    server: Server
    free: GatewayProcess
    paid: GatewayProcess

    @property
    def service(self) -> PaymentService:
        return self.server.service


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Broker() as broker, Server() as server, broker.connect() as client:
        folders = [tmp_path_factory.mktemp(name) for name in ("free", "paid")]
        with (
            running_gateway(folders[0], FREE, broker.endpoint) as free,
            running_paid(folders[1], server, broker.endpoint) as paid,
        ):
            yield Town(broker, client, server, free, paid)


def running_paid(
    directory: Path, server: Server, endpoint: str, *options: str
) -> AbstractContextManager[GatewayProcess]:
    """Run a gateway for a paid agent."""
    (directory / "token").write_text(server.token)
    agent = PAID.format(agent=server.service.agent, url=server.url)
    return running_gateway(directory, agent, endpoint, *options)
