"""What people test with who build on tollgate: a real broker in the process, with its own time.

from tollgate.testing import Broker

with Broker() as broker, broker.connect() as client:
    job = broker.pay(client.create(input="Hello", delay_s=60))
    broker.advance(60)
    assert broker.drain(lambda job: job.input.upper()) == 1

docs/testing.md is the guide. With pytest there are fixtures: `tollgate_broker`, `tollgate_client`.
"""

from tollgate.testing.broker import Broker, BrokerFailedError

__all__ = ["Broker", "BrokerFailedError"]
