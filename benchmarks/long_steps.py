"""The longest step of the broker's loop in each of the cases that could make it long.

    python -m benchmarks.long_steps                      # all cases
    python -m benchmarks.long_steps expel --jobs 1000000 # the cases with that word, among a million

A step is one turn of the loop, from one poll to the next: messages are taken from the socket,
decided, written to the journal if there is one, and answered, and the loop does its housekeeping.
The broker is a whole one and runs in this thread. Between two steps, outside of what is measured, a
case sends the next messages over sockets of its own, or lets time pass.

A step is measured in CPU time of the thread and in wall time. One that is long in wall time alone
was preempted, or waited for the disk. Other processes also slow down the processor: so each case
runs several times, in the same steps, and of each step the least time counts. Beside it stands
the greatest of them: the wider these are apart, the less the figure means. The last line tells how
long a fixed piece of work took meanwhile, at best and at worst.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from tollgate.broker.assembly import assemble
from tollgate.broker.core.context import Context
from tollgate.broker.core.roles import Principal
from tollgate.broker.memory import share_one_arena
from tollgate.broker.settings import load_options
from tollgate.broker.telemetry import Counters, Notifier
from tollgate.broker.transport.poller import Poller
from tollgate.domain.commands import AnyCommand
from tollgate.domain.messages import Reply, Request, decode_answer, encode_request
from tollgate.testing.clock import SteppedClock, SteppedTime

GOAL_MS: Final = 10.0
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
POLL_MS: Final = 20
"""The longest sleep of the loop here: the next act of the case waits for its end."""
CONNECTIONS: Final = 1_000
IN_FLIGHT: Final = 8
"""Messages with many commands that a case has under way at a time."""

Acts = Generator[None, None, None]
"""What a case does: it is resumed between two steps."""
Case = Callable[["Bench"], Acts]
cases: dict[str, Case] = {}
settings_of: dict[Case, dict[str, Any]] = {}
"""What the broker of a case is started with, if that is not the default."""


def case(name: str) -> Callable[[Case], Case]:
    """Add a case by its name."""

    def add(acts: Case) -> Case:
        cases[name] = acts
        return acts

    return add


class Step(NamedTuple):
    """What one step took."""

    cpu_ms: float
    wall_ms: float


class _Between(Poller):
    """The poller of the broker: it also ends a step, and lets the case act before it polls."""

    def __init__(self, poller: Poller, bench: "Bench") -> None:
        self._poller = poller
        self._bench = bench

    def unregister(self, source: Any) -> None:  # noqa: ANN401 - as the poller's
        self._poller.unregister(source)

    def wait(self, timeout_ms: int) -> list[Any]:
        self._bench.end_step()
        self._bench.act()
        ready = self._poller.wait(min(timeout_ms, POLL_MS))
        self._bench.begin_step()
        return ready


class Bench:
    """A broker that runs in this thread, and the peers that send to it between two steps."""

    def __init__(self, acts: Case, directory: Path, jobs: int, **settings: Any) -> None:  # noqa: ANN401 - of any kind
        self.jobs = jobs
        self._acts = acts(self)
        self._endpoint = f"ipc://{directory}/broker.sock"
        kept = {"data_dir": directory / "data"} if settings.get("fsync") else {"in_memory": True}
        self._settings = load_options(
            {
                "bind": [self._endpoint], "drain_ms": 0, "linger_ms": 0, "jobs": 2 * jobs + 200_000,
                "stored_bytes": 2**40, "max_finished": 2 * jobs + 200_000, **kept, **settings,
            }
        )  # fmt: skip
        self.time = SteppedTime(START)
        self._stop_fd, self._stopper = os.pipe()
        self.steps: list[Step] = []
        self._is_measured = self._has_left = False
        self.measures_leaving = False
        self._began = (0.0, 0.0)
        self._peers: list[zmq.Socket[bytes]] = []
        self._unsent: dict[int, deque[bytes]] = {}
        self.answers: dict[tuple[int, int], bytes] = {}
        """The frames that came back, by peer and number of the request."""
        self.last_seq = 0

    def run(self) -> None:
        """Run the broker until the case is over; `steps` are those measured."""
        with ExitStack() as stack:
            self._context = zmq.Context()
            stack.callback(self._context.destroy, linger=0)
            broker = assemble(
                self._settings, CONNECTIONS, stack,
                stop_fd=lambda: self._stop_fd, counters=Counters(), notifier=Notifier({}),
                new_clock=lambda _: SteppedClock(self.time),
            )  # fmt: skip
            self.server, self.pipeline = broker.server, broker.pipeline
            self.core: Context = self.pipeline._context  # noqa: SLF001 - to see what is parked
            self.server._poller = _Between(self.server._poller, self)  # noqa: SLF001 - a look at the loop
            commit = self.server._commit  # noqa: SLF001
            put = commit.put

            def put_and_end(*args: Any, **options: Any) -> None:  # noqa: ANN401 - whatever it takes
                put(*args, **options)
                if self._has_left:  # without a poll between its steps
                    self.end_step()
                    self.begin_step()

            commit.put = put_and_end  # type: ignore[method-assign]
            gc.collect()
            gc.freeze()  # as in the broker
            self.begin_step()
            broker.server.run()
        os.close(self._stop_fd)
        os.close(self._stopper)

    # --- called between two steps ---------------------------------------------------------------

    def begin_step(self) -> None:
        self._began = time.thread_time(), time.perf_counter()

    def end_step(self) -> None:
        cpu_s, wall_s = time.thread_time(), time.perf_counter()
        if self._is_measured:
            cpu, wall = self._began
            self.steps.append(Step((cpu_s - cpu) * 1_000, (wall_s - wall) * 1_000))

    def act(self) -> None:
        """Let the case go on: send, and receive."""
        self._receive()
        if not self._has_left and next(self._acts, self) is self:
            self._is_measured &= self.measures_leaving
            self.leave()
        self._flush()

    def leave(self) -> None:
        """Stop the broker."""
        self._has_left = True
        os.write(self._stopper, b"\0")

    # --- called by cases ------------------------------------------------------------------------

    def measure(self) -> None:
        """Measure the steps from here on."""
        self._is_measured = True

    def rest(self) -> None:
        """Measure no steps from here on."""
        self._is_measured = False

    def pass_ms(self, span_ms: int) -> None:
        """Let time pass for the broker."""
        self.time.advance(span_ms / 1_000)

    def send(
        self,
        *commands: AnyCommand,
        peer: int = 0,
        session: int = 0,
        seq: int | None = None,
        acked: int = 0,
    ) -> tuple[int, int]:
        """Send one message; return what its answer is found by."""
        while len(self._peers) <= peer:
            socket = self._context.socket(zmq.DEALER)
            socket.connect(self._endpoint)
            self._peers.append(socket)
        self.last_seq += 1
        number = self.last_seq if seq is None else seq
        frame = encode_request(Request(1, session, number, acked, [*commands]))
        self._unsent.setdefault(peer, deque()).append(frame)
        return peer, number

    def send_frame(self, frame: bytes) -> None:
        """Send these bytes."""
        self._unsent.setdefault(0, deque()).append(frame)

    def ask(self, *commands: AnyCommand, **how: Any) -> Generator[None, None, list[Any]]:  # noqa: ANN401 - of `send`
        """Send one message, and return its results when they are there."""
        key = self.send(*commands, **how)
        self.answers.pop(key, None)
        while key not in self.answers:
            yield
        answer = decode_answer(self.answers.pop(key))
        if not isinstance(answer, Reply):
            raise TypeError(f"refused: {answer}")
        return answer.results

    def ask_all(self, commands: Sequence[AnyCommand], size: int = 1_000) -> Acts:
        """Send commands in messages of so many, a few at a time, and wait for the answers."""
        keys: list[tuple[int, int]] = []
        for start in range(0, len(commands), size):
            keys.append(self.send(*commands[start : start + size]))
            while len(keys) > IN_FLIGHT:
                yield
                keys = [key for key in keys if not self._is_answered(key)]
        while keys:
            yield
            keys = [key for key in keys if not self._is_answered(key)]

    def park(self, command: Callable[[int], AnyCommand], many: int, *, peers: int = 4) -> Acts:
        """Park so many commands, over some peers."""
        parked = self.core.waiters.parked
        there = len(parked)
        keys = [self.send(command(number), peer=1 + number % peers) for number in range(many)]
        while len(parked) < there + many:
            yield
            if any(map(self._is_answered, keys)):
                raise RuntimeError("a command was answered in place of parked")

    def idle(self, steps: int = 10) -> Acts:
        """Let the loop run."""
        for _ in range(steps):
            yield

    def until(self, is_so: Callable[[], bool]) -> Acts:
        """Let the loop run until something is so."""
        while not is_so():
            yield

    def expel(self, *principals: Principal) -> Acts:
        """Take the keys of principals away, as the ring of keys does."""
        keys = self.server._keys  # noqa: SLF001 - the seam of the keys
        self.server._keys = _Revoked(principals)  # noqa: SLF001
        self.server._keys_at_ms = 0  # noqa: SLF001
        yield from self.until(lambda: self.server._keys.is_told)  # type: ignore[union-attr]  # noqa: SLF001
        self.server._keys = keys  # noqa: SLF001

    def _is_answered(self, key: tuple[int, int]) -> bool:
        frame = self.answers.pop(key, None)
        if frame is not None and not isinstance(answer := decode_answer(frame), Reply):
            raise TypeError(f"refused: {answer}")
        return frame is not None

    def _receive(self) -> None:
        for peer, socket in enumerate(self._peers):
            while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                frame = socket.recv()
                self.answers[peer, decode_answer(frame).seq or 0] = frame

    def _flush(self) -> None:
        for peer, frames in self._unsent.items():
            while frames and int(self._peers[peer].getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
                self._peers[peer].send(frames.popleft())


class _Revoked:
    """Keys of which some are taken away."""

    def __init__(self, principals: Sequence[Principal]) -> None:
        self._left = [*principals]
        self.is_told = False

    def refresh(self) -> list[Principal]:
        self.is_told, left, self._left = True, self._left, []
        return left


def reference_ms() -> float:
    """Return how long a fixed piece of work takes: 5 ms on a calm machine."""
    begin = time.thread_time()
    texts = [f"{number}" for number in range(20_000)]
    {text: len(text) for text in texts}
    return (time.thread_time() - begin) * 1_000


def run_case(acts: Case, jobs: int, directory: Path | None) -> list[Step]:
    """Run one case with a new broker; return its steps."""
    settings = settings_of.get(acts, {})
    with tempfile.TemporaryDirectory(prefix="steps-", dir=directory) as folder:
        bench = Bench(acts, Path(folder), jobs, **settings)
        bench.run()
    gc.unfreeze()
    gc.collect()
    return bench.steps


def longest_of(runs: Sequence[Sequence[Step]]) -> Step:
    """Return the longest step of a case that ran several times.

    The runs do the same in the same steps, and of each step the least time counts; if they had
    different numbers of steps, the least of their longest ones.
    """
    if len({len(run) for run in runs}) > 1:
        return min(map(max, runs))
    least: list[Step] = [min(steps) for steps in zip(*runs, strict=True)]
    return max(least)


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    from benchmarks import (  # noqa: PLC0415 - they add themselves
        long_step_cases,  # noqa: F401
        long_step_sizes,  # noqa: F401
        long_step_times,  # noqa: F401
    )

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_steps", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("words", nargs="*", help="run the cases whose names have one of these")
    parser.add_argument("--jobs", type=int, default=100_000, help="how many jobs there are")
    parser.add_argument("--turns", type=int, default=3, help="how often each case runs")
    parser.add_argument("--work-dir", type=Path, help="where journals are written")
    options = parser.parse_args()
    gc.disable()  # as in the broker
    share_one_arena()
    os.environ.setdefault("TOLLGATE_LOG_FORMAT", "console")
    too_long, speeds = 0, list[float]()
    print(
        f"{options.jobs:,} jobs; ms of the longest step, by its CPU time: of each step the least of"
        f" {options.turns} runs"
    )
    print("counts; beside it the longest of all, and the longest wall time")
    print(f"  {'case':66}{'steps':>7}{'CPU':>8}{'wall':>8}{'greatest':>10}{'any wall':>10}")
    for name, acts in cases.items():
        if options.words and not any(word in name for word in options.words):
            continue
        runs = []
        for _ in range(options.turns):
            speeds.append(reference_ms())
            runs.append(run_case(acts, options.jobs, options.work_dir))
        longest = [max(run) for run in runs]
        least = longest_of(runs)
        wall = max(step.wall_ms for run in runs for step in run)
        mark = "  <--" if least.cpu_ms > GOAL_MS else ""
        too_long += bool(mark)
        print(
            f"  {name:66}{len(runs[0]):>7,}{least.cpu_ms:>8.2f}{least.wall_ms:>8.1f}"
            f"{max(longest).cpu_ms:>10.1f}{wall:>10.1f}{mark}",
            flush=True,
        )
    print(f"a fixed piece of work took {min(speeds):.1f} to {max(speeds):.1f} ms of CPU")
    print(f"{too_long} cases are above {GOAL_MS:.0f} ms")
    return int(too_long > 0)


if __name__ == "__main__":
    from benchmarks.long_steps import main as this_main  # one module, however it is started

    sys.exit(this_main())
