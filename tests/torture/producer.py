"""A producer: creates, pays for and changes jobs, and writes down what it was told of each change.

`python -m tests.torture.producer NAME LIFE ENDPOINT LOG SEED` runs until SIGTERM. It sends what
users send, by the public client, one call after the other.
"""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.crash.summaries import of_job
from tests.torture.operations import Operation, OperationLog, Outcome
from tollgate.client.errors import (
    BatchError,
    BrokerUnreachableError,
    ClientClosedError,
    OutcomeUnknown,
)
from tollgate.client.results import Lease
from tollgate.client.sync import Client
from tollgate.domain.exceptions import InternalError, MalformedError, Refusal
from tollgate.domain.models import Job
from tollgate.log import configure

KNOWN_MAX: Final = 60
HANDS: Final = "hands"
"""The queue of the jobs that producers work on themselves: they claim them, ask and answer."""
TIMEOUT_S: Final = 6.0
PAUSE_S_MAX: Final = 0.04


class Producer:
    """Sends operations until it is told to stop."""

    def __init__(self, name: str, life: int, endpoint: str, log: Path, seed: int) -> None:
        self._prefix = f"op-{name.rpartition('-')[2]}.{life}"
        self._random = Random(seed)
        self._log = OperationLog(log)
        self._client = Client(endpoint, timeout_s=TIMEOUT_S, name=name)
        self._stopping = False
        self._count = 0
        self._paid: deque[str] = deque(maxlen=KNOWN_MAX)
        self._jobs: deque[Job] = deque(maxlen=KNOWN_MAX)
        self._by_hand: deque[Job] = deque(maxlen=KNOWN_MAX)
        self._leases: deque[Lease] = deque(maxlen=8)
        self._texts: Callable[[], str] = lambda: "x" * self._random.choice((0, 10, 100, 4_000))
        shares: dict[Callable[[], None], float] = {
            self._create_and_pay: 34,
            self._create_by_hand: 12,
            self._create_many: 3,
            self._annotate: 9,
            self._hold: 4,
            self._resume: 6,
            self._request_stop: 3,
            self._cancel: 2,
            self._get: 10,
            self._wait: 6,
            self._claim: 10,
            self._use_lease: 14,
            self._ask: 6,
            self._answer: 8,
        }
        self._kinds, self._weights = [*shares], [*shares.values()]

    def stop(self) -> None:
        """End the call in progress, in a signal handler too, and let `run` return."""
        self._stopping = True
        self._client.close()

    def run(self) -> None:
        while not self._stopping:
            self._random.choices(self._kinds, self._weights)[0]()
            if not self._stopping:
                time.sleep(self._random.uniform(0, PAUSE_S_MAX))

    # --- operations -------------------------------------------------------------------------------

    def _create_and_pay(self) -> None:
        text = f"{self._random.getrandbits(40)} {self._texts()}"
        if self._random.random() < 0.05:
            text += " fails"
        job = self._do("create", lambda tag: self._client.create(input=text, meta=tag))
        if isinstance(job, Job):
            self._jobs.append(job)
            if isinstance(self._pay(job), Job):
                self._paid.append(job.job_id)

    def _pay(self, job: Job) -> Any:
        return self._do(
            "pay",
            lambda _: self._client.transition(job.job_id, "running", expected_version=job.version),
            is_tagged=False,
        )

    def _create_by_hand(self) -> None:
        def create(tag: str) -> Job:
            return self._client.create(input=f"for {tag}", queue=HANDS, meta=tag)

        job = self._do("create", create)
        if isinstance(job, Job) and isinstance(paid := self._pay(job), Job):
            self._by_hand.append(paid)

    def _create_many(self) -> None:
        def create(tag: str) -> Any:
            rows = [{"input": f"one {tag}", "meta": tag}, {"input": "two"}, {"input": "three"}]
            try:
                return self._client.create_many(rows)[0]
            except BatchError as fault:
                first = fault.results[0] if fault.results else OutcomeUnknown("none came back")
                if isinstance(first, Exception):
                    raise first from None
                return first

        self._do("create many", create)

    def _annotate(self) -> None:
        if self._jobs:
            job = self._random.choice(self._jobs)
            self._do("annotate", lambda tag: self._client.annotate(job.job_id, tag))

    def _hold(self) -> None:
        if self._by_hand:
            job = self._random.choice(self._by_hand)
            self._do("hold", lambda tag: self._client.hold(job.job_id, reason=tag), may_repeat=True)

    def _resume(self) -> None:
        if self._by_hand:
            job = self._random.choice(self._by_hand)
            self._do("resume", lambda _: self._client.resume(job.job_id), is_tagged=False)

    def _request_stop(self) -> None:
        if self._by_hand:
            job = self._random.choice(self._by_hand)
            self._do(
                "request stop",
                lambda tag: self._client.request_stop(job.job_id, reason=tag),
                may_repeat=True,
            )

    def _cancel(self) -> None:
        if self._by_hand:
            job = self._random.choice(self._by_hand)
            self._do("cancel", lambda _: self._client.cancel(job.job_id), is_tagged=False)

    def _get(self) -> None:
        if self._jobs:
            job = self._random.choice(self._jobs)
            self._do("get", lambda _: self._client.get(job.job_id), is_tagged=False)

    def _wait(self) -> None:
        if self._paid:
            job_id = self._random.choice(self._paid)
            wait_s = self._random.choice((0.0, 0.1, 1.0))
            self._do("wait", lambda _: self._client.wait(job_id, timeout_s=wait_s), is_tagged=False)

    def _claim(self) -> None:
        leases = self._do(
            "claim",
            lambda _: self._client.claim(
                "running",
                queue=HANDS,
                lease_ms=self._random.choice((300, 3_000)),
                wait_ms=self._random.choice((0, 50, 1_000)),
                limit=2,
            ),
            is_tagged=False,
        )
        if isinstance(leases, list):
            self._leases.extend(leases)

    def _use_lease(self) -> None:
        if not self._leases:
            return
        lease = self._leases.popleft()
        job_id, token = lease.job.job_id, lease.token
        chance = self._random.random()
        if chance < 0.25:
            self._do("release", lambda _: self._client.release(job_id, token), is_tagged=False)
        elif chance < 0.4:
            self._do("touch", lambda _: self._client.touch(job_id, token), is_tagged=False)
            self._leases.append(lease)
        else:
            self._do(
                "complete",
                lambda tag: self._client.transition(job_id, "completed", result=tag, lease=token),
            )

    def _ask(self) -> None:
        if self._by_hand:
            job = self._by_hand.popleft()

            def ask(tag: str) -> Job:
                schema = f'{{"type": "string", "title": "{tag}"}}'
                return self._client.transition(
                    job.job_id, "awaiting_input", input_schema=schema, expected_version=job.version
                )

            asked = self._do("ask", ask)
            self._by_hand.append(asked if isinstance(asked, Job) else job)

    def _answer(self) -> None:
        asked = [job for job in self._by_hand if str(job.status) == "awaiting_input"]
        if asked:
            job = self._random.choice(asked)
            answered = self._do(
                "answer",
                lambda tag: self._client.provide_input(
                    job.job_id, tag, expected_version=job.version
                ),
            )
            if isinstance(answered, Job):
                self._by_hand.remove(job)
                self._by_hand.append(answered)

    # --- the log ----------------------------------------------------------------------------------

    def _do(
        self,
        kind: str,
        send: Callable[[str], Any],
        *,
        is_tagged: bool = True,
        may_repeat: bool = False,
    ) -> Any:
        """Send an operation, and write down how it ended. Return its answer, or None.

        `may_repeat`: it is acknowledged, too, if there was nothing to change.
        """
        if self._stopping:
            return None
        self._count += 1
        tag = f"{self._prefix}-{self._count};"
        is_tagged = is_tagged and not may_repeat
        self._log.write(Operation(tag, kind, Outcome.BEGUN, time.monotonic(), is_tagged))
        answer: Any = None
        fault: Exception | None = None
        try:
            answer = send(tag)
            outcome = Outcome.ACKNOWLEDGED
        except OutcomeUnknown as error:
            outcome, fault = Outcome.UNKNOWN, error
        except (BrokerUnreachableError, ClientClosedError) as error:
            outcome, fault = Outcome.NOT_DONE, error
        except (InternalError, MalformedError):
            raise
        except Refusal as error:
            outcome, fault = Outcome.REFUSED, error
        ended = Operation(tag, kind, outcome, time.monotonic(), is_tagged)
        if fault is not None:
            ended.message = f"{type(fault).__name__}: {fault}"
        if isinstance(answer, Job):
            ended.job, ended.meta = of_job(answer), answer.meta  # type: ignore[arg-type] # alike
        elif isinstance(answer, list):
            ended.leases = [[lease.job.job_id, lease.token] for lease in answer]
        self._log.write(ended)
        return answer


def main() -> None:
    name, life, endpoint, log, seed = sys.argv[1:]
    configure("debug")
    producer = Producer(name, int(life), endpoint, Path(log), int(seed))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: producer.stop())
    producer.run()


if __name__ == "__main__":
    main()
