"""Many readers of events, each with a socket of its own: a process beside the broker.

    python -m tests.feed.readers ENDPOINT READERS SILENT AFTER

Each reader asks for the events after a position and waits; when it is told some, it asks for the
next ones. The silent ones ask again and again, and never read. A line on standard input is the
position at which the readers are done; then this prints what they were told, as JSON.
"""

import hashlib
import json
import resource
import select
import sys
import time
from typing import Any, Final

import msgspec
import zmq

PATIENCE_S: Final = 120.0
WAIT_MS: Final = 600_000
ASKED_IN_SILENCE: Final = 500
SOCKETS_MAX: Final = 4_000
FILES: Final = 8_192
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Reader:
    """Follows the events, and keeps a digest of their positions."""

    def __init__(self, context: "zmq.Context[Any]", endpoint: str, after: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.connect(endpoint)
        self.after = after
        self.told = 0
        self.digest = hashlib.sha256()
        self._seq = 0
        self.ask()

    def ask(self) -> None:
        self._seq += 1
        command = {"type": "events", "after": self.after, "wait_ms": WAIT_MS}
        self.socket.send(_encode(
            {"v": 1, "session": 0, "seq": self._seq, "acked": 0, "commands": [command]}
        ))  # fmt: skip

    def read(self) -> None:
        answer = _decode(self.socket.recv())
        (result,) = answer["results"]
        assert result["type"] == "events", result
        for event in result["events"]:
            self.digest.update(event["position"].encode())
        self.told += len(result["events"])
        self.after = result["next"]
        self.ask()


def silent(context: "zmq.Context[Any]", endpoint: str, after: str) -> Any:
    """Return a socket that asks for events again and again, and is never read."""
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.RCVHWM, 1)
    socket.connect(endpoint)
    for seq in range(1, ASKED_IN_SILENCE + 1):
        command = {"type": "events", "after": after, "wait_ms": WAIT_MS}
        socket.send(_encode(
            {"v": 1, "session": 0, "seq": seq, "acked": 0, "commands": [command]}
        ))  # fmt: skip
    return socket


def main() -> int:
    """Run the readers; the exit code is 1 if some are not done in time."""
    endpoint, number, silent_number, after = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    context.linger = 0
    never_read = [silent(context, endpoint, after) for _ in range(int(silent_number))]
    readers = [Reader(context, endpoint, after) for _ in range(int(number))]
    by_socket = {each.socket: each for each in readers}
    poller = zmq.Poller()
    for socket in by_socket:
        poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    until, end = time.monotonic() + PATIENCE_S, ""
    while time.monotonic() < until and not (end and all(each.after == end for each in readers)):
        for socket, _ in poller.poll(100):
            if socket in by_socket:
                by_socket[socket].read()
        if not end and select.select([sys.stdin], [], [], 0)[0]:
            end = sys.stdin.readline().strip()
            poller.unregister(sys.stdin.fileno())
            if not end:
                break
    done = [each for each in readers if end and each.after == end]
    sys.stdout.write(json.dumps({
        "done": len(done),
        "told": sorted({each.told for each in done}),
        "digests": sorted({each.digest.hexdigest() for each in done}),
        "silent": len(never_read),
    }) + "\n")  # fmt: skip
    context.destroy(linger=0)
    return 0 if len(done) == len(readers) else 1


if __name__ == "__main__":
    sys.exit(main())
