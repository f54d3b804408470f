"""Measures the life of one job beside huey's, and beside the same messages of ZeroMQ alone.

    python -m benchmarks.lives [--jobs 300] [--rounds 5]

One job at a time is created and paid by one message, waited for by another one right behind it,
granted to a worker with one slot, and completed. "Messages alone" are those that tollgate sends for
it, between three processes of pyzmq that neither read nor decide anything: the code of tollgate
comes on top of them. "Joined" are those of a protocol that tollgate does not have: a `wait` ends
the message that creates its job, and a claim the one that settles the job before. They are five
instead of eight.

"CPU" is that of the process in the middle, all of its threads: of the broker, or of Redis.

Huey comes from the environment of the benchmarks (`make bench`); without it, it is left out.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final

import zmq

from benchmarks import drivers
from benchmarks.crew import aside
from benchmarks.jobs import Run, _run
from benchmarks.measure import Spread, in_turns
from benchmarks.processes import Broker, Redis, Server, Worker

CREATE, PAID, GRANT, SETTLE, SETTLED, CLAIM, WAIT, END, CREATE_WAIT, SETTLE_CLAIM = (
    bytes([kind]) for kind in range(1, 11)
)
FRAME_BYTES: Final = {
    CREATE: 260, PAID: 600, GRANT: 420, SETTLE: 170, SETTLED: 420, CLAIM: 110, WAIT: 130, END: 420,
    CREATE_WAIT: 360, SETTLE_CLAIM: 250,
}  # fmt: skip
"""About as long as the frames of tollgate."""
FRAMES: Final = {kind: kind * size for kind, size in FRAME_BYTES.items()}
AT_ONCE: Final = {CREATE: PAID, SETTLE: SETTLED}
CAUSED: Final = {CREATE: GRANT, SETTLE: END}
PARKED: Final = {CLAIM: GRANT, WAIT: END}
JOINED: Final = {CREATE_WAIT: (CREATE, WAIT), SETTLE_CLAIM: (SETTLE, CLAIM)}
SERVE, WORK, WORK_JOINED = "serve", "work", "work-joined"


def serve(endpoint: str) -> None:
    """Pass on what a broker would decide."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    waiting: dict[bytes, bytes] = {}  # who has sent CLAIM or WAIT, and is not answered
    ready: set[bytes] = set()  # the answers that nobody waits for yet
    while zmq.zmq_poll([(socket, zmq.POLLIN)], -1):
        peer, frame = socket.recv_multipart()
        kind = frame[:1]
        for part in JOINED.get(kind, (kind,)):
            if part in PARKED:
                waiting[PARKED[part]] = peer
                continue
            if kind != CREATE_WAIT:  # its only answer is the end
                socket.send_multipart((peer, FRAMES[AT_ONCE[part]]))
            ready.add(CAUSED[part])
        for answer in [*ready & waiting.keys()]:
            ready.remove(answer)
            socket.send_multipart((waiting.pop(answer), FRAMES[answer]))


def work(endpoint: str, *settlement: bytes) -> None:
    """Settle each job that is granted, and claim another one in the same message or behind it."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    socket.send(FRAMES[CLAIM])
    while zmq.zmq_poll([(socket, zmq.POLLIN)], -1):
        if socket.recv()[:1] == GRANT:
            for kind in settlement:
                socket.send(FRAMES[kind])


class Hops(Server):
    """The process in the middle."""

    name = "messages alone"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.lives", SERVE, f"ipc://{self.socket_path}"]


class Alone(drivers.Driver):
    """The producer of the messages alone."""

    name = "messages alone"
    library = "zmq"
    in_redis = False
    work = WORK

    def connect(self) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.connect(f"ipc://{self.socket}")

    def single(self) -> None:
        socket = self._socket
        socket.send(FRAMES[CREATE])
        socket.send(FRAMES[WAIT])
        for _ in (PAID, END):
            zmq.zmq_poll([(socket, zmq.POLLIN)], -1)
            socket.recv()

    def burst(self, jobs: int) -> None:
        for _ in range(jobs):
            self.single()

    def worker(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.lives", self.work, f"ipc://{self.socket}"]


class Joined(Alone):
    """The producer of the joined messages."""

    name = "messages alone, joined"
    work = WORK_JOINED

    def single(self) -> None:
        self._socket.send(FRAMES[CREATE_WAIT])
        zmq.zmq_poll([(self._socket, zmq.POLLIN)], -1)
        self._socket.recv()


class Side:
    """A server with a worker and a producer; `run` lets jobs live one after the other."""

    def __init__(self, server: Server, driver: drivers.Driver, jobs: int, stack: ExitStack) -> None:
        self._server = stack.enter_context(server)
        environment = drivers.environment(driver.socket)
        stack.enter_context(Worker(server.directory / "worker", driver.worker(), environment))
        aside(partial(_run, driver, 1, 1))  # now the worker is connected and warm
        self._driver, self._jobs = driver, jobs
        self.cpu_s = 0.0
        """The CPU time of the server in all runs."""

    def run(self) -> Run:
        before = _cpu_s(self._server.pid)
        run: Run = aside(partial(_run, self._driver, 1, self._jobs))
        self.cpu_s += _cpu_s(self._server.pid) - before
        return run


def _cpu_s(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def main() -> None:
    """Print p50 of each, and the ratios of ours to the others, round by round."""
    if sys.argv[1:2] == [SERVE]:
        serve(sys.argv[2])
    elif sys.argv[1:2] == [WORK]:
        work(sys.argv[2], SETTLE, CLAIM)
    elif sys.argv[1:2] == [WORK_JOINED]:
        work(sys.argv[2], SETTLE_CLAIM)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    ours, huey = drivers.TollgateTogether1, drivers.Huey
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        kinds: list[tuple[type[drivers.Driver], type[Server]]] = [
            (Alone, Hops), (Joined, Hops), (ours, Broker), (huey, Redis),
        ]  # fmt: skip
        sides: dict[str, Side] = {}
        for place, (kind, server_kind) in enumerate(kinds):
            if find_spec(kind.library) is None:
                print(f"without {kind.name}: {kind.library} is not installed")
                continue
            server = server_kind(folder / str(place))
            driver = kind(str(server.socket_path))
            sides[kind.name] = Side(server, driver, chosen.jobs, stack)
        runs = in_turns({name: each.run for name, each in sides.items()}, chosen.rounds)
    mine = [run.p50_ms for run in runs[ours.name]]
    for name, of_side in runs.items():
        times = [run.p50_ms for run in of_side]
        spread = Spread.of([here / there for here, there in zip(mine, times, strict=True)])
        print(
            f"{name:40} p50 {median(times) * 1_000:5.0f} us; tollgate's over it"
            f" {spread.median:.2f} ({spread.min:.2f} to {spread.max:.2f});"
            f" CPU {sides[name].cpu_s / chosen.rounds / (chosen.jobs + 1) * 1e6:4.0f} us a job"
        )


if __name__ == "__main__":
    main()
