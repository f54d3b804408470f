"""Connects and returns how the handshake ends, as libzmq reports it: no test waits for silence."""

from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.brokers import PATIENCE_S

REFUSED = (
    zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
)


def is_accepted(context: "zmq.Context[Any]", url: str, options: dict[int, Any]) -> bool:
    """Connect with these options; return whether the handshake succeeds."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    for option, value in options.items():
        dealer.setsockopt(option, value)
    events = dealer.get_monitor_socket(REFUSED | zmq.Event.HANDSHAKE_SUCCEEDED)
    dealer.connect(url)
    try:
        assert events.poll(int(PATIENCE_S * 1_000)), "the handshake does not end"
        return bool(recv_monitor_message(events)["event"] == zmq.Event.HANDSHAKE_SUCCEEDED)
    finally:
        dealer.disable_monitor()
        events.close(0)
        dealer.close()
