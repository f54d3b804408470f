"""The fixtures of tollgate for pytest, which loads this module at each start.

So it imports nothing but pytest: what a fixture needs is loaded when a test asks for it.
"""

from collections.abc import Iterator

import pytest

TYPE_CHECKING = False  # type checkers take it as true
if TYPE_CHECKING:
    from typing import Any

    from tollgate.client.sync import Client
    from tollgate.testing import Broker


@pytest.fixture
def tollgate_broker_settings() -> "dict[str, Any]":
    """Return the arguments of `tollgate_broker`'s `Broker`. Override it to set some."""
    return {}


@pytest.fixture
def tollgate_broker(tollgate_broker_settings: "dict[str, Any]") -> "Iterator[Broker]":
    """Run a broker for one test: in this process, in memory, with a time that the test advances."""
    from tollgate.testing import Broker  # noqa: PLC0415 - see above

    with Broker(**tollgate_broker_settings) as broker:
        yield broker


@pytest.fixture
def tollgate_client(tollgate_broker: "Broker") -> "Client":
    """Return a client of `tollgate_broker`."""
    return tollgate_broker.connect()
