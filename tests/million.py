"""A million commands from one seed, on a clock that moves when told: always the same bytes.

`python -m tests.million [COMMANDS [SEED]]` prints a digest of all that was written and sent.

With revision 2 of the protocol the commands, the records and the replies hold more, and so the
digest of a million commands is another one than before.
"""

import hashlib
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

import msgspec

from tests.core import ADMIN, EPOCH, HASH, job_id, make_pipeline, pipeline_of
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Instant
from tollgate.broker.journal import SNAPSHOT_CHUNK, Entry
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    History,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    StopWaiting,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import DrainingError
from tollgate.domain.messages import Request, encode_request
from tollgate.domain.results import Progress
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

MILLION = 1_000_000
BATCH = 40
LIVE = 2_000
"""How far back a command reaches for a job."""
TARGETS = (JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.AWAITING_INPUT)
CLAIMABLE = (JobStatus.AWAITING_PAYMENT, JobStatus.RUNNING, JobStatus.AWAITING_INPUT)
STATES = (SettlementState.WANTED, SettlementState.SUBMITTED)
QUEUES = ("default", "a", "b", "c")


class Source:
    """Commands that mostly make sense, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._created = 0
        self._token = 0

    def message(self) -> list[AnyCommand]:
        random = self._random
        kind = random.random()
        if kind < 0.02:
            jobs = [self._job() for _ in range(random.randint(1, 3))]
            return [Wait(job_ids=jobs, timeout_ms=random.randrange(2_000))]
        if kind < 0.04:
            return [self._claim(random.randrange(1, 2_000))]
        return [self._command() for _ in range(BATCH)]

    def _job(self) -> str:
        first = max(1, self._created - LIVE)
        return job_id(self._random.randint(first, max(first, self._created)))

    def _claim(self, wait_ms: int) -> Claim:
        random = self._random
        self._token += 1
        is_settlement = random.random() < 0.2
        return Claim(
            status=None if is_settlement else random.choice(CLAIMABLE),
            settlement=random.choice(STATES) if is_settlement else None,
            lease_ms=random.randrange(1, 500),
            wait_ms=wait_ms,
            limit=random.randint(1, 3),
            queues=random.choice((None, ["*"], ["*"], ["b", "a"])),
        )

    def _new_command(self) -> AnyCommand:
        """Return a command of revision 2."""
        random, job = self._random, self._job()
        return random.choice(
            (
                Hold(job_id=job, reason="h"),
                Resume(job_id=job),
                Resume(job_id=job),
                RequestStop(job_id=job),
                Annotate(job_id=job, meta=str(random.randrange(9))),
                Settle(job_id=job, to=random.choice((None, *SettlementState)), on_chain_state="s"),
                PauseQueue(queue="c"),
                ResumeQueue(queue="c"),
                History(job_id=job),
                StopWaiting(seqs=[random.randrange(9)]),
            )
        )

    def _later(self) -> datetime:
        """Return a time that the clock reaches in the next million commands, mostly."""
        return EPOCH + timedelta(milliseconds=self._random.randrange(10**6))

    def _command(self) -> AnyCommand:  # noqa: C901, PLR0911 - one a kind
        random = self._random
        kind = random.randrange(100)
        if kind < 30:
            self._created += 1
            return Create(
                input_hash=HASH,
                input="x" * random.randrange(40) or None,
                pay_by_time=EPOCH + timedelta(seconds=random.randrange(10**6)),
                submit_result_time=EPOCH + timedelta(seconds=500_000 + random.randrange(10**6)),
                queue=random.choice((None, None, *QUEUES)),
                priority=random.choice((0, 0, 0, 1, 9)),
                not_before=self._later() if random.random() < 0.1 else None,
                meta="m" if random.random() < 0.1 else None,
                settle=random.random() < 0.3,
            )
        if kind < 60:
            version = random.choice((None, None, 1, 2, 3))
            return Transition(
                job_id=self._job(),
                target=random.choice(TARGETS),
                expected_version=version,
                force=version is not None and random.random() < 0.1,
            )
        if kind < 70:
            return self._new_command()
        if kind < 80:
            return Get(job_id=self._job())
        if kind < 85:
            return self._claim(0)
        if kind < 88:
            lease = max(1, self._token - random.randrange(20))
            progress = random.choice((None, Progress("half", 0.5)))
            return Touch(
                job_id=self._job(),
                lease=lease,
                lease_ms=random.randrange(1, 500),
                progress=progress,
            )
        if kind < 91:
            return Release(
                job_id=self._job(),
                lease=max(1, self._token - random.randrange(20)),
                delay_ms=random.choice((None, None, 0, 700)),
                reason=random.choice((None, "r")),
                hold=random.random() < 0.1,
            )
        if kind < 94:
            return Cancel(job_id=self._job())
        if kind < 97:
            return ProvideInput(job_id=self._job(), input="y", expected_version=3)
        if kind < 99:
            return Count(queue=random.choice((None, *QUEUES)))
        return List(
            limit=3,
            after=str(random.randrange(self._created + 1)),
            queue=random.choice((None, "a")),
            newest=random.random() < 0.5,
        )


def frames(commands: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield requests that hold at least so many commands in all, each with the time since."""
    source, random, sent = Source(seed), Random(seed + 1), 0
    seq = 0
    while sent < commands:
        message = source.message()
        sent += len(message)
        seq += 1
        yield encode_request(Request(1, 0, seq, 0, message)), random.choice((0, 0, 1, 7, 50))


def digest(commands: int = MILLION, seed: int = 1, *, restarts: bool = False) -> str:
    """Run so many commands, and return a digest of all records and replies.

    With `restarts`, a second broker that starts from a snapshot takes over in the middle.
    """
    pipeline = make_pipeline()
    encode = msgspec.msgpack.Encoder().encode
    seen = hashlib.sha256()
    now_ms, is_past = 0, False
    for number, (frame, since_ms) in enumerate(frames(commands, seed)):
        now_ms += since_ms
        now = Instant(EPOCH + timedelta(milliseconds=now_ms), now_ms)
        if not is_past and number * BATCH > commands // 2:
            is_past = True
            pipeline = _settled(pipeline, now, seen, restarts=restarts)
        arrival = Arrival(b"peer%d" % (number % 3), [frame], ADMIN)
        outcomes = [pipeline.run([arrival], now)]
        while pipeline.is_deciding:
            outcomes.append(pipeline.run([arrival], now))
        for outcome in outcomes:
            for record in outcome.records:
                seen.update(encode(record))
            for reply in outcome.replies:
                seen.update(reply.peer)
                seen.update(reply.frame)
    for reply in pipeline.drain().replies:
        seen.update(reply.frame)
    return seen.hexdigest()


def _settled(pipeline: Pipeline, now: Instant, seen: Any, *, restarts: bool) -> Pipeline:
    """Take all parked commands and leases' times off a pipeline: what no restart keeps.

    With `restarts`, return another one, which knows what a snapshot of the first one holds.
    """
    engine = pipeline._engine
    state = engine.context.state
    engine.answer_parked(DrainingError("the middle"))
    for reply in pipeline.run([], now).replies:
        seen.update(reply.frame)
    state.leases.restart(now.mono_ms)
    if not restarts:
        pipeline.deadlines.start(now)
        return pipeline
    restored = State()
    chunks = [Entry(state.records, SNAPSHOT_CHUNK, chunk) for chunk in snapshot_chunks(state)]
    replay(chunks, restored)
    restored.leases.restart(now.mono_ms)
    other = Engine(
        engine.context.limits,
        new_id=engine.context.new_id,
        server="tollgate test",
        boot_id="boot",
        state=restored,
    )
    again = pipeline_of(other)
    again.deadlines.start(now)
    return again


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    print(digest(*numbers))  # noqa: T201 - what it is called for
