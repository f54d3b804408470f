"""A million commands from one seed, on a clock that moves when told: always the same bytes.

`python -m tests.million [COMMANDS [SEED]]` prints a digest of all that was written and sent.
"""

import hashlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from random import Random

import msgspec

from tests.core import ADMIN, EPOCH, HASH, job_id, make_pipeline
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.timers import Instant
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.messages import Request, encode_request
from tollgate.domain.status import JobStatus

MILLION = 1_000_000
BATCH = 40
LIVE = 2_000
"""How far back a command reaches for a job."""
TARGETS = (JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.AWAITING_INPUT)
CLAIMABLE = (JobStatus.AWAITING_PAYMENT, JobStatus.RUNNING, JobStatus.AWAITING_INPUT)


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
        return Claim(
            status=random.choice(CLAIMABLE),
            lease_ms=random.randrange(1, 500),
            wait_ms=wait_ms,
            limit=random.randint(1, 3),
        )

    def _command(self) -> AnyCommand:  # noqa: PLR0911 - one a kind
        random = self._random
        kind = random.randrange(100)
        if kind < 30:
            self._created += 1
            return Create(
                input_hash=HASH,
                input="x" * random.randrange(40) or None,
                pay_by_time=EPOCH + timedelta(seconds=random.randrange(10**6)),
                submit_result_time=EPOCH + timedelta(seconds=random.randrange(10**6)),
            )
        if kind < 70:
            version = random.choice((None, None, 1, 2, 3))
            return Transition(
                job_id=self._job(), target=random.choice(TARGETS), expected_version=version
            )
        if kind < 80:
            return Get(job_id=self._job())
        if kind < 85:
            return self._claim(0)
        if kind < 88:
            lease = max(1, self._token - random.randrange(20))
            return Touch(job_id=self._job(), lease=lease, lease_ms=random.randrange(1, 500))
        if kind < 91:
            return Release(job_id=self._job(), lease=max(1, self._token - random.randrange(20)))
        if kind < 94:
            return Cancel(job_id=self._job())
        if kind < 97:
            return ProvideInput(job_id=self._job(), input="y", expected_version=3)
        if kind < 99:
            return Count()
        return List(limit=3, after=str(random.randrange(self._created + 1)))


def frames(commands: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield requests that hold at least so many commands in all, each with the time since."""
    source, random, sent = Source(seed), Random(seed + 1), 0
    seq = 0
    while sent < commands:
        message = source.message()
        sent += len(message)
        seq += 1
        yield encode_request(Request(1, 0, seq, 0, message)), random.choice((0, 0, 1, 7, 50))


def digest(commands: int = MILLION, seed: int = 1) -> str:
    """Run so many commands, and return a digest of all records and replies."""
    pipeline = make_pipeline()
    encode = msgspec.msgpack.Encoder().encode
    seen = hashlib.sha256()
    now_ms = 0
    for number, (frame, since_ms) in enumerate(frames(commands, seed)):
        now_ms += since_ms
        now = Instant(EPOCH + timedelta(milliseconds=now_ms), now_ms)
        outcome = pipeline.run([Arrival(b"peer%d" % (number % 3), [frame], ADMIN)], now)
        for record in outcome.records:
            seen.update(encode(record))
        for reply in outcome.replies:
            seen.update(reply.peer)
            seen.update(reply.frame)
    for reply in pipeline.drain().replies:
        seen.update(reply.frame)
    return seen.hexdigest()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    print(digest(*numbers))  # noqa: T201 - what it is called for
