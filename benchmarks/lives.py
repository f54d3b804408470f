"""Measures the life of one job beside huey's, and beside the same messages of ZeroMQ alone.

    python -m benchmarks.lives [--jobs 300] [--rounds 5]

One job at a time is created and paid by one message, granted to a worker with one slot, completed,
and waited for. "Messages alone" are those that tollgate sends for it, between three processes of
pyzmq that neither read nor decide anything. So the last column is what is left to gain, at most.
Huey comes from the environment of the benchmarks (`make bench`); without it, it is left out.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import zmq

from benchmarks import drivers
from benchmarks.crew import aside
from benchmarks.jobs import Peer, Run, _run, _side
from benchmarks.measure import Effort, Spread, in_turns
from benchmarks.processes import Missing, Server, Worker

CREATE, PAID, GRANT, SETTLE, SETTLED, CLAIM, WAIT, END = (bytes([kind]) for kind in range(1, 9))
FRAME_BYTES: Final = {
    CREATE: 260, PAID: 600, GRANT: 420, SETTLE: 170, SETTLED: 420, CLAIM: 110, WAIT: 130, END: 420,
}  # fmt: skip
"""About as long as the frames of tollgate."""
FRAMES: Final = {kind: kind * size for kind, size in FRAME_BYTES.items()}
AT_ONCE: Final = {CREATE: PAID, SETTLE: SETTLED}
CAUSED: Final = {CREATE: GRANT, SETTLE: END}
PARKED: Final = {CLAIM: GRANT, WAIT: END}
SERVE, WORK = "serve", "work"


def serve(endpoint: str) -> None:
    """Pass on what a broker would decide."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    waiting: dict[bytes, bytes] = {}  # who has sent CLAIM or WAIT, and is not answered
    ready: set[bytes] = set()  # the answers that nobody waits for yet
    while zmq.zmq_poll([(socket, zmq.POLLIN)], -1):
        peer, frame = socket.recv_multipart()
        kind = frame[:1]
        if kind in AT_ONCE:
            socket.send_multipart((peer, FRAMES[AT_ONCE[kind]]))
            ready.add(CAUSED[kind])
        else:
            waiting[PARKED[kind]] = peer
        for answer in [*ready & waiting.keys()]:
            ready.remove(answer)
            socket.send_multipart((waiting.pop(answer), FRAMES[answer]))


def work(endpoint: str) -> None:
    """Settle each job that is granted, and claim another one behind it."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    socket.send(FRAMES[CLAIM])
    while zmq.zmq_poll([(socket, zmq.POLLIN)], -1):
        if socket.recv()[:1] == GRANT:
            socket.send(FRAMES[SETTLE])
            socket.send(FRAMES[CLAIM])


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

    def connect(self) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.connect(f"ipc://{self.socket}")

    def single(self) -> None:
        socket = self._socket
        socket.send(FRAMES[CREATE])
        zmq.zmq_poll([(socket, zmq.POLLIN)], -1)
        socket.recv()
        socket.send(FRAMES[WAIT])
        zmq.zmq_poll([(socket, zmq.POLLIN)], -1)
        socket.recv()

    def burst(self, jobs: int) -> None:
        for _ in range(jobs):
            self.single()

    def worker(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.lives", WORK, f"ipc://{self.socket}"]


def _alone(place: Path, jobs: int, stack: ExitStack) -> Callable[[], Run]:
    server = stack.enter_context(Hops(place))
    driver = Alone(str(server.socket_path))
    environment = drivers.environment(driver.socket)
    stack.enter_context(Worker(place / "worker", driver.worker(), environment))
    aside(partial(_run, driver, 1, 1))
    return partial(aside, partial(_run, driver, 1, jobs))


def main() -> None:
    """Print p50 of each, and the ratios of ours to the others, round by round."""
    if sys.argv[1:2] == [SERVE]:
        serve(sys.argv[2])
    elif sys.argv[1:2] == [WORK]:
        work(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    ours, huey = drivers.TollgateTogether1, drivers.Huey
    effort = Effort(is_quick=False, rounds=chosen.rounds, run_s=0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        sides = {Alone.name: _alone(folder / "alone", chosen.jobs, stack)}
        for number, driver in enumerate((ours, huey)):
            try:
                side = _side(Peer(driver, 1, 1), effort, folder / str(number), stack)
            except Missing as reason:
                print(f"without {driver.name}: {reason}")
                continue
            sides[driver.name] = side
        runs = in_turns(sides, chosen.rounds)
    mine = [run.p50_ms for run in runs[ours.name]]
    for name, of_side in runs.items():
        times = [run.p50_ms for run in of_side]
        spread = Spread.of([here / there for here, there in zip(mine, times, strict=True)])
        print(
            f"{name:40} p50 {median(times) * 1_000:5.0f} us; tollgate's over it"
            f" {spread.median:.2f} ({spread.min:.2f} to {spread.max:.2f})"
        )


if __name__ == "__main__":
    main()
