"""Fixtures: a service with a clock of its own, and its HTTP server."""

from collections.abc import Iterator

import pytest

from tests.payment_service.caller import Caller, Clock
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(clock: Clock) -> PaymentService:
    return PaymentService(seed=1, clock=clock)


@pytest.fixture
def call(service: PaymentService) -> Iterator[Caller]:
    with Server(service) as server:
        yield Caller(server)
