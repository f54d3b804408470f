"""Producers of all systems: each enqueues jobs and reads their results, in a separate process."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from benchmarks.processes import Missing
from benchmarks.work import INPUT_HASH

WAIT_S_MAX: Final = 120
CHUNK: Final = 1_000
CONCURRENCY: Final = 512
POLL_S: Final = 0.002


class Driver:
    """A producer of one system, whose server listens on `socket`."""

    name = ""
    library = ""
    in_redis = True
    module = ""
    settings = ""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def connect(self) -> None:
        """Load the library and connect."""
        raise NotImplementedError

    def burst(self, jobs: int) -> None:
        """Enqueue `jobs` jobs, and return when all their results are read."""
        raise NotImplementedError

    def single(self) -> None:
        """Enqueue one job, and return when its result is read."""
        self.burst(1)

    def worker(self) -> Sequence[str]:
        """Return the command that starts its worker."""
        raise NotImplementedError


def script(name: str) -> str:
    """Return the path of a library's command in this environment. Raises Missing."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise Missing(f"{name} is not installed")
    return str(path)


class Tollgate(Driver):
    """Creates jobs and moves them to running, as a confirmed payment does; a worker runs them.

    A single job is created, moved and waited for by one call after the other.
    """

    name = "tollgate"
    library = "tollgate"
    in_redis = False
    concurrency = CONCURRENCY
    settings = (
        f"worker --concurrency {CONCURRENCY}, async handler; broker --in-memory; AsyncClient:"
        " create_many, batch(), wait; a single job by create, transition, wait"
    )

    def connect(self) -> None:
        import tollgate  # noqa: PLC0415 - in the producer's process alone

        self._running = tollgate.JobStatus.RUNNING
        self._completed = tollgate.JobStatus.COMPLETED
        endpoint = f"ipc://{self.socket}"
        self._client = tollgate.connect(endpoint, timeout_s=WAIT_S_MAX)
        self._many = tollgate.AsyncClient(endpoint, timeout_s=WAIT_S_MAX)
        self._loop = asyncio.Runner()
        self._loop.run(self._many.ping())

    def burst(self, jobs: int) -> None:
        self._loop.run(self._burst(jobs))

    async def _burst(self, jobs: int) -> None:
        """Enqueue two chunks at a time, while the results of earlier chunks come in."""
        enqueuing = asyncio.Semaphore(2)
        async with asyncio.TaskGroup() as chunks:
            for start in range(0, jobs, CHUNK):
                await enqueuing.acquire()
                size = min(CHUNK, jobs - start)
                chunks.create_task(self._chunk(size, enqueuing))

    async def _chunk(self, size: int, enqueuing: asyncio.Semaphore) -> None:
        created = await self._many.create_many([INPUT_HASH] * size)
        pending = [job.job_id for job in created]
        batch = self._many.batch()
        for job_id in pending:
            batch.transition(job_id, self._running)
        await batch.send()
        enqueuing.release()
        while pending:
            await self._many.wait(pending[-1], timeout_s=WAIT_S_MAX)
            batch = self._many.batch()
            for job_id in pending:
                batch.get(job_id)
            pending = [job.job_id for job in await batch.send() if job.status != self._completed]

    def single(self) -> None:
        job = self._client.create(INPUT_HASH)
        self._client.transition(job.job_id, self._running)
        self._client.wait(job.job_id, timeout_s=WAIT_S_MAX)

    def worker(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "tollgate.worker", "--endpoint", f"ipc://{self.socket}",
            "--handler", "benchmarks.peers.empty:answer", "--concurrency", str(self.concurrency),
            "--log-level", "warning",
        ]  # fmt: skip


class Tollgate1(Tollgate):
    """A worker with one slot, as huey with one thread."""

    name = "tollgate, concurrency 1"
    concurrency = 1
    settings = "worker --concurrency 1; a single job by create, transition, wait"


class Tollgate8(Tollgate):
    """A worker with eight slots."""

    name = "tollgate, concurrency 8"
    concurrency = 8
    settings = "worker --concurrency 8; a single job by create, transition, wait"


class TollgateTogether(Tollgate):
    """Sends what belongs together in one batch: a job is created, moved and waited for."""

    def single(self) -> None:
        batch = self._client.batch()
        job_id = str(uuid4())
        batch.create(INPUT_HASH, job_id=job_id)
        batch.transition(job_id, self._running)
        batch.wait(job_id, timeout_s=WAIT_S_MAX)
        batch.send()


class TollgateTogether1(TollgateTogether):
    name = "tollgate, concurrency 1, one message"
    concurrency = 1
    settings = "worker --concurrency 1; a single job by a batch of create, transition and wait"


class TollgateTogether8(TollgateTogether):
    name = "tollgate, concurrency 8, one message"
    concurrency = 8
    settings = "worker --concurrency 8; a single job by a batch of create, transition and wait"


class Celery(Driver):
    name = "Celery"
    library = "celery"
    settings = "--pool solo, prefetch multiplier 128, no gossip, mingle, heartbeat or events"

    def connect(self) -> None:
        from benchmarks.peers.celery_app import answer  # noqa: PLC0415 - reads BENCH_SOCKET

        self._answer = answer

    def burst(self, jobs: int) -> None:
        results = [self._answer.delay(number) for number in range(jobs)]
        for result in results:
            result.get(timeout=WAIT_S_MAX)

    def worker(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_app", "worker",
            "--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat",
            "--loglevel", "warning",
        ]  # fmt: skip


class Rq(Driver):
    name = "RQ"
    library = "rq"
    settings = "Worker, a process forked for each job, tasks loaded before; enqueue_many"
    kind: tuple[str, ...] = ()

    def connect(self) -> None:
        from rq import Queue  # noqa: PLC0415 - in the producer's process alone

        from benchmarks.peers import rq_app  # noqa: PLC0415

        self._task = rq_app.answer
        self._redis = rq_app.connection()
        self._queue = Queue(connection=self._redis)

    def burst(self, jobs: int) -> None:
        prepared = [self._queue.prepare_data(self._task, (number,)) for number in range(jobs)]
        for job in self._queue.enqueue_many(prepared):
            if job.latest_result(timeout=WAIT_S_MAX) is None:
                raise RuntimeError("an RQ job has no result")

    def worker(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.peers.rq_app", *self.kind]


class RqSimple(Rq):
    name = "RQ SimpleWorker"
    settings = "SimpleWorker, which does not fork (its documentation advises against it)"
    kind = ("simple",)


class Dramatiq(Driver):
    name = "Dramatiq"
    library = "dramatiq"
    settings = "1 process, 8 threads (its default), results in Redis"

    def connect(self) -> None:
        import dramatiq  # noqa: PLC0415 - in the producer's process alone

        from benchmarks.peers.dramatiq_app import answer  # noqa: PLC0415 - reads BENCH_SOCKET

        self._group = dramatiq.group
        self._answer = answer

    def burst(self, jobs: int) -> None:
        group = self._group([self._answer.message(number) for number in range(jobs)]).run()
        for _ in group.get_results(block=True, timeout=WAIT_S_MAX * 1_000):
            pass

    def worker(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "dramatiq", "benchmarks.peers.dramatiq_app",
            "--processes", "1", "--threads", "8",
        ]  # fmt: skip


class Huey(Driver):
    name = "huey"
    library = "huey"
    threads = 1
    settings = "1 thread, blocking pop, notify_result"

    def connect(self) -> None:
        from benchmarks.peers.huey_app import answer  # noqa: PLC0415 - reads BENCH_SOCKET

        self._answer: Any = answer

    def burst(self, jobs: int) -> None:
        results = [self._answer(number) for number in range(jobs)]
        for result in results:
            result.get(blocking=True, timeout=WAIT_S_MAX)

    def worker(self) -> Sequence[str]:
        return [
            sys.executable, script("huey_consumer"), "benchmarks.peers.huey_app.huey",
            "--workers", str(self.threads), "--worker-type", "thread", "--no-periodic", "--quiet",
        ]  # fmt: skip


class Huey8(Huey):
    name = "huey, 8 threads"
    threads = 8
    settings = "8 threads, blocking pop, notify_result"


class Beanstalkd(Driver):
    name = "beanstalkd"
    library = "greenstalk"
    in_redis = False
    settings = "no log on disk; has no results: a burst ends when the queue is empty, and a single"
    settings += " job is answered in another tube"

    def connect(self) -> None:
        import greenstalk  # noqa: PLC0415 - in the producer's process alone

        from benchmarks.peers.beanstalk_worker import ANSWER  # noqa: PLC0415

        self._client = greenstalk.Client(self.socket, watch="done")
        self._answer = ANSWER

    def burst(self, jobs: int) -> None:
        put = self._client.put
        for number in range(jobs):
            put(str(number))
        while self._left():
            time.sleep(POLL_S)

    def single(self) -> None:
        self._client.put(self._answer)
        self._client.delete(self._client.reserve(timeout=WAIT_S_MAX))

    def worker(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.peers.beanstalk_worker"]

    def _left(self) -> int:
        stats = self._client.stats_tube("default")
        return int(stats["current-jobs-ready"]) + int(stats["current-jobs-reserved"])


def environment(socket: str) -> dict[str, str]:
    """Return the environment that names the server to a worker or a producer."""
    return {"BENCH_SOCKET": socket}


def prepare(driver: Driver) -> None:
    """Connect a producer, in the process in which it runs."""
    os.environ.update(environment(driver.socket))
    driver.connect()
    driver.single()
