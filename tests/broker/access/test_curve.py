"""What libzmq makes of domain, enforcement and handler: why a tcp socket is set up as it is."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from tests.broker.access.handshakes import is_accepted
from tollgate.broker.access.keyring import (
    ClientKey,
    KeyPair,
    KeyRing,
    new_pair,
    read_pair,
    write_client,
    write_pair,
)
from tollgate.broker.access.peer_credentials import ZAP_DOMAIN, CurveCredentials
from tollgate.broker.core.roles import Role


class Deny:
    """Accepts no key."""

    def callback(self, *_: object) -> bool:
        return False


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    write_pair(directory / "broker.key", new_pair())
    alice = new_pair()
    write_client(directory, "alice", ClientKey(alice.public_key, Role.ADMIN))
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
    ring: KeyRing, domain: bool, enforced: int, handler: str
) -> None:
    # Enforcement without a domain asks no handler, not even one that denies; without enforcement,
    # a missing handler accepts every key. Both together, as `require_keys` sets them, keep
    # strangers out whatever happens to the handler.
    with zmq.Context() as context:
        authenticator = credentials = None
        if handler == "deny":
            authenticator = ThreadAuthenticator(context)
            authenticator.start()
            authenticator.configure_curve_callback("*", credentials_provider=Deny())
        elif handler == "ours":
            credentials = CurveCredentials(context, ring)
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, ring.own.secret_key.encode())
        if domain:
            router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, enforced)
        router.bind("tcp://127.0.0.1:*")
        stranger = can_connect(context, router, ring.own.public_key, new_pair())
        asks_no_handler = (enforced and not domain) or (handler == "none" and not enforced)
        assert stranger is bool(asks_no_handler)
        router.close(0)
        if authenticator is not None:
            authenticator.stop()
        if credentials is not None:
            credentials.close()


def test_only_holders_of_known_keys_can_connect(ring: KeyRing, tmp_path: Path) -> None:
    with zmq.Context() as context:
        credentials = CurveCredentials(context, ring)
        router = context.socket(zmq.ROUTER)
        credentials.require_keys(router)
        assert router.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
        router.bind("tcp://127.0.0.1:*")
        alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
        assert can_connect(context, router, own, alice)
        assert not can_connect(context, router, own, new_pair())
        (tmp_path / "keys" / "alice.toml").unlink()
        ring.refresh()
        assert not can_connect(context, router, own, alice)
        router.close(0)
        credentials.close()


def test_the_handler_survives_an_error(ring: KeyRing, tmp_path: Path) -> None:
    alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
    with zmq.Context() as context, pytest.MonkeyPatch.context() as patch:
        credentials = CurveCredentials(context, ring)
        router = context.socket(zmq.ROUTER)
        credentials.require_keys(router)
        router.bind("tcp://127.0.0.1:*")
        with patch.context() as broken:
            broken.delattr(ring, "_lock")
            assert not can_connect(context, router, own, new_pair())
        assert can_connect(context, router, own, alice)
        router.close(0)
        credentials.close()
