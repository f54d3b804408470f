"""Counts the bytecodes that the core runs for one message: a figure that no other load changes.

`python -m benchmarks.bytecodes [OTHER ...]`, where each OTHER is a checkout of another commit in
which `make setup` was run: this file runs in its environment as well, and its counts stand beside.

Counted is `Pipeline.run` with a batch of one message, from its bytes to the record and the reply,
everything in Python that it calls included. C is not counted: not the decoder of msgspec, nor the
lock. Each message is sent several times to a broker that has seen others like it, and the fewest
are shown: now and then one also checks entries of a line, or has a time measured for `stats`.

Imports nothing of this folder, so that it counts an older tree as well.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import Instant

HERE: Final = Path(__file__).parents[1]
TIMES: Final = 24
"""How often each message is sent. With more than 8, times of jobs are no longer measured."""
FEW: Final = 4
MANY: Final = 100
HASH: Final = "0123456789abcdef" * 4
TEXT: Final = "x" * 100
PEER: Final = b"\x00peer"
OTHER_PEER: Final = b"\x00other"
LONG_MS: Final = 60_000
REPLY_BYTES: Final = 8 * 1024 * 1024
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
NAME: Final = "message"


class Tracer:
    """Counts the bytecodes of all frames that begin while it is on."""

    def __init__(self) -> None:
        self.bytecodes = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> "Tracer":
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.bytecodes += event == "opcode"
        return self


class Peer:
    """A client with a session of its own, in the process of the core."""

    def __init__(self, core: "Core", peer: bytes) -> None:
        self._core, self._peer = core, peer
        self._session = self._seq = 0
        (hello,) = self.ask("", {"type": "hello", "open_session": True})
        self._session, self._seq = hello["session"], 0

    def send(self, name: str, *commands: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """Send commands in one message; return the results of each reply that comes now."""
        self._seq += 1
        acked = self._seq - 1 if self._session else 0
        envelope = {"v": 1, "session": self._session, "seq": self._seq, "acked": acked}
        frame = msgspec.msgpack.encode({**envelope, "commands": commands})
        output = self._core.run(name, self._peer, frame)
        return [msgspec.msgpack.decode(reply.frame)["results"] for reply in output.replies]

    def ask(self, name: str, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Send commands in one message, and return their results. Raises RuntimeError."""
        (results,) = self.send(name, *commands)
        for result in results:
            if result["type"] == "error":
                raise RuntimeError(result["message"])
        return results


class Core:
    """A pipeline without a socket or a journal, whose clock goes on by a millisecond a message."""

    def __init__(self) -> None:
        ids = (f"{number:08x}-0000-4000-8000-000000000000" for number in count(1))
        engine = Engine(Limits(), new_id=ids.__next__, server="benchmark", boot_id="benchmark")
        self._pipeline = Pipeline(engine, Counter(), REPLY_BYTES)
        self._ms = 0
        self.counted: dict[str, list[int]] = {}
        """By the name of the message, the bytecodes of each time that it was sent."""
        try:
            self._owner = Principal("uid:0", frozenset({Role.ADMIN}))
            self._owner.rights  # noqa: B018 - an older Principal has a single role
        except AttributeError:
            self._owner = Principal("uid:0", Role.ADMIN)  # type: ignore[arg-type]

    def run(self, name: str, peer: bytes, frame: bytes) -> Output:
        """Have one message decided; count it under its name, if it has one."""
        self._ms += 1
        now = Instant(EPOCH + timedelta(milliseconds=self._ms), self._ms)
        batch, tracer = [Arrival(peer, [frame], self._owner)], Tracer()
        if name:
            sys.settrace(tracer)
        output = self._pipeline.run(batch, now)
        sys.settrace(None)
        if name:
            # The tracer has also seen the call of `settrace` above it: nothing of that is counted,
            # since only frames that begin while it is on are traced.
            self.counted.setdefault(name, []).append(tracer.bytecodes)
        return output


def counts() -> dict[str, int]:
    """Return the fewest bytecodes of each message, by its name."""
    core = Core()
    producer, worker = Peer(core, PEER), Peer(core, OTHER_PEER)
    for _ in range(TIMES):
        _single(producer, worker)
    for _ in range(FEW):
        _many(producer, worker)
    return {name: min(counted) for name, counted in core.counted.items()}


def _single(producer: Peer, worker: Peer) -> None:
    create = {"type": "create", "input_hash": HASH, "input": TEXT}
    claim = {"type": "claim", "status": "running", "lease_ms": LONG_MS, "limit": 1, "wait_ms": 0}
    job_id = producer.ask("create", create)[0]["job"]["job_id"]
    job = {"job_id": job_id}
    run = {"type": "transition", **job, "target": "running"}
    producer.ask("transition to running", run)
    producer.ask("get", {"type": "get", **job})
    (lease,) = worker.ask("claim, at once", claim)[0]["leases"]
    held = {**job, "lease": lease["lease"]}
    worker.ask("touch", {"type": "touch", **held, "lease_ms": LONG_MS})
    worker.ask("release", {"type": "release", **held})
    (lease,) = worker.ask("", claim)[0]["leases"]
    wait = {"type": "wait", "job_ids": [job_id], "statuses": ["completed"], "timeout_ms": LONG_MS}
    _expect(producer.send("wait, parked", wait), 0)
    end = {"type": "transition", "target": "completed", "result": TEXT}
    _expect(worker.send("completed, and a wait ends", {**end, **job, "lease": lease["lease"]}), 2)
    (other,) = producer.ask("", create)
    job = {"job_id": other["job"]["job_id"]}
    _expect(worker.send("claim, parked", {**claim, "wait_ms": LONG_MS}), 0)
    replies = producer.send("transition that serves it", {**run, **job})
    _expect(replies, 2)
    (lease,) = next(reply[0] for reply in replies if reply[0]["type"] == "leases")["leases"]
    worker.ask("completed, with its lease", {**end, **job, "lease": lease["lease"]})
    worker.ask("claim of nothing", claim)


def _many(producer: Peer, worker: Peer) -> None:
    create = {"type": "create", "input_hash": HASH, "input": TEXT}
    made = producer.ask(f"{MANY} creates", *[create] * MANY)
    jobs = [{"job_id": result["job"]["job_id"]} for result in made]

    def each(kind: str, more: Iterator[dict[str, Any]] | None = None, **fields: object) -> Any:  # noqa: ANN401 - commands
        others = more or iter([{}] * MANY)
        return [{"type": kind, **job, **other, **fields} for job, other in zip(jobs, others)]  # noqa: B905 - an endless one

    producer.ask(f"{MANY} transitions to running", *each("transition", target="running"))
    producer.ask(f"{MANY} gets", *each("get"))
    claim = {"type": "claim", "status": "running", "lease_ms": LONG_MS, "limit": MANY}
    granted = worker.ask(f"claim of {MANY}", {**claim, "wait_ms": 0})[0]["leases"]
    leases = [{"lease": grant["lease"]} for grant in granted]
    worker.ask(f"{MANY} touches", *each("touch", iter(leases), lease_ms=LONG_MS))
    end = each("transition", iter(leases), target="completed", result=TEXT)
    worker.ask(f"{MANY} completed, with leases", *end)


def _expect(replies: list[Any], number: int) -> None:
    if len(replies) != number:
        raise RuntimeError(f"{number} replies were expected: {replies}")


def main() -> None:
    """Print the counts of this tree, and of the others beside it."""
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(counts()))
        return
    others = [Path(name).resolve() for name in sys.argv[1:]]
    sides = [_counted_in(tree) for tree in (*others, HERE)]
    print(f"{'':30}{''.join(f'{tree.name:>16}' for tree in (*others, HERE))}")
    for name, ours in sides[-1].items():
        columns = "".join(f"{side[name]:9} ({ours / side[name]:4.2f})" for side in sides[:-1])
        print(f"{name:30}{columns}{ours:16}")


def _counted_in(tree: Path) -> dict[str, int]:
    python = tree / ".venv/bin/python"
    done = subprocess.run(
        [python, "-P", __file__, "--json"], cwd=tree, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
