"""Is the producer: creates the planned jobs at their pace and follows each of them to its end."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from tollgate.client.sync import Client
from tollgate.demo.plan import PAY_WITHIN_S, TIME_LIMIT_S, PlannedJob
from tollgate.demo.processes import Processes
from tollgate.demo.progress import Progress
from tollgate.demo.summary import Summary, sum_up
from tollgate.domain.exceptions import WaitTimeoutError

T = TypeVar("T")

FRAME_S: Final = 0.1
WAITED_FOR_MAX: Final = 1_000
"""So many jobs can be waited for at once."""


class Run:
    """One run: a loop of creating what is due, counting, showing, and waiting for an end."""

    def __init__(
        self, client: Client, plan: Sequence[PlannedJob], processes: Processes, progress: Progress
    ) -> None:
        """Run `plan` against the broker that `client` talks to."""
        self._client = client
        self._processes = processes
        self._progress = progress
        self._to_create = deque(plan)
        self._open: dict[str, None] = {}
        self._ids = [planned.job_id for planned in plan]

    def go(self, *shows: Callable[[Progress], None]) -> None:
        """Run until every job has ended, or time is up; call `shows` for every frame."""
        started = time.monotonic()
        progress = self._progress
        progress.phase = "running"
        while self._to_create or self._open:
            progress.elapsed_s = time.monotonic() - started
            if progress.elapsed_s > TIME_LIMIT_S:
                break
            self._processes.check()
            self._create_what_is_due()
            self._count()
            for show in shows:
                show(progress)
            self._follow(started + progress.elapsed_s + FRAME_S)
        progress.elapsed_s = time.monotonic() - started
        progress.phase = "done"
        self._count()
        for show in shows:
            show(progress)

    def summary(self) -> Summary:
        """Read all jobs back from the broker and sum up what became of them."""
        return sum_up(self._ids, self._client.list(), self._progress)

    def _create_what_is_due(self) -> None:
        while self._to_create and self._to_create[0].due_s <= self._progress.elapsed_s:
            self._create(self._to_create.popleft())

    def _create(self, planned: PlannedJob) -> None:
        start_job = planned.start_job
        create = partial(
            self._client.create,
            start_job.hash,
            input=start_job.text,
            identifier_from_purchaser=start_job.identifier_from_purchaser,
            job_id=planned.job_id,
            pay_by_time=datetime.now(UTC) + timedelta(seconds=PAY_WITHIN_S),
        )
        self._timed(create)
        self._open[planned.job_id] = None
        self._progress.created += 1

    def _count(self) -> None:
        self._progress.by_status = self._timed(self._client.count).by_status

    def _timed(self, ask: Callable[[], T]) -> T:
        started = time.perf_counter()
        answer = ask()
        self._progress.round_trips_ms.append((time.perf_counter() - started) * 1_000)
        return answer

    def _follow(self, until: float) -> None:
        """Note which jobs end, until it is time for the next frame."""
        while (left_s := until - time.monotonic()) > 0:
            if not self._open:
                time.sleep(left_s)
                return
            try:
                job = self._client.wait([*self._open][:WAITED_FOR_MAX], timeout_s=left_s)
            except WaitTimeoutError:
                return
            del self._open[job.job_id]
            self._progress.add_ended(job)
