"""Counts the files and functions that one request enters, in the broker and in the client.

The broker is the real one: a process of its own with its journal on disk. `sys.setprofile` notes
each function of the package `tollgate` that the broker's main thread enters from the poll that
found a message to the next poll: take the frame from the socket, decide, append, sync, send the
reply, and what the loop does between two messages. Requests come one at a time, 30 ms apart, so
that each turn of the loop includes one round of housekeeping, which runs at most every 20 ms.

In the client one blocking call is counted, from the method that the user calls to its return.

- A call is one "call" event of `sys.setprofile`: a function is entered or a generator is resumed.
  Up to Python 3.11 a comprehension is a function too. Functions in C and in libraries do not count.
- A move is a call whose file is another than that of the call before it.

Each request is repeated, and the fewest calls are shown: now and then a turn also looks for closed
segments or for keys that have changed.
"""

import json
import platform
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import msgspec
import zmq

import tollgate
from benchmarks.measure import Effort, Findings, Spread
from benchmarks.processes import Broker

PACKAGE: Final = str(Path(tollgate.__file__).parent)
BROKER: Final = "tollgate.broker"
DECODER: Final = "domain/messages.py"
"""Entered for each message."""
TIMES: Final = 15
"""How often each request is made."""
APART_S: Final = 0.03
ANSWER_MS: Final = 10_000
WAIT_MS: Final = 60_000
PAID: Final = "running"
CREATE: Final = {"type": "create", "input_hash": "0123456789abcdef" * 4}
TRANSITION: Final = "broker: transition"
PARK: Final = "broker: claim, parked"
WAKE: Final = "broker: transition that wakes it"
GET: Final = "broker: get"
CLIENT_GET: Final = "client: get"
CLIENT_TRANSITION: Final = "client: transition"


class Walk(NamedTuple):
    """What one request enters."""

    files: int
    calls: int
    moves: int

    @classmethod
    def of(cls, entered: Sequence[str]) -> "Walk":
        """Count a list that names the file of each call, in order."""
        moves = sum(here != there for here, there in pairwise(entered))
        return cls(len(set(entered)), len(entered), moves)


BASELINE: Final = {
    TRANSITION: Walk(37, 125, 91),
    PARK: Walk(33, 116, 77),
    WAKE: Walk(39, 189, 132),
    GET: Walk(26, 78, 58),
    CLIENT_GET: Walk(14, 49, 33),
    CLIENT_TRANSITION: Walk(15, 57, 41),
}
"""Counted in the same way at commit 9bfc4c9, the last with four import packages; Python 3.11."""
GOALS: Final = {TRANSITION: "26 files, 90 calls", CLIENT_GET: "11 files"}


class Profile:
    """Notes the file of each call of a function of ours."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._files: dict[CodeType, str | None] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._files:
            path = Path(code.co_filename)
            inside = path.is_relative_to(PACKAGE)
            self._files[code] = str(path.relative_to(PACKAGE)) if inside else None
        if (file := self._files[code]) is not None:
            self.entered.append(file)


class ProfiledBroker(Broker):
    """A broker that writes down, when it ends, what each turn of its loop has entered."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durable=True)
        self.output = directory / "turns.json"

    def command(self) -> Sequence[str]:
        words = list(super().command())
        options = words[words.index(BROKER) + 1 :]
        return [sys.executable, "-m", "benchmarks.walk", str(self.output), *options]


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("walk")
    times = effort.pick(quick=5, full=TIMES)
    with ProfiledBroker(directory / "walk-a") as broker:
        names = _ask(broker.endpoint, times)
    all_turns: list[list[str]] = json.loads(broker.output.read_text())
    # On a busy machine a poll also finds a socket that has no message yet.
    turns = [turn for turn in all_turns if DECODER in turn]
    if len(turns) < len(names):
        raise RuntimeError(f"the broker took {len(names)} messages in {len(turns)} turns")
    with Broker(directory / "walk-b") as plain:
        calls = _call(plain.endpoint, times)
    _report(findings, [*zip(names, turns, strict=False), *calls])
    findings.settings |= {
        "Python": platform.python_version(),
        "before": "commit 9bfc4c9, Python 3.11",
        "requests": f"{times} of each, {APART_S * 1_000:.0f} ms apart; the fewest calls of all",
    }
    return findings


def _report(findings: Findings, found: Sequence[tuple[str, list[str]]]) -> None:
    """Print a table with the baseline beside, then the files of each walk in order."""
    print(f"{'':34}{'files':>7}{'calls':>7}{'moves':>7}   before            goal")
    ways = {}
    for name, before in BASELINE.items():
        walks = [entered for which, entered in found if which == name]
        ways[name] = min(walks, key=len)
        fewest = Walk.of(ways[name])
        columns = "".join(f"{number:7}" for number in fewest)
        there = ", ".join(map(str, before))
        print(f"{name:34}{columns}   {there:16}  {GOALS.get(name, '')}".rstrip())
        for unit in Walk._fields:
            spread = Spread.of([getattr(Walk.of(entered), unit) for entered in walks])
            findings.figures.append({"name": name, "unit": unit, "spread": spread, "note": there})
    for name, entered in ways.items():
        findings.settings[name] = " ".join(dict.fromkeys(entered))
        print(f"\n{name}:\n  " + "\n  ".join(dict.fromkeys(entered)))


class Peer:
    """A DEALER with a session of its own: it builds frames from docs/protocol.md alone."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        self.names: list[str] = []
        self._socket = context.socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._session = self._seq = 0

    def open(self, names: list[str]) -> None:
        """Open a session; from then on add the name of each request to `names`."""
        self.names = names
        self._session = self.ask("", type="hello", open_session=True)["session"]
        self._seq = 0

    def send(self, name: str, **command: object) -> None:
        """Send one command in a message."""
        time.sleep(APART_S)
        self._seq += 1
        self.names.append(name)
        acked = self._seq - 1 if self._session else 0
        request = {"v": 1, "session": self._session, "seq": self._seq, "acked": acked}
        self._socket.send(msgspec.msgpack.encode({**request, "commands": [command]}))

    def receive(self) -> dict[str, Any]:
        """Return the result of the oldest request that is not answered."""
        if not self._socket.poll(ANSWER_MS):
            raise RuntimeError("the broker did not answer")
        result: dict[str, Any]
        (result,) = msgspec.msgpack.decode(self._socket.recv())["results"]
        if result["type"] == "error":
            raise RuntimeError(result["message"])
        return result

    def ask(self, name: str, **command: object) -> dict[str, Any]:
        """Send one command, and return its result."""
        self.send(name, **command)
        return self.receive()


def _ask(endpoint: str, times: int) -> list[str]:
    """Make each request so many times; return the names of all messages, in the order sent."""
    names: list[str] = []
    with zmq.Context() as context:
        context.linger = 0
        producer, worker = Peer(context, endpoint), Peer(context, endpoint)
        producer.open(names)
        worker.open(names)

        def create() -> str:
            return str(producer.ask("", **CREATE)["job"]["job_id"])

        for _ in range(times):
            job_id = create()
            producer.ask(TRANSITION, type="transition", job_id=job_id, target=PAID)
            producer.ask(GET, type="get", job_id=job_id)
        claim = {"type": "claim", "status": PAID, "lease_ms": WAIT_MS, "limit": times}
        worker.ask("", **claim, wait_ms=0)  # from now on a claim finds nothing, and is parked
        for _ in range(times):
            job_id = create()
            worker.send(PARK, **claim, wait_ms=WAIT_MS)
            producer.ask(WAKE, type="transition", job_id=job_id, target=PAID)
            worker.receive()
        context.destroy()
    return names


def _call(endpoint: str, times: int) -> list[tuple[str, list[str]]]:
    """Make calls through the blocking client; return what each has entered."""
    profile, found = Profile(), list[tuple[str, list[str]]]()
    with tollgate.connect(endpoint) as client:
        for _ in range(times):
            job = client.create(CREATE["input_hash"])
            calls: dict[str, Callable[[], object]] = {
                CLIENT_GET: partial(client.get, job.job_id),
                CLIENT_TRANSITION: partial(client.transition, job.job_id, PAID),
            }
            for name, call in calls.items():
                profile.entered = []
                sys.setprofile(profile)
                call()
                sys.setprofile(None)
                found.append((name, profile.entered))
    return found


def serve(output: Path, options: Sequence[str]) -> None:
    """Run a broker, and note what it enters between two polls if the first one found something."""
    profile, turns, poll = Profile(), list[list[str]](), zmq.zmq_poll

    def noted_poll(items: Any, timeout: int = -1) -> list[Any]:  # noqa: ANN401 - as in zmq
        sys.setprofile(None)
        found = poll(items, timeout)
        profile.entered = []
        if found:
            turns.append(profile.entered)
        sys.setprofile(profile)
        return found

    zmq.zmq_poll = noted_poll  # type: ignore[assignment]
    sys.argv = ["broker", *options]
    try:
        runpy.run_module(BROKER, run_name="__main__")
    finally:
        sys.setprofile(None)
        output.write_text(json.dumps(turns))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
