"""The public names exist, load lazily, and agree between the twins."""

import inspect

import pytest

import tollgate
from tests.blocking_calls import BLOCKING, blocking_calls
from tollgate.client.aio import AsyncBatch, AsyncClient
from tollgate.client.batch import Batch
from tollgate.client.sync import Client

from .peers import BrokerProcess, printed

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
def test_every_public_name_exists(name: str) -> None:
    found = getattr(tollgate, name)
    if isinstance(found, type):
        assert found.__name__ == name


def test_every_refusal_is_public() -> None:
    from tollgate.domain.exceptions import REFUSALS  # noqa: PLC0415 - of this test alone

    assert {refusal.__name__ for refusal in REFUSALS.values()} <= {*tollgate.__all__}


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tollgate' has no attribute 'Clint'"):
        _ = tollgate.Clint  # type: ignore[attr-defined] # mypy sees it too


def test_importing_tollgate_loads_nothing() -> None:
    assert printed(NAMES) == ["[]"]


def test_a_ping_loads_no_slow_module(broker: BrokerProcess) -> None:
    assert printed(PING, broker.endpoint) == ["[]"]


TWINS = [(Client, AsyncClient), (Batch, AsyncBatch)]
Parameters = dict[str, tuple[object, object, object]]


def calls(of: type) -> dict[str, Parameters]:
    """Return the public methods, inherited ones included, with their parameters."""
    return {
        name: {
            parameter.name: (parameter.kind, parameter.default, parameter.annotation)
            for parameter in inspect.signature(member).parameters.values()
        }
        for name, member in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("plain", "awaited"), TWINS)
def test_twins_have_the_same_signatures(plain: type, awaited: type) -> None:
    assert calls(plain) == calls(awaited)
    assert len(calls(plain)) > 10
    for name in calls(plain):
        returns = [
            inspect.signature(getattr(of, name)).return_annotation for of in (plain, awaited)
        ]
        own = {"Batch": "AsyncBatch", "Iterator": "AsyncIterator"}
        assert own.get(_name(returns[0]), _name(returns[0])) == _name(returns[1]), name


def _name(annotation: object) -> str:
    return getattr(annotation, "__name__", str(annotation))


@pytest.mark.parametrize(("plain", "awaited"), TWINS)
def test_twins_have_the_same_docstrings(plain: type, awaited: type) -> None:
    for name in calls(plain):
        documented = inspect.getdoc(getattr(plain, name))
        assert documented, name
        assert documented == inspect.getdoc(getattr(awaited, name)), name


def test_the_blocking_calls_are_made_of_the_others() -> None:
    assert BLOCKING.read_text() == blocking_calls(), "run `make twin`"


def test_a_batch_takes_the_arguments_of_the_client() -> None:
    for name, parameters in calls(Batch).items():
        if name == "send":
            continue
        of_client = calls(Client)[name]
        assert parameters.items() <= of_client.items(), name
        assert of_client.keys() - parameters.keys() <= {"timeout_s", "wait_ms"}, name
