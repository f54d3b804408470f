"""A process that makes all kinds of events: python -m tests.feed.producer ENDPOINT SEED.

It works on jobs of its own, many commands at a time, until standard input is closed.
"""

import select
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

from tollgate.client import commands as build
from tollgate.client.results import Lease
from tollgate.client.sync import Client
from tollgate.domain.commands import AnyCommand
from tollgate.domain.exceptions import JobNotFoundError, TollgateError
from tollgate.domain.models import Job
from tollgate.domain.settlement import SettlementState

HASH = "0123456789abcdef" * 4
QUEUES = ("default", "a", "b")
JOBS = 150
"""How many jobs it has at a time."""
NEXT = {SettlementState.WANTED: "submitted", SettlementState.SUBMITTED: "confirmed"}
TEXT = "a text that the replica does not have " * 4


class Producer:
    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.random = Random(seed)
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, int] = {}

    def run(self) -> None:
        while not select.select([sys.stdin], [], [], 0)[0]:
            try:
                self.step()
            except TollgateError:  # the broker was killed; what was done is seen by `get`
                self.jobs.clear()
                self.leases.clear()

    def step(self) -> None:
        """Send some commands about each job, and look at what became of it."""
        values = self.client.send_many([*self.commands()])
        for value in values:
            if isinstance(value, Job):
                self.note(value)
            elif isinstance(value, JobNotFoundError):  # it has ended, and was removed since
                self.jobs.pop(value.job_id or "", None)
            elif isinstance(value, list):
                for lease in value:
                    self.note_lease(lease)

    def note(self, job: Job) -> None:
        known = self.jobs.get(job.job_id)
        if known is None or job.version >= known.version:
            self.jobs[job.job_id] = job

    def note_lease(self, lease: Lease) -> None:
        self.note(lease.job)
        self.leases[lease.job.job_id] = lease.token

    def commands(self) -> Iterator[AnyCommand]:
        for _ in range(JOBS - len(self.jobs)):
            yield self.create()
        for job in list(self.jobs.values()):
            yield from self.about(job)
        settlement = self.random.random() < 0.3
        yield build.claim(
            None if settlement else "running",
            settlement="wanted" if settlement else None,
            queues=self.random.choice(QUEUES) if not settlement else None,
            lease_ms=self.random.choice((50, 5_000)),
            limit=20,
        )
        if self.random.random() < 0.05:
            queue = self.random.choice(QUEUES)
            yield build.pause_queue(queue)
            yield build.resume_queue(queue)

    def create(self) -> AnyCommand:
        one = self.random
        more: dict[str, Any] = {}
        if one.random() < 0.3:
            more |= {"meta": TEXT, "priority": one.randrange(10), "input": f'"{TEXT}"'}
        if one.random() < 0.1:
            more |= {"blockchain_identifier": f"pay {one.getrandbits(64)}"}
        return build.create(HASH, queue=one.choice(QUEUES), settle=one.random() < 0.3, **more)

    def about(self, job: Job) -> Iterator[AnyCommand]:
        one, job_id = self.random, job.job_id
        token = self.leases.get(job_id)
        if job.status == "awaiting_payment":
            if one.random() < 0.1:
                yield build.cancel(job_id)
            else:
                yield build.transition(job_id, "running")
        elif job.status == "running":
            yield from self.work_on(job, token)
        elif job.status == "awaiting_input":
            yield build.provide_input(job_id, TEXT, expected_version=job.version, input_hash=HASH)
        else:
            yield from self.settle(job, token)

    def work_on(self, job: Job, token: int | None) -> Iterator[AnyCommand]:
        one, job_id = self.random, job.job_id
        if token is not None:
            del self.leases[job_id]
        choice = one.random()
        if choice < 0.15:
            yield build.hold(job_id, reason=TEXT)
            yield build.resume(job_id)
        elif choice < 0.25:
            yield build.annotate(job_id, one.choice((None, TEXT, "x")))
        elif choice < 0.3:
            yield build.request_stop(job_id)
        elif token is not None and choice < 0.4:
            yield build.touch(job_id, token, progress=TEXT, fraction=0.5)
            yield build.release(job_id, token, delay_s=0, reason="again")
        elif choice < 0.6:
            yield build.transition(job_id, "awaiting_input", input_schema=TEXT, lease=token)
        elif choice < 0.7:
            yield build.transition(job_id, "failed", error=TEXT, lease=token)
        else:
            yield build.transition(job_id, "completed", result=TEXT, lease=token)
        yield build.get(job_id)

    def settle(self, job: Job, token: int | None) -> Iterator[AnyCommand]:
        target = NEXT.get(job.settlement.state) if job.settlement else None
        if target is None or self.random.random() < 0.2:
            del self.jobs[job.job_id]
            self.leases.pop(job.job_id, None)
            return
        yield build.settle(job.job_id, to=target, lease=token, on_chain_state="FundsLocked")
        self.leases.pop(job.job_id, None)
        yield build.get(job.job_id)


if __name__ == "__main__":
    with Client(sys.argv[1], timeout_s=60.0) as broker:
        Producer(broker, int(sys.argv[2])).run()
