"""The producer of a demonstration: creates the jobs at their pace and follows each to its end."""

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
from tollgate.domain.exceptions import WaitTimeoutError

T = TypeVar("T")

FRAME_S: Final = 0.1
WAITED_FOR_MAX: Final = 1_000
"""Most jobs that one `wait` takes."""


class Run:
    """One run: a loop that creates what is due, counts, shows, and waits for a job's end."""

    def __init__(
        self, client: Client, plan: Sequence[PlannedJob], processes: Processes, progress: Progress
    ) -> None:
        """Run `plan` against the broker that `client` talks to."""
        self._client = client
        self._processes = processes
        self._progress = progress
        self._to_create = deque(plan)
        self._open: dict[str, None] = {}

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
            while self._to_create and self._to_create[0].due_s <= progress.elapsed_s:
                self._create(self._to_create.popleft())
            self._show(shows)
            self._follow(started + progress.elapsed_s + FRAME_S)
        progress.elapsed_s = time.monotonic() - started
        progress.phase = "done"
        self._show(shows)

    def _create(self, planned: PlannedJob) -> None:
        start_job = planned.start_job
        self._timed(
            partial(
                self._client.create,
                start_job.hash,
                input=start_job.text,
                identifier_from_purchaser=start_job.identifier_from_purchaser,
                job_id=planned.job_id,
                pay_by_time=datetime.now(UTC) + timedelta(seconds=PAY_WITHIN_S),
            )
        )
        self._open[planned.job_id] = None
        self._progress.created += 1

    def _show(self, shows: Sequence[Callable[[Progress], None]]) -> None:
        self._progress.by_status = self._timed(self._client.count).by_status
        for show in shows:
            show(self._progress)

    def _timed(self, ask: Callable[[], T]) -> T:
        started = time.perf_counter()
        answer = ask()
        self._progress.round_trips_ms.append((time.perf_counter() - started) * 1_000)
        return answer

    def _follow(self, until: float) -> None:
        """Record the jobs that end, until the next frame is due."""
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
