"""A storage over a real broker."""

from collections.abc import AsyncIterator

import pytest

from tests.brokers import BrokerProcess
from tollgate.masumi import TollgateJobStorage


@pytest.fixture
async def storage(shared_broker: BrokerProcess) -> AsyncIterator[TollgateJobStorage]:
    made = TollgateJobStorage(shared_broker.endpoint, queue="sdk", timeout_s=10)
    yield made
    await made.close()
