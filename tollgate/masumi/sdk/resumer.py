"""Lets the web processes of an SDK agent share its work: what one leaves, another one goes on with.

The SDK (`masumi` 1.2.0) keeps in the memory of a process: which payments it watches, which handlers
run, and which of them wait for a human. Here, each of these has a lease at the broker:

    awaiting_payment  the process that created the job watches its payment. If it dies, another
                      one claims the job, and watches with a new `Payment` of the SDK.
    running           a process claims the job, and calls the handler. So do those that start fresh:
                      there is one way into a handler, and it is a claim.
    awaiting_input    the lease stands, and the handler goes on when any process got the answer.
    completed         the result is stored first. Then its hash is submitted, and looked for until
                      it is on chain: its settlement is claimed too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, Final

from tollgate.client.results import Lease
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.status import COMPLETED, FAILED, RUNNING
from tollgate.masumi.api import PaymentService
from tollgate.masumi.rounds import Rounds
from tollgate.masumi.sdk.fields import SdkJob, read
from tollgate.masumi.sdk.leases import Held, LeaseKeeper
from tollgate.masumi.sdk.questions import Questions
from tollgate.masumi.sdk.unpaid_jobs import UnpaidJobs
from tollgate.masumi.sdk.web_process import Run, Settings, WebProcess, cancel, current_run
from tollgate.masumi.submissions import Submissions

log = logging.getLogger("tollgate.masumi")

FAULT_S: Final = 30.0
"""How long to wait after an error that another try would probably meet again."""
ENDED_S: Final = 5.0
"""How long a job is left alone whose handler ended without an end of the job."""
GIVE_BACK_S: Final = 5.0
"""How long a stop waits until all leases are given back."""
LOOK_S: Final = 0.02
RECOVERIES_MAX: Final = 3
CALL_S: Final = 10.0
"""The longest time of one call of the payment service."""
STALE: Final = 4
"""A claim that took longer than this part of the lease is given back."""
FINAL: Final = frozenset({COMPLETED.value, FAILED.value})


class Resumer:
    """Takes the place of those methods of an SDK server that keep jobs in memory."""

    def __init__(self, server: Any, settings: Settings) -> None:  # noqa: ANN401 - as `resume`
        """Change the server, whose storage is a `TollgateJobStorage`."""
        self._process = process = WebProcess(server, settings)
        self._server, self._manager = process.server, process.manager
        self._storage, self._settings = process.storage, settings
        self._unpaid = UnpaidJobs(process, self.start, self._hint)
        self._questions = Questions(process)
        self._runs: dict[str, Run] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs = Rounds("jobs", self._claim_running, settings.poll_s)
        self._proofs: Rounds | None = None
        self._rounds: list[Rounds] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stops = False
        self._service: PaymentService | None = None
        manager, handler = process.manager, server.handler
        self._get_job = manager.get_job
        self._update_status = manager.update_job_status
        self._set_completed = manager.set_job_completed
        self._start_handler = handler.get_start_job_handler
        manager.create_job = self._unpaid.created
        manager.get_job = self._read
        manager.update_job_status = self._moved
        manager.set_job_completed = self._completed
        manager.set_job_awaiting_input = self._questions.asked
        manager.resume_job_with_input = self._questions.answered
        handler.get_start_job_handler = self._calling
        handler.get_provide_input_handler = self._questions.answering
        server._handle_payment_confirmed = self._unpaid.paid  # noqa: SLF001 - there is no other way
        process.storage.settles = True
        router = server.app.router
        self._lifespan = router.lifespan_context
        router.lifespan_context = self._with_lifespan

    # --- from start to stop -----------------------------------------------------------------------

    @asynccontextmanager
    async def _with_lifespan(self, app: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - starlette's
        async with self._lifespan(app) as state:
            await self.start()
            try:
                yield state
            finally:
                await self.stop()

    async def start(self) -> None:
        """Begin to take jobs, in the running event loop; a second call does nothing."""
        if self._loop is not None:
            return
        self._loop, self._stops = asyncio.get_running_loop(), False
        settings, server = self._settings, self._server
        if self._process.keeper is not None:
            self._return_to(self._process.keeper)
        keeper = LeaseKeeper(self._storage.thread_client, settings.lease_ms, self._tell_of_loss)
        keeper.start()
        self._process.keeper, self._storage.tokens = keeper, keeper.tokens
        unpaid_s = max(settings.poll_s, settings.lease_ms / 3_000)
        self._jobs = Rounds("jobs", self._claim_running, settings.poll_s)
        self._rounds = [self._jobs, Rounds("unpaid jobs", self._unpaid.claim, unpaid_s)]
        if settings.prove:
            config = server.config
            self._service = PaymentService(
                config.payment_service_url,
                config.payment_api_key,
                server.network,
                timeout_s=CALL_S,
            )
            proofs = Submissions(
                self._storage.client(),
                self._service,
                form="escaped",
                recoveries_max=RECOVERIES_MAX,
                poll_s=settings.proof_poll_s,
                call_s=CALL_S,
                queue=self._storage.queue,
            )
            self._proofs = Rounds("proofs", proofs.round, settings.poll_s)
            self._rounds.append(self._proofs)
        self._tasks = [asyncio.create_task(self._work(each)) for each in self._rounds]

    def _return_to(self, keeper: LeaseKeeper) -> None:
        """Let the jobs that an earlier stop has put off be begun again, once their calls are over.

        An app may be started again in its process: tests and notebooks do that.
        """
        for held in keeper.all():
            run = self._runs.get(held.job_id)
            if run is None or run.task is None or run.task.get_loop().is_closed():
                self._runs.pop(held.job_id, None)
                keeper.drop(held)
            else:
                run.task.add_done_callback(partial(_drop, keeper, held))

    def _hint(self) -> None:
        self._jobs.hint()

    async def _work(self, rounds: Rounds) -> None:
        while self._loop is not None:
            try:
                await rounds.run()
            except Exception:  # a key without the role, for example, which an operator may replace
                log.exception("trying again in %g s", FAULT_S)
                await asyncio.sleep(FAULT_S)
            else:
                return

    async def stop(self) -> None:
        """End all handlers, and give back their jobs.

        A handler may have left a thread that goes on. So no other process begins a running job
        until this one is gone, and a bit longer: see `LeaseKeeper.leave`.
        """
        keeper = self._process.keeper
        if self._loop is None or keeper is None:
            return
        for each in self._rounds:
            each.stop()
        self._stops = True
        runs = [run.task for run in self._runs.values() if run.task is not None]
        for task in runs:
            task.cancel()
        # A claim is not cancelled: the lease that it may have been granted would lapse.
        _, late = await asyncio.wait([*self._tasks, *runs], timeout=self._settings.stop_grace_s)
        for task in late:
            task.cancel()
        self._unpaid.stop()
        keeper.leave()
        with suppress(TimeoutError):  # the broker is away: the thread goes on trying
            async with asyncio.timeout(GIVE_BACK_S):
                while not keeper.has_left():  # noqa: ASYNC110 - a thread does it
                    await asyncio.sleep(LOOK_S)
        if not keeper.all():
            keeper.close()
        if self._service is not None:
            await self._service.close()
        await self._storage.close()
        self._loop = None

    # --- handlers ---------------------------------------------------------------------------------

    async def _claim_running(self) -> bool:
        """Take one job; return whether there may be more.

        A claim never waits at the broker: while a handler blocks the event loop, no claim of this
        process is granted a job that it cannot begin.
        """
        busy = sum(1 for run in self._runs.values() if not run.asks)
        if busy >= self._settings.concurrency or self._process.leases().may_have_lapsed():
            return False  # a lapsed lease is for the lease thread to claim, and its handler goes on
        begun_at = monotonic()
        granted = await self._storage.client().claim(
            RUNNING, queue=self._storage.queue, lease_ms=self._settings.lease_ms
        )
        is_stale = (monotonic() - begun_at) * 1_000 > self._settings.lease_ms / STALE
        for lease in granted:
            # A handler may have blocked the loop, and the lease may have lapsed meanwhile.
            if is_stale or self._stops:
                with suppress(TollgateError):
                    await self._storage.client().release(lease.job.job_id, lease.token)
            else:
                await self._begin(lease)
        return bool(granted)

    async def _begin(self, lease: Lease) -> None:
        """Call the handler for a job, and return when it waits for something.

        Else the next claim would be under way while the handler blocks the loop.
        """
        before = self._runs.get(lease.job.job_id)
        if before is not None and self._process.leases().adopt(lease):
            return
        run = Run(self._process.leases().hold(lease, works=True), asyncio.Event())
        self._runs[lease.job.job_id] = run
        run.task = asyncio.create_task(self._execute(run, before))
        if before is not None:
            cancel(before.task)
            return  # it begins when the earlier call has ended
        begun = asyncio.create_task(run.begun.wait())
        await asyncio.wait([begun, run.task], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()

    async def _read(self, job_id: str) -> SdkJob | None:
        """Return a job; to a call of the handler that begins, with the input of the buyer alone.

        An answer to a question of an earlier call may have the name of a field of the input.
        """
        run = current_run.get()
        if run is None or run.job is None or run.begun.is_set():
            found: SdkJob | None = await self._get_job(job_id)
            return found
        return read(run.job.model_copy(update={"inputs": None, "provided_input": None}))

    def _calling(self) -> Any:  # noqa: ANN401 - a handler or None
        """Return the agent's handler; inside a run, one that says when it begins."""
        handler, run = self._start_handler(), current_run.get()
        if handler is None or run is None:
            return handler

        async def handle(identifier: str, input_data: Any) -> Any:  # noqa: ANN401 - the SDK's
            if self._process.leases().holder(run.held.job_id) is not run.held:
                raise asyncio.CancelledError("the lease was lost")
            run.begun.set()
            try:
                return await handler(identifier, input_data)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # A task that it awaited was cancelled. The SDK would leave the job as it is.
                raise RuntimeError("the handler awaited something that was cancelled") from None

        return handle

    async def _execute(self, run: Run, before: Run | None) -> None:
        """Have the SDK call the handler, and see that the job has ended after that."""
        held, job_id = run.held, run.held.job_id
        current_run.set(run)
        try:
            if before is not None and before.task is not None:  # its lease was lost
                await asyncio.wait([before.task])
            run.job = await self._process.patient(lambda: self._storage.job(job_id))
            try:
                await self._server._execute_agent_job(job_id)  # noqa: SLF001
            except Exception:
                log.exception(
                    "job %s: its handler could not be called", job_id, extra=held.log_fields
                )
            await self._let_go(held)
        except Exception:
            log.exception("job %s: its lease is left to lapse", job_id, extra=held.log_fields)
            self._process.leases().drop(held)
        finally:
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
                self._questions.forget(job_id)
            self._hint()

    async def _let_go(self, held: Held) -> None:
        """Drop the lease of a job that has ended; give back one that has not."""
        job = await self._process.patient(lambda: self._storage.job(held.job_id))
        if self._process.leases().holder(held.job_id) is not held:
            return
        self._process.leases().drop(held)
        if job is not None and job.status is RUNNING:
            log.error(
                "job %s: its handler is over, and the job could not be ended",
                held.job_id, extra=held.log_fields,
            )  # fmt: skip
            with suppress(TollgateError):
                await self._storage.client().release(
                    held.job_id, held.token, delay_s=ENDED_S, reason="its end could not be stored"
                )

    def _tell_of_loss(self, held: Held) -> None:
        """Pass on, from the lease thread, that a lease is lost."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._lose, held)

    def _lose(self, held: Held) -> None:
        if not held.works:
            self._unpaid.stop_watching(held.job_id)
            return
        run = self._runs.get(held.job_id)
        if run is not None and not held.is_ending:
            log.warning(
                "job %s: its lease is lost, and its handler is ended here",
                held.job_id, extra=held.log_fields,
            )  # fmt: skip
            cancel(run.task)

    # --- changes ----------------------------------------------------------------------------------

    async def _moved(self, job_id: str, status: str, **fields: Any) -> None:  # noqa: ANN401
        """Store a status. That of a job whose handler runs here is stored however long it takes."""
        held = self._process.keeper.holder(job_id) if self._process.keeper is not None else None
        if held is None or not held.works:
            await self._update_status(job_id, status, **fields)
            return
        held.is_ending = getattr(status, "value", status) in FINAL
        try:
            await self._process.persist(held, {"status": status, **fields})
        except BaseException:
            held.is_ending = False
            raise
        if held.is_ending:
            self._process.leases().drop(held)

    async def _completed(self, job_id: str, result: str) -> None:
        """Store the result, and then have its hash submitted.

        The SDK submits first. A kill in between then leaves a hash on chain whose result is lost,
        and the next run of the handler may have another result.
        """
        await self._manager.update_job_status(job_id, COMPLETED.value, result=result)
        job = await self._process.patient(lambda: self._storage.job(job_id))
        if job is None or job.settlement is not None:
            if self._proofs is not None:
                self._proofs.hint()
            return
        self._unpaid.payment_of(job)  # a job from before `resume`: as the SDK does
        await self._set_completed(job_id, result)


def _drop(keeper: LeaseKeeper, held: Held, _: object) -> None:
    keeper.drop(held)
