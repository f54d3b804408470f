"""`tollgate` promises its names, loads each when asked, and keeps a ping light."""

import inspect
import subprocess
import sys

import pytest

import tollgate
from tollgate.client.aio import AsyncClient
from tollgate.client.sync import Client

from .peers import ROOT, BrokerProcess

PING = """
import sys
from tollgate.client.sync import Client
with Client(sys.argv[1], timeout_s=30) as client:
    client.ping()
heavy = {"asyncio", "tollgate.domain.hashing", "tollgate.domain.models"}
heavy |= {"platformdirs", "pydantic", "rich"}
print(sorted(heavy & sys.modules.keys()))
"""
NAMES = """
import sys
import tollgate
assert dir(tollgate) == tollgate.__all__
heavy = {"zmq", "msgspec", "pydantic", "tollgate.client", "tollgate.domain"}
print(sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.parametrize("name", tollgate.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    found = getattr(tollgate, name)
    if isinstance(found, type):
        assert found.__name__ == name


def test_every_refusal_is_promised() -> None:
    from tollgate.domain.exceptions import REFUSALS  # noqa: PLC0415 - of this test alone

    assert {refusal.__name__ for refusal in REFUSALS.values()} <= {*tollgate.__all__}


def test_a_name_that_is_not_there_is_said_not_to_be() -> None:
    with pytest.raises(AttributeError, match="module 'tollgate' has no attribute 'Clint'"):
        _ = tollgate.Clint


def test_importing_tollgate_loads_nothing() -> None:
    assert _python(NAMES) == "[]"


def test_a_ping_loads_neither_pydantic_nor_anything_else_that_is_slow(
    broker: BrokerProcess,
) -> None:
    assert _python(PING, broker.endpoint) == "[]"


def _python(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type) -> dict[str, object]:
        return {
            name: {
                parameter.name: (parameter.kind, parameter.default, parameter.annotation)
                for parameter in inspect.signature(member).parameters.values()
            }
            for name, member in vars(client).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)
    assert {"create", "claim", "close"} <= calls(Client).keys()


def test_both_clients_say_the_same_of_them() -> None:
    for name, member in vars(Client).items():
        if inspect.isfunction(member) and not name.startswith("_") and name != "close":
            assert inspect.getdoc(member) == inspect.getdoc(getattr(AsyncClient, name)), name
