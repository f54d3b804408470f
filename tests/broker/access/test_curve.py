"""Why a socket is guarded as it is: what libzmq makes of domain, enforcement and handler."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from tollgate.broker.access.curve import DOMAIN, KeyHolders
from tollgate.broker.access.keyring import (
    Client,
    KeyRing,
    Pair,
    new_pair,
    read_pair,
    write_client,
    write_pair,
)
from tollgate.broker.core.roles import Role

ANSWER_MS = 10_000
SILENCE_MS = 400


class Deny:
    """Lets in nobody."""

    def callback(self, *_: object) -> bool:
        return False


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    write_pair(directory / "broker.key", new_pair())
    alice = new_pair()
    write_client(directory, "alice", Client(alice.public_key, Role.ADMIN))
    write_pair(tmp_path / "alice.key", alice)
    return KeyRing(directory)


def gets_in(
    context: "zmq.Context[Any]", router: "zmq.Socket[bytes]", server: str, pair: Pair, wait_ms: int
) -> bool:
    """Return whether a message of who has this pair arrives."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, pair.public_key.encode())
    dealer.setsockopt(zmq.CURVE_SECRETKEY, pair.secret_key.encode())
    dealer.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    dealer.connect(str(router.get_string(zmq.LAST_ENDPOINT)))
    dealer.send(b"hello")
    arrived = bool(router.poll(wait_ms))
    if arrived:
        router.recv_multipart()
    dealer.close(0)
    return arrived


@pytest.mark.parametrize(
    ("domain", "enforced", "handler"),
    list(product((False, True), (0, 1), ("none", "deny", "ours"))),
)
def test_a_stranger_is_kept_out_by_the_whole_of_it_alone(
    ring: KeyRing, domain: bool, enforced: int, handler: str
) -> None:
    # Enforcement without a domain asks nobody, even if there is a handler that denies; without
    # enforcement, a handler that is not there lets in everybody. Both together, as `guard` sets
    # them, keep strangers out whatever becomes of the handler.
    with zmq.Context() as context:
        authenticator = holders = None
        if handler == "deny":
            authenticator = ThreadAuthenticator(context)
            authenticator.start()
            authenticator.configure_curve_callback("*", credentials_provider=Deny())
        elif handler == "ours":
            holders = KeyHolders(context, ring)
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, ring.own.secret_key.encode())
        if domain:
            router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, enforced)
        router.bind("tcp://127.0.0.1:*")
        stranger = gets_in(context, router, ring.own.public_key, new_pair(), SILENCE_MS)
        asked_nobody = (enforced and not domain) or (handler == "none" and not enforced)
        assert stranger is bool(asked_nobody)
        router.close(0)
        for each in (authenticator, holders):
            if isinstance(each, ThreadAuthenticator):
                each.stop()
            elif each is not None:
                each.close()


def test_our_guard_lets_in_whose_key_is_known_and_nobody_else(
    ring: KeyRing, tmp_path: Path
) -> None:
    with zmq.Context() as context:
        holders = KeyHolders(context, ring)
        router = context.socket(zmq.ROUTER)
        holders.guard(router)
        router.bind("tcp://127.0.0.1:*")
        alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
        assert gets_in(context, router, own, alice, ANSWER_MS)
        assert not gets_in(context, router, own, new_pair(), SILENCE_MS)
        (tmp_path / "keys" / "alice.toml").unlink()
        ring.refresh()
        assert not gets_in(context, router, own, alice, SILENCE_MS)
        router.close(0)
        holders.close()


def test_who_is_asked_and_cannot_tell_goes_on_being_asked(ring: KeyRing, tmp_path: Path) -> None:
    alice, own = read_pair(tmp_path / "alice.key"), ring.own.public_key
    with zmq.Context() as context, pytest.MonkeyPatch.context() as patch:
        holders = KeyHolders(context, ring)
        router = context.socket(zmq.ROUTER)
        holders.guard(router)
        router.bind("tcp://127.0.0.1:*")
        with patch.context() as broken:
            broken.delattr(ring, "_lock")
            assert not gets_in(context, router, own, new_pair(), SILENCE_MS)
        assert gets_in(context, router, own, alice, ANSWER_MS)
        router.close(0)
        holders.close()
