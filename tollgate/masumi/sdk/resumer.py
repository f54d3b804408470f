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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any, Final

import msgspec

from tollgate.client.errors import ClientClosedError, may_pass
from tollgate.client.results import Lease
from tollgate.domain.exceptions import LeaseLostError, TollgateError
from tollgate.domain.models import Job
from tollgate.domain.results import InputRound
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, COMPLETED, FAILED, RUNNING
from tollgate.job_log import log_fields
from tollgate.masumi.api import PaymentService
from tollgate.masumi.rounds import Rounds
from tollgate.masumi.sdk.fields import SdkJob, canonical, parsed, read
from tollgate.masumi.sdk.leases import Held, LeaseKeeper
from tollgate.masumi.sdk.storage import TollgateJobStorage
from tollgate.masumi.submissions import Submissions

log = logging.getLogger("tollgate.masumi")

WATCHED: Final = 50
"""Jobs without a payment that are taken over at once."""
AGAIN_S: Final = 0.5
"""How long to wait before a broker that is away is asked again."""
FAULT_S: Final = 30.0
"""How long to wait after an error that another try would probably meet again."""
REGAINS: Final = 20
"""How often a change waits for a lease that lapsed to be granted again."""
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


class Settings(msgspec.Struct, frozen=True):
    """How a web process shares the work; see `resume`."""

    lease_ms: int
    concurrency: int
    poll_s: float
    payment_poll_s: int
    proof_poll_s: float
    prove: bool
    stop_grace_s: float


class Run(msgspec.Struct, eq=False):
    """A call of the handler."""

    held: Held
    begun: asyncio.Event
    """Set when the handler is called."""
    job: Job | None = None
    """The job when its lease was granted."""
    task: "asyncio.Task[None] | None" = None
    questions: int = 0
    """How many it has asked so far."""
    asks: bool = False
    """Whether it waits for an answer."""


_current: ContextVar[Run | None] = ContextVar("tollgate_masumi_run", default=None)
"""The run of the task."""


class Resumer:
    """Takes the place of those methods of an SDK server that keep jobs in memory."""

    def __init__(self, server: Any, settings: Settings) -> None:  # noqa: ANN401 - as `resume`
        """Change the server, whose storage is a `TollgateJobStorage`."""
        manager = server.job_manager
        storage: TollgateJobStorage = manager.storage
        self._server, self._manager, self._storage = server, manager, storage
        self._settings = settings
        self._hitl = import_module("masumi.hitl")
        self._payment_class = import_module("masumi.payment").Payment
        self._runs: dict[str, Run] = {}
        self._creations: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs = Rounds("jobs", self._claim_running, settings.poll_s)
        self._proofs: Rounds | None = None
        self._rounds: list[Rounds] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stops = False
        self._keeper: LeaseKeeper | None = None
        self._service: PaymentService | None = None
        self._create_job = manager.create_job
        self._get_job = manager.get_job
        self._update_status = manager.update_job_status
        self._set_completed = manager.set_job_completed
        self._set_awaiting_input = manager.set_job_awaiting_input
        self._start_handler = server.handler.get_start_job_handler
        self._provide_input_handler = server.handler.get_provide_input_handler
        manager.create_job = self._created
        manager.get_job = self._read
        manager.update_job_status = self._moved
        manager.set_job_completed = self._completed
        manager.set_job_awaiting_input = self._asked
        manager.resume_job_with_input = self._answered
        server.handler.get_start_job_handler = self._calling
        server.handler.get_provide_input_handler = self._answering
        server._handle_payment_confirmed = self._paid  # noqa: SLF001 - the SDK has no other way
        storage.settles = True
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
        if self._keeper is not None:
            self._return_to(self._keeper)
        self._keeper = LeaseKeeper(
            self._storage.thread_client, settings.lease_ms, self._tell_of_loss
        )
        self._keeper.start()
        self._storage.tokens = self._keeper.tokens
        unpaid_s = max(settings.poll_s, settings.lease_ms / 3_000)
        self._jobs = Rounds("jobs", self._claim_running, settings.poll_s)
        self._rounds = [self._jobs, Rounds("unpaid jobs", self._claim_unpaid, unpaid_s)]
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
        keeper = self._keeper
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
        for payment in self._manager._payment_instances.values():  # noqa: SLF001
            payment.stop_status_monitoring()
        self._manager._payment_instances.clear()  # noqa: SLF001
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

    def _leases(self) -> LeaseKeeper:
        if self._keeper is None:
            raise RuntimeError("the app has not started: call `await resumer.start()`")
        return self._keeper

    # --- payments ---------------------------------------------------------------------------------

    async def _created(self, *args: Any, **fields: Any) -> str:  # noqa: ANN401 - the SDK's
        """Create a job, and take the lease with which this process watches its payment."""
        await self.start()
        creation = asyncio.get_running_loop().create_future()
        self._creations.add(creation)
        try:
            job_id: str = await self._create_job(*args, **fields)
            granted: list[Lease] = []
            with suppress(TollgateError):  # else a later claim finds the job
                granted = await self._storage.client().claim(
                    AWAITING_PAYMENT, job_ids=job_id, lease_ms=self._settings.lease_ms
                )
            for lease in granted:
                self._leases().hold(lease, works=False)
            if self._leases().holder(job_id) is None:  # another process watches, or will
                payment = self._manager._payment_instances.pop(job_id, None)  # noqa: SLF001
                if payment is not None:
                    payment.start_status_monitoring = _do_nothing
            return job_id
        finally:
            self._creations.discard(creation)
            creation.set_result(None)

    async def _claim_unpaid(self) -> bool:
        """Watch the payments that a dead process watched; return whether there may be more."""
        granted = await self._storage.client().claim(
            AWAITING_PAYMENT,
            queue=self._storage.queue,
            lease_ms=self._settings.lease_ms,
            limit=WATCHED,
        )
        for lease in granted:
            self._leases().hold(lease, works=False)
        if granted and self._creations:  # perhaps of these jobs: then the SDK watches
            await asyncio.wait(set(self._creations))
        for lease in granted:
            if self._manager.get_payment_instance(lease.job.job_id) is None:
                await self._watch(lease.job)
        return len(granted) == WATCHED

    async def _watch(self, job: Job) -> None:
        payment = self._payment_of(job)
        if payment is None:
            log.warning(
                "job %s has no payment: nothing opens its gate", job.job_id, extra=log_fields(job)
            )
            return
        identifier = job.blockchain_identifier

        async def confirmed(_: object) -> None:
            await self._paid(job.job_id, identifier)

        log.info(
            "job %s: its payment is watched here from now on", job.job_id, extra=log_fields(job)
        )
        await payment.start_status_monitoring(
            callback=confirmed, interval_seconds=self._settings.payment_poll_s
        )

    def _payment_of(self, job: Job) -> Any:  # noqa: ANN401 - a `Payment`
        """Return the SDK's payment of a job, made anew if another process had it."""
        found = self._manager.get_payment_instance(job.job_id)
        fields = read(job)
        if found is not None or not fields["payment_id"]:
            return found
        payment = self._payment_class(
            agent_identifier=fields["agent_identifier"] or self._server.agent_identifier,
            config=self._server.config,
            network=self._server.network,
            identifier_from_purchaser=fields["identifier_from_purchaser"] or "",
        )
        payment.input_hash = fields["input_hash"]
        payment.payment_ids.add(fields["payment_id"])
        self._manager._payment_instances[job.job_id] = payment  # noqa: SLF001
        return payment

    async def _paid(self, job_id: str, payment_id: str) -> None:
        """Open the gate of a job whose funds are locked, if this process watches it."""
        held = self._leases().holder(job_id)
        if held is None or held.works:
            return
        self._stop_watching(job_id)
        log.info("job %s is paid (%.8s...)", job_id, payment_id, extra=held.log_fields)
        try:
            await self._persist(held, {"status": RUNNING.value})
        except (ValueError, TollgateError) as fault:
            log.warning(
                "job %s is paid, and does not run: %s", job_id, fault, extra=held.log_fields
            )
        self._leases().drop(held)
        self._jobs.hint()

    def _stop_watching(self, job_id: str) -> None:
        """End the SDK's monitor of a payment, but not its callback, which may be the caller."""
        payment = self._manager._payment_instances.pop(job_id, None)  # noqa: SLF001
        monitor = getattr(payment, "_status_check_task", None)
        if monitor is not None:
            monitor.cancel()
            payment._status_check_task = None  # noqa: SLF001

    # --- handlers ---------------------------------------------------------------------------------

    async def _claim_running(self) -> bool:
        """Take one job; return whether there may be more.

        A claim never waits at the broker: while a handler blocks the event loop, no claim of this
        process is granted a job that it cannot begin.
        """
        busy = sum(1 for run in self._runs.values() if not run.asks)
        if busy >= self._settings.concurrency or self._leases().may_have_lapsed():
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
        if before is not None and self._leases().adopt(lease):
            return
        run = Run(self._leases().hold(lease, works=True), asyncio.Event())
        self._runs[lease.job.job_id] = run
        run.task = asyncio.create_task(self._execute(run, before))
        if before is not None:
            _cancel(before.task)
            return  # it begins when the earlier call has ended
        begun = asyncio.create_task(run.begun.wait())
        await asyncio.wait([begun, run.task], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()

    async def _read(self, job_id: str) -> SdkJob | None:
        """Return a job; to a call of the handler that begins, with the input of the buyer alone.

        An answer to a question of an earlier call may have the name of a field of the input.
        """
        run = _current.get()
        if run is None or run.job is None or run.begun.is_set():
            found: SdkJob | None = await self._get_job(job_id)
            return found
        return read(run.job.model_copy(update={"inputs": None, "provided_input": None}))

    def _calling(self) -> Any:  # noqa: ANN401 - a handler or None
        """Return the agent's handler; inside a run, one that says when it begins."""
        handler, run = self._start_handler(), _current.get()
        if handler is None or run is None:
            return handler

        async def handle(identifier: str, input_data: Any) -> Any:  # noqa: ANN401 - the SDK's
            if self._leases().holder(run.held.job_id) is not run.held:
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
        _current.set(run)
        try:
            if before is not None and before.task is not None:  # its lease was lost
                await asyncio.wait([before.task])
            run.job = await self._patient(lambda: self._storage.job(job_id))
            try:
                await self._server._execute_agent_job(job_id)  # noqa: SLF001
            except Exception:
                log.exception(
                    "job %s: its handler could not be called", job_id, extra=held.log_fields
                )
            await self._let_go(held)
        except Exception:
            log.exception("job %s: its lease is left to lapse", job_id, extra=held.log_fields)
            self._leases().drop(held)
        finally:
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
                self._hitl._input_events.pop(job_id, None)  # noqa: SLF001 - of a question
            self._jobs.hint()

    async def _let_go(self, held: Held) -> None:
        """Drop the lease of a job that has ended; give back one that has not."""
        job = await self._patient(lambda: self._storage.job(held.job_id))
        if self._leases().holder(held.job_id) is not held:
            return
        self._leases().drop(held)
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
            self._stop_watching(held.job_id)
            return
        run = self._runs.get(held.job_id)
        if run is not None and not held.is_ending:
            log.warning(
                "job %s: its lease is lost, and its handler is ended here",
                held.job_id, extra=held.log_fields,
            )  # fmt: skip
            _cancel(run.task)

    # --- changes ----------------------------------------------------------------------------------

    async def _moved(self, job_id: str, status: str, **fields: Any) -> None:  # noqa: ANN401
        """Store a status. That of a job whose handler runs here is stored however long it takes."""
        held = self._keeper.holder(job_id) if self._keeper is not None else None
        if held is None or not held.works:
            await self._update_status(job_id, status, **fields)
            return
        held.is_ending = getattr(status, "value", status) in FINAL
        try:
            await self._persist(held, {"status": status, **fields})
        except BaseException:
            held.is_ending = False
            raise
        if held.is_ending:
            self._leases().drop(held)

    async def _persist(self, held: Held, updates: Mapping[str, Any]) -> None:
        regains = 0
        while True:
            try:
                await self._patient(
                    lambda: self._storage.change(held.job_id, updates, asked=held.rounds + 1)
                )
            except LeaseLostError:
                regains += 1
                if regains > REGAINS or self._leases().holder(held.job_id) is not held:
                    raise
                self._leases().wake()  # it lapsed, and may be had again
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _patient(self, call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Make a call until the broker answers. Raises what another try would meet again."""
        while True:
            try:
                return await call()
            except TollgateError as fault:
                if isinstance(fault, ClientClosedError) or not may_pass(fault):
                    raise
                log.debug("trying again: %s", fault)
                await asyncio.sleep(AGAIN_S)

    async def _completed(self, job_id: str, result: str) -> None:
        """Store the result, and then have its hash submitted.

        The SDK submits first. A kill in between then leaves a hash on chain whose result is lost,
        and the next run of the handler may have another result.
        """
        await self._manager.update_job_status(job_id, COMPLETED.value, result=result)
        job = await self._patient(lambda: self._storage.job(job_id))
        if job is None or job.settlement is not None:
            if self._proofs is not None:
                self._proofs.hint()
            return
        self._payment_of(job)  # a job from before `resume` has no settlement: as the SDK does
        await self._set_completed(job_id, result)

    # --- questions --------------------------------------------------------------------------------

    async def _asked(
        self,
        job_id: str,
        input_schema: Mapping[str, Any] | None = None,
        message: str | None = None,
    ) -> None:
        """Ask a human, and wait; or take what was asked and answered before a restart.

        After this, the SDK waits for an event of its own process, and goes on with the answer that
        is kept beside it. Both are set here, from the broker: `/provide_input` may be called in
        another process, and sets them so late that a later question may find them.
        """
        run = _current.get()
        if run is None:
            await self._set_awaiting_input(job_id, input_schema, message)
            return
        if self._leases().holder(job_id) is not run.held:
            raise asyncio.CancelledError("the lease was lost")
        rounds = await self._questions(job_id)
        number, run.questions = run.questions, run.questions + 1
        if number < len(rounds):
            before = rounds[number]
            schema = None if input_schema is None else canonical(input_schema)
            if before.text is not None and before.schema == schema:
                self._hitl.provide_input_to_job(job_id, _object(before.text))
                return
            log.warning(
                "job %s asks something else than in its last run: it is asked anew",
                job_id, extra=run.held.log_fields,
            )  # fmt: skip
        run.questions = len(rounds) + 1
        run.held.asks = True
        try:
            await self._set_awaiting_input(job_id, input_schema, message)
            run.held.rounds = run.questions
        finally:
            run.held.asks = False
        answer = await self._wait_for_answer(job_id, run)
        self._hitl.provide_input_to_job(job_id, _object(answer))

    async def _questions(self, job_id: str) -> Sequence[InputRound]:
        job = await self._patient(lambda: self._storage.job(job_id))
        return job.inputs or () if job is not None else ()

    async def _wait_for_answer(self, job_id: str, run: Run) -> str | None:
        """Return the answer to the last question, whichever process got it."""
        client = self._storage.client()
        run.asks = True
        try:
            await self._patient(lambda: client.wait(job_id, statuses=RUNNING))
            job = await self._patient(lambda: self._storage.job(job_id))
        finally:
            run.asks = False
        await self._make_sure(run.held)
        if job is None or job.status is not RUNNING:
            log.warning(
                "job %s ended while it asked: its handler is ended",
                job_id, extra=run.held.log_fields,
            )  # fmt: skip
            _cancel(run.task)
            raise asyncio.CancelledError("the job has ended")
        rounds = job.inputs or ()
        run.questions = run.held.rounds = len(rounds)
        return rounds[-1].text if rounds else None

    async def _make_sure(self, held: Held) -> None:
        """Return if the lease stands: one granted while the job asked has ended with the answer.

        Then another process may have the job now.
        """
        client, lease_ms = self._storage.client(), self._settings.lease_ms
        while self._leases().holder(held.job_id) is held:
            try:
                await self._patient(
                    lambda: client.touch(held.job_id, held.token, lease_ms=lease_ms)
                )
            except LeaseLostError:
                self._leases().wake()
                await asyncio.sleep(AGAIN_S)
            else:
                return
        raise asyncio.CancelledError("the lease was lost")

    async def _answered(self, job_id: str, input_data: Mapping[str, Any]) -> None:
        await self._storage.answer(job_id, input_data)
        self._forget_answer(job_id)

    def _forget_answer(self, job_id: str) -> None:
        """Drop the answer that the SDK is about to keep: the handler gets it from the broker."""
        answers = self._hitl._input_data_store  # noqa: SLF001
        asyncio.get_running_loop().call_soon(answers.pop, job_id, None)

    def _answering(self) -> Any:  # noqa: ANN401 - a handler or None
        """Return the agent's own handler of answers, and after it store the answer."""
        handler = self._provide_input_handler()
        if handler is None:
            return None

        async def handle(job_id: str, input_data: Mapping[str, Any]) -> None:
            asked = len(await self._questions(job_id))
            await handler(job_id, input_data)
            job = await self._storage.job(job_id)
            rounds = job.inputs or () if job is not None and job.status is AWAITING_INPUT else ()
            if rounds and len(rounds) == asked:  # else it may ask the next question now
                await self._storage.answer(job_id, input_data)
            self._forget_answer(job_id)

        return handle


def _object(text: str | None) -> dict[str, Any]:
    """Return an answer as the SDK hands it to a handler."""
    found = parsed(text)
    return found if isinstance(found, dict) else {}


def _drop(keeper: LeaseKeeper, held: Held, _: object) -> None:
    keeper.drop(held)


def _cancel(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()


async def _do_nothing(*_: object, **__: object) -> None:
    """Stand in for a monitor."""
