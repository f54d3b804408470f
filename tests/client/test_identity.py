"""The name of a client, which the broker shows in histories."""

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tollgate.client import identity
from tollgate.client.aio import AsyncClient
from tollgate.client.sync import Client, connect
from tollgate.domain.commands import Hello
from tollgate.domain.exceptions import ArgumentError

from .peers import HASH, PATIENCE_S, ScriptedRouter, greeting, job_result, obliging, reply

NOWHERE = "ipc:///nonexistent/socket"


@pytest.mark.parametrize(
    ("program", "host", "name"),
    [
        ("/usr/bin/tollgate", "box", "tollgate@box:"),
        ("/srv/my shop/büro.py", "box.example.org", "b-ro.py@box:"),
        ("", "box", "python@box:"),
        ("-c", "box", "python@box:"),
        ("p" * 300, "h" * 63, f"{'p' * 20}"),
    ],
)
def test_the_default_is_program_host_and_pid(
    monkeypatch: pytest.MonkeyPatch, program: str, host: str, name: str
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", host, "", "", "")))
    found = identity.default_name()
    assert found.startswith(name)
    assert found.endswith(f":{os.getpid()}")
    assert len(found) <= 64
    Hello(client=found)
    assert not identity._FOREIGN.search(found)


def test_a_module_that_runs_gives_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"name": "tollgate.worker.__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert identity.default_name().startswith("tollgate.worker@")


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "ü", 7, b"a", "a\n"], ids=repr)
def test_a_wrong_name_is_refused_at_once(name: Any) -> None:
    for make in (Client, AsyncClient, connect):
        with pytest.raises(ArgumentError, match="client: name must be 1 to 64 of the characters"):
            make(NOWHERE, name=name)


def test_the_name_goes_with_every_greeting(make_client: Callable[..., Any], endpoint: str) -> None:
    def answer(request: Any) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            opened = 3 if request.commands[0].open_session else None
            return [reply(request.seq, greeting(opened, remembers=True))]
        return obliging(lambda _: job_result(1))(request)

    with ScriptedRouter(endpoint, answer) as router:
        for name, expected in ((None, identity.default_name()), ("shop-7:a@b.c", "shop-7:a@b.c")):
            client = make_client(timeout_s=PATIENCE_S, name=name)
            client.ping()
            client.create(HASH)
            hellos = [each for each in router.commands() if isinstance(each, Hello)]
            assert [each.client for each in hellos[-2:]] == [expected] * 2
            assert hellos[-1].open_session
