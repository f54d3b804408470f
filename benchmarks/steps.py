"""The longest step of the broker's loop, while jobs come, move, are claimed, listed and removed.

    python -m benchmarks.steps 1000000

A step is one batch: decide a message, and encode its records. It is measured in CPU time of the
thread, since other processes of the machine are no part of it. The core runs in this process, with
the limits that a broker has, but for the number of jobs.

Other processes do slow the processor down, and the kernel does work of its own in a step now and
then. With `--turns` all of it runs several times. Each time has the same steps, and of each step
the shortest time counts: what is long in all of them is the step's own.

A second part compares what a claim costs: among 1,000 jobs of one queue, and among 1,000,000 ready
jobs in 50 queues beside 500,000 delayed ones.
"""

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median
from typing import Any, Final

from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.deadlines import REMOVED_MAX
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import Instant
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hold,
    List,
    Release,
    Stats,
    Transition,
)
from tollgate.domain.messages import Request, decode_answer, encode_request
from tollgate.domain.results import JobsResult
from tollgate.domain.status import JobStatus

HASH: Final = "0123456789abcdef" * 4
PEER: Final = b"\x00peer"
ADMIN: Final = Principal("uid:1000", frozenset({Role.ADMIN}))
A_MESSAGE: Final = 100
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
GOAL_MS: Final = 10.0
CLAIMS_A_TURN: Final = 500
TURNS: Final = 15
LONG_MESSAGES: Final = 20


class Loop:
    """A pipeline with a clock of its own; keeps how long each step took, in ms."""

    def __init__(self, jobs: int, keep: int) -> None:
        numbers = count()
        self.engine = Engine(
            Limits(jobs=jobs, max_finished=keep, stored_bytes=2**40),
            new_id=lambda: f"{next(numbers):08x}-0000-4000-8000-000000000000",
            server="steps",
            boot_id="steps",
        )
        self.pipeline = Pipeline(self.engine, Counter(), 8 * 2**20)
        self.wall, self.mono_ms = START, 0
        self.pipeline.deadlines.start(Instant(self.wall, 0))
        self.steps_ms: list[float] = []

    def pass_ms(self, span_ms: int) -> None:
        """Let time go by on both clocks."""
        self.wall += timedelta(milliseconds=span_ms)
        self.mono_ms += span_ms

    def step(self, *commands: AnyCommand) -> list[Any]:
        """Decide one message, or only what is due; return its results."""
        frames = [encode_request(Request(1, 0, 1, 0, [*commands]))] if commands else []
        batch = [Arrival(PEER, frames, ADMIN)] if frames else []
        self.pass_ms(1)
        while True:
            now = Instant(self.wall, self.mono_ms)
            begin = time.thread_time()
            output = self.pipeline.run(batch, now)
            encode_records(output.records)
            self.steps_ms.append((time.thread_time() - begin) * 1_000)
            if output.taken == len(batch):
                break
        if not output.replies:
            return []
        return decode_answer(output.replies[-1].frame).results  # type: ignore[union-attr]


def phases(loop: Loop, jobs: int) -> Iterator[tuple[str, Iterable[object]]]:
    """Yield what is done to so many jobs, and its steps."""
    ids = [f"{number:08x}-1111-4000-8000-000000000000" for number in range(jobs)]
    groups = [ids[start : start + A_MESSAGE] for start in range(0, jobs, A_MESSAGE)]
    yield (
        "create",
        (
            loop.step(
                *[Create(input_hash=HASH, input="x" * 200, job_id=job_id) for job_id in group]
            )
            for group in groups
        ),
    )
    yield (
        "run",
        (
            loop.step(*[Transition(job_id=job_id, target=JobStatus.RUNNING) for job_id in group])
            for group in groups
        ),
    )
    yield "claim and complete", (_work(loop) for _ in groups[: len(groups) // 2])
    yield (
        "complete without a lease",
        (
            loop.step(*[Transition(job_id=job_id, target=JobStatus.COMPLETED) for job_id in group])
            for group in groups
        ),
    )
    yield "one create more", (loop.step(Create(input_hash=HASH)) for _ in range(100))
    yield "list by pages", _pages(loop, None, 300)
    yield "list the rare ones", _pages(loop, JobStatus.AWAITING_PAYMENT, 10)
    yield "count", (loop.step(Count()) for _ in range(100))
    yield "1,000 commands that form no runs", (_mixed(loop, turn) for turn in range(LONG_MESSAGES))
    yield "1,000 claims, 1,000 cancels", (_claims(loop) for _ in range(LONG_MESSAGES))
    yield "stats", (loop.step(Stats()) for _ in range(100))
    loop.pass_ms(7 * 86_400_000 + 600_000)  # a day more would look like a clock that was set
    yield "remove", (loop.step() for _ in range(jobs // REMOVED_MAX + 2))


def _work(loop: Loop) -> object:
    (granted,) = loop.step(
        Claim(status=JobStatus.RUNNING, lease_ms=60_000, wait_ms=0, limit=A_MESSAGE)
    )
    leases = granted.leases
    return loop.step(
        *[
            Transition(job_id=each.job.job_id, target=JobStatus.COMPLETED, lease=each.lease)
            for each in leases
        ]
    )


def _mixed(loop: Loop, turn: int) -> object:
    """Send one message of commands of which each is of another kind than the one before."""
    ids = [f"{number:08x}-{turn:04x}-4000-8000-000000000001" for number in range(250)]
    return loop.step(
        *[
            command
            for job_id in ids
            for command in (
                Create(input_hash=HASH, job_id=job_id),
                Transition(job_id=job_id, target=JobStatus.RUNNING),
                Get(job_id=job_id),
                Hold(job_id=job_id),
            )
        ]
    )


def _claims(loop: Loop) -> object:
    """Create 1,000 jobs in a queue, claim each of them alone, and cancel them."""
    for _ in range(1_000 // A_MESSAGE):
        loop.step(*[Create(input_hash=HASH, queue="apart")] * A_MESSAGE)
    one = Claim(
        status=JobStatus.AWAITING_PAYMENT, lease_ms=60_000, wait_ms=0, limit=1, queues=["apart"]
    )
    granted = loop.step(*[one] * 1_000)
    return loop.step(*[Cancel(job_id=result.leases[0].job.job_id) for result in granted])


def _pages(loop: Loop, status: JobStatus | None, pages: int) -> Iterator[object]:
    after: str | None = None
    for _ in range(pages):
        (page,) = loop.step(List(limit=1_000, status=status, after=after))
        after = page.next if isinstance(page, JobsResult) else None
        yield page
        if after is None:
            return


def measured(jobs: int) -> dict[str, list[float]]:
    """Return how long each step of each phase took, in ms."""
    loop = Loop(jobs + 100_000, jobs)
    times: dict[str, list[float]] = {}
    for name, actions in phases(loop, jobs):
        loop.steps_ms = times[name] = []
        for _ in actions:
            pass
    return times


def steps(jobs: int, turns: int) -> float:
    """Print the longest step of each phase; return the longest of all, in ms."""
    runs = [measured(jobs) for _ in range(turns)]
    longest = 0.0
    print(f"{jobs:,} jobs; of each step the shortest of {turns} times; in any: the longest of all")
    print(f"{'':32}{'steps':>10}{'mean ms':>10}{'p99.9 ms':>10}{'longest ms':>12}{'in any':>10}")
    for name in runs[0]:
        each = [run[name] for run in runs]
        times = sorted(map(min, zip(*each, strict=True)))
        longest = max(longest, times[-1])
        mean, late = sum(times) / len(times), times[int(len(times) * 0.999)]
        print(
            f"  {name:30}{len(times):>10,}{mean:>10.3f}{late:>10.3f}{times[-1]:>12.2f}"
            f"{max(map(max, each)):>10.2f}"
        )
    return longest


def filled(queues: int, ready: int, delayed: int) -> Loop:
    """Return a loop with so many queues, ready jobs and delayed jobs."""
    loop = Loop(ready + delayed + 1_000, 1_000)
    later = START + timedelta(days=1)
    for start in range(0, ready + delayed, A_MESSAGE):
        some = range(start, min(start + A_MESSAGE, ready + delayed))
        jobs = loop.step(
            *[
                Create(
                    input_hash=HASH,
                    queue=f"queue-{number % queues}",
                    not_before=later if number >= ready else None,
                )
                for number in some
            ]
        )
        loop.step(*[Transition(job_id=each.job.job_id, target=JobStatus.RUNNING) for each in jobs])
    return loop


def claim_us(loop: Loop, queues: int) -> float:
    """Return how long a claim of one job takes, and its release, in us: the median of some."""
    times: list[float] = []
    for number in range(CLAIMS_A_TURN):
        queue = f"queue-{number % queues}"
        loop.steps_ms.clear()
        (granted,) = loop.step(
            Claim(status=JobStatus.RUNNING, lease_ms=60_000, wait_ms=0, limit=1, queues=[queue])
        )
        (lease,) = granted.leases
        loop.step(Release(job_id=lease.job.job_id, lease=lease.lease))
        times.append(sum(loop.steps_ms) * 1_000)
    return median(times)


def compare_claims() -> None:
    """Print what a claim costs with few jobs and with many, by turns."""
    few, many = filled(1, 1_000, 0), filled(50, 1_000_000, 500_000)
    pairs = [(claim_us(few, 1), claim_us(many, 50)) for _ in range(TURNS)]
    ratios = sorted(there / here for here, there in pairs)
    print("a claim and its release, medians of turns:")
    print(f"  {median(here for here, _ in pairs):.1f} us among 1,000 jobs of one queue")
    print(f"  {median(there for _, there in pairs):.1f} us among 1,000,000 ready in 50 queues,")
    print(
        f"  beside 500,000 delayed: {median(ratios):.2f} times"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("jobs", type=int, nargs="*", default=[100_000], help="how many jobs")
    parser.add_argument("--turns", type=int, default=3, help="how often all of it runs")
    parser.add_argument("--claims", action="store_true", help="compare the cost of claims as well")
    options = parser.parse_args()
    gc.disable()  # as in the broker
    longest = max(steps(jobs, options.turns) for jobs in options.jobs)
    print(f"longest step of all: {longest:.2f} ms; the goal is {GOAL_MS:.0f} ms")
    if options.claims:
        compare_claims()
    return int(longest > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
