"""Lets into a tcp socket who has a key that the broker knows, and nobody else."""

from typing import Final

import structlog
import zmq
from zmq.auth.thread import ThreadAuthenticator

from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.core.roles import NOBODY, Principal

DOMAIN: Final = "tollgate"
"""Without a domain, and that enforced, libzmq lets in everybody as soon as nobody is asked."""

log = structlog.get_logger("tollgate.broker")


def heartbeats(every_ms: int) -> dict[int, int]:
    """Return the options by which a peer is found out that is gone and could not say so."""
    if not every_ms:
        return {}
    return {
        zmq.HEARTBEAT_IVL: every_ms,
        zmq.HEARTBEAT_TIMEOUT: 3 * every_ms,
        zmq.HEARTBEAT_TTL: 3 * every_ms,
    }


class KeyHolders:
    """Answers libzmq's question whether a key may come in, for as long as it is open."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", ring: KeyRing) -> None:
        """Begin to answer; a socket must not listen before."""
        self._ring = ring
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a key (Z85) may come in: what pyzmq calls at each handshake."""
        try:
            return domain == DOMAIN and self._ring.lets_in(key.decode())
        except Exception:  # raised, it would end the thread, and nobody would come in any more
            log.exception("a key was not looked up")
            return False

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Have a socket, that does not listen yet, let in key holders alone."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._ring.own.secret_key.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def identify(self, frame: zmq.Frame) -> Principal:
        """Return who has sent a frame: asked anew each time, for a key can be revoked."""
        try:
            return self._ring.principal(str(frame.get("User-Id")))
        except zmq.ZMQError:  # there is none; whoever that is, it is nobody
            return NOBODY

    def close(self) -> None:
        """Answer no more."""
        self._authenticator.stop()
