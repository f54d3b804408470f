"""What libzmq makes of domain, enforcement and handler: why a tcp socket is set up as it is."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from tests.broker.access.handshakes import is_accepted
from tollgate.broker.access.key_files import (
    ClientKey,
    KeyPair,
    new_pair,
    read_pair,
    write_client,
    write_pair,
)
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.access.peer_credentials import ZAP_DOMAIN, CurveCredentials
from tollgate.broker.core.roles import Role


class Deny:
    """Accepts no key."""

    def callback(self, *_: object) -> bool:
        return False


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test has opened, also when it fails."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def context(stack: ExitStack) -> "zmq.Context[Any]":
    context = zmq.Context()
    stack.callback(context.destroy, 0)
    return context


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    write_pair(directory / "broker.key", new_pair())
    alice = new_pair()
    write_client(directory, "alice", ClientKey(alice.public_key, frozenset({Role.ADMIN})))
    write_pair(tmp_path / "alice.key", alice)
    return KeyRing(directory)


def can_connect(
    context: "zmq.Context[Any]", router: "zmq.Socket[bytes]", server: str, pair: KeyPair
) -> bool:
    """Return whether the holder of this pair can connect."""
    options: dict[int, Any] = {
        zmq.CURVE_PUBLICKEY: pair.public_key.encode(),
        zmq.CURVE_SECRETKEY: pair.secret_key.encode(),
        zmq.CURVE_SERVERKEY: server.encode(),
    }
    return is_accepted(context, str(router.get_string(zmq.LAST_ENDPOINT)), options)


@pytest.mark.parametrize(
    ("domain", "enforced", "handler"),
    list(product((False, True), (0, 1), ("none", "deny", "ours"))),
)
def test_only_domain_and_enforcement_keep_strangers_out(
    ring: KeyRing,
    stack: ExitStack,
    context: "zmq.Context[Any]",
    *,
    domain: bool,
    enforced: int,
    handler: str,
) -> None:
    # Enforcement without a domain asks no handler, not even one that denies; without enforcement,
    # a missing handler accepts every key. Both together, as `require_keys` sets them, keep
    # strangers out whatever happens to the handler.
    if handler == "deny":
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        stack.callback(authenticator.stop)
        authenticator.configure_curve_callback("*", credentials_provider=Deny())
    elif handler == "ours":
        stack.callback(CurveCredentials(context, ring).close)
    router = context.socket(zmq.ROUTER)
    stack.callback(router.close, 0)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.CURVE_SECRETKEY, ring.own.secret_key.encode())
    if domain:
        router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, enforced)
    router.bind("tcp://127.0.0.1:*")
    stranger = can_connect(context, router, ring.own.public_key, new_pair())
    asks_no_handler = (enforced and not domain) or (handler == "none" and not enforced)
    assert stranger is bool(asks_no_handler)


@pytest.fixture
def router(ring: KeyRing, stack: ExitStack, context: "zmq.Context[Any]") -> "zmq.Socket[bytes]":
    """A router as the broker sets it up."""
    credentials = CurveCredentials(context, ring)
    stack.callback(credentials.close)
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    stack.callback(router.close, 0)
    credentials.require_keys(router, ring.own)
    router.bind("tcp://127.0.0.1:*")
    return router


def test_only_holders_of_known_keys_can_connect(
    ring: KeyRing, context: "zmq.Context[Any]", router: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
    assert router.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
    assert can_connect(context, router, own, alice)
    assert not can_connect(context, router, own, new_pair())
    (tmp_path / "keys" / "alice.toml").unlink()
    ring.refresh()
    assert not can_connect(context, router, own, alice)


def test_the_handler_survives_an_error(
    ring: KeyRing,
    context: "zmq.Context[Any]",
    router: "zmq.Socket[bytes]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
    with monkeypatch.context() as broken:
        broken.delattr(ring, "_lock")
        assert not can_connect(context, router, own, new_pair())
    assert can_connect(context, router, own, alice)
