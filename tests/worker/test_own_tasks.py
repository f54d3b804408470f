"""The worker's own task in its loop, which no handler ends."""

import asyncio
import signal
import sys
import threading

import tollgate
from tests.worker.house import PATIENCE_S, House, paid
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.testing import Broker


async def exits() -> None:
    sys.exit("from a task")


def test_a_task_of_a_handler_that_exits_fails_its_job(
    tollgate_broker: Broker, tollgate_client: Client
) -> None:
    async def handler(job: Job) -> str:
        if job.input == "exit":
            await asyncio.gather(exits())
        await asyncio.sleep(0.2)
        return "done"

    jobs = [tollgate_broker.pay(tollgate_client.create(input=each)) for each in ("exit", "wait")]
    tollgate_broker.drain(handler, max_attempts=1)
    exited, waited = (tollgate_client.get(each.job_id) for each in jobs)
    assert exited.error == "SystemExit: from a task"
    assert waited.result == "done"


def test_a_task_of_a_handler_that_interrupts_fails_its_job(
    tollgate_broker: Broker, tollgate_client: Client
) -> None:
    """What a task raises so is no Ctrl-C: that is a signal, which `run` takes."""

    async def interrupts() -> None:
        raise KeyboardInterrupt

    async def handler(job: Job) -> str:
        if job.input == "interrupt":
            await asyncio.gather(interrupts())
        return "done"

    worker = tollgate.Worker(handler, tollgate_broker.endpoint, max_attempts=1, jobs=2)
    thread = threading.Thread(target=worker.run)
    thread.start()
    jobs = [
        tollgate_broker.pay(tollgate_client.create(input=each)) for each in ("interrupt", "next")
    ]
    interrupted, other = (tollgate_client.wait(job.job_id, timeout_s=PATIENCE_S) for job in jobs)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert interrupted.error == "KeyboardInterrupt"
    assert other.result == "done"


def test_a_handler_that_cancels_all_does_not_end_the_grace(
    tollgate_broker: Broker, tollgate_client: Client
) -> None:
    begun = threading.Semaphore(0)

    async def handler(job: Job, ctx: tollgate.AsyncContext) -> str:
        begun.release()
        while not ctx.worker_stopping:  # noqa: ASYNC110 - a handler as users write it
            await asyncio.sleep(0.01)
        if job.input == "cancels":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        else:
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                await asyncio.sleep(0.6)  # longer than cancelled handlers have after the grace
        return "done"

    jobs = [
        tollgate_broker.pay(tollgate_client.create(input=each)) for each in ("goes on", "cancels")
    ]
    worker = tollgate.Worker(handler, tollgate_broker.endpoint)
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert begun.acquire(timeout=PATIENCE_S)
    assert begun.acquire(timeout=PATIENCE_S)
    worker.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert [tollgate_client.get(each.job_id).result for each in jobs] == ["done", "done"]


def test_ctrl_c_in_a_drain_frees_its_jobs(house: House) -> None:
    house.broker()
    with Client(house.endpoint) as client:
        job = paid(client, "a")
        program = house.script(
            "import tollgate, handlers\ntollgate.Worker(handlers.hangs_later).drain()\n"
        )
        house.until_begun(job)
        program.send_signal(signal.SIGINT)
        program.wait(PATIENCE_S)
        assert "KeyboardInterrupt" in program.log
        (lease,) = client.claim("running")
        assert lease.job.attempts == 0
