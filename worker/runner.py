"""The worker's loop: claims jobs, has them worked on, settles them, and stops without losing any.

          ┌────────────── the next claim, with ──────────────┐
          ▼                                                  │
  broker ──▶ Claims ──▶ Stage ──▶ Executor ──▶ Policy ──▶ Settler ──▶ broker
             leases     slots     the handler  outcome    one message

All of it runs in one event loop, without a task for anything but async handlers. The leases are
kept beside it, in a thread (`lease`), and another thread watches the loop (`watchdog`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from tollgate.client.errors import ClientClosedError
from tollgate.client.results import Lease
from tollgate.client.sync import Client
from tollgate.domain.commands import AnyCommand, Release, Touch
from tollgate.domain.exceptions import JobNotFoundError, LeaseLostError, TollgateError
from tollgate.domain.status import RUNNING, TERMINAL, JobStatus
from tollgate.job_log import log_fields
from tollgate.worker.broker_status import BrokerStatus, one_line
from tollgate.worker.claims import Claims
from tollgate.worker.held import HeldJob
from tollgate.worker.lease import LAST_S, LeaseKeeper, UnpaidLeases, answer_s
from tollgate.worker.link import Link
from tollgate.worker.outcome import Move, Outcome
from tollgate.worker.own_tasks import own_task
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.roles import Roles
from tollgate.worker.settings import CLAIM_WAIT_MS, WorkerSettings
from tollgate.worker.settle import Settler
from tollgate.worker.stage import Stage

log = logging.getLogger("tollgate.worker")

CANCEL_S: Final = 0.5
"""At a stop, how long cancelled handlers may take to end."""


class Runner:
    """Runs the stages over one connection, until told to stop."""

    def __init__(
        self,
        link: Link,
        broker: BrokerStatus,
        settings: WorkerSettings,
        policy: RetryPolicy,
        make_client: Callable[[float], Client],
    ) -> None:
        self._link = link
        self._broker = broker
        self._settings = settings
        self._answer_s = answer_s(settings.lease_ms)
        self._loop = asyncio.get_running_loop()
        self.keeper = LeaseKeeper(make_client, settings.lease_ms, self)
        self.roles = Roles(link)
        self.settler = Settler(link, broker, policy, settings.lease_ms, self._settled, self.roles)
        self._unpaid = UnpaidLeases(settings.unpaid_max)
        self._claims: list[Claims] = []
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_pump_due = False
        self._logs_each = log.isEnabledFor(logging.DEBUG)
        self._touching = 0
        """Messages under way that touch leases before their jobs are begun."""
        self._refusal: TollgateError | None = None
        self._judging: asyncio.Task[None] | None = None
        """Asks which roles the key has."""
        self.is_stuck = False
        """Whether it stopped because no slot is left."""
        self.finished = 0
        """How many jobs this worker ended, or payments if it does nothing else."""

    def add(self, stage: Stage) -> None:
        """Run a stage. Call it before `run`."""
        claims = Claims(stage, self._link, self._broker, self._settings.lease_ms, self)
        self._claims.append(claims)

    def leave_out(self, status: JobStatus) -> None:
        """Take no jobs in a status. Call it before `run`."""
        self._claims = [claims for claims in self._claims if claims.stage.status is not status]

    @property
    def is_idle(self) -> bool:
        """Whether no job is in work or unsettled."""
        is_quiet = not (self.settler or self._touching)
        return is_quiet and all(claims.stage.is_idle for claims in self._claims)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stop claiming, finish or release the held jobs, and let `run` return."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Advance jobs until `stop` is called.

        Raises:
            Refusal: the broker refuses this worker's claims for a reason that does not pass.
            RealPaymentError: payments are simulated, and a job has one to be settled.

        """
        self.keeper.start()
        try:
            self.check_again()
            await self._stopping.wait()
            # Without a slot left there is no handler that could finish in the grace time.
            await self._end(0.0 if self.is_stuck else self._settings.stop_grace_s)
        except asyncio.CancelledError:  # the program ends the worker, or its loop
            self.stop()
            # In a task of its own: in Python 3.11.2, a time limit in a task that was cancelled
            # once ends it instead.
            await own_task(self._end(0.0))
            raise
        finally:
            self.keeper.close()
        if self._refusal is not None:
            raise self._refusal

    # --- one turn ---------------------------------------------------------------------------------

    def check_again(self) -> None:
        """See `stage.StageOwner`: at the end of this turn, send what is ready, and claim."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        self._changed.set()
        message = self.settler.take()
        if message is not None:
            self._post(*message)
        if not self._stopping.is_set():
            self._park_claims()
        self._link.push()

    def _park_claims(self) -> None:
        wait_ms = 0 if self._settings.drain else CLAIM_WAIT_MS
        for claims in self._claims:
            if self._settings.drain and claims.found_nothing:
                if self._is_drained():
                    self.stop()
                    return
                continue  # claimed again when something has changed
            claims.park(self._room(claims.stage), wait_ms)

    def _post(self, commands: list[AnyCommand], answered: Callable[[list[Any]], None]) -> None:
        """Post outcomes, and the next claims with them."""
        asked_at = monotonic()
        settled = len(commands)
        with_claims: list[Claims] = []
        if not self._stopping.is_set():
            for claims in self._claims:
                if claims.is_calm:
                    continue  # it parks a claim in a message of its own, right after this one
                # The jobs in this very message free their places with it.
                claim = claims.command(self._room(claims.stage), wait_ms=0)
                if claim is not None:
                    commands.append(claim)
                    with_claims.append(claims)

        def take(answers: list[Any]) -> None:
            answered(answers[:settled])
            for claims, answer in zip(with_claims, answers[settled:], strict=True):
                claims.answered(answer, asked_at)
            self.check_again()
            for claims in self._claims:
                if claims not in with_claims:
                    claims.look()

        self._link.post(commands, take, self._answer_s)

    def _room(self, stage: Stage) -> int:
        """Return how many more jobs to claim for a stage.

        A finished job leaves its slot while its outcome is being sent, so that others are claimed
        meanwhile: as many as there are slots. With `jobs` it keeps its slot until then, else one
        job too many would be claimed.
        """
        settling = self.settler.under_way
        jobs = self._settings.jobs
        if jobs is None:
            return stage.room(max(0, settling - stage.slots))
        room = stage.room(settling)
        if stage.status is RUNNING or self._settings.only == "payments":
            room = min(room, jobs - self.finished - (stage.slots - room))
        return room

    def _is_drained(self) -> bool:
        """Whether all that was ready is done; handlers may still wait for answers."""
        return (
            not (self.settler or self._touching)
            and not any(claims.is_under_way for claims in self._claims)
            and all(claims.found_nothing and claims.stage.is_quiet for claims in self._claims)
        )

    def take_leases(self, stage: Stage, leases: list[Lease], asked_at: float) -> None:
        """See `claims.ClaimOwner`."""
        if self.roles.are_missing:
            self._judge(self.roles.look_again())
        if leases and monotonic() - asked_at > self._settings.lease_ms / 1_000:
            self._touch_first(stage, leases)
        else:
            self._take(stage, leases)
        # Behind the handlers that begin now: those that end at once have ended by then.
        self.check_again()

    def _touch_first(self, stage: Stage, leases: list[Lease]) -> None:
        """Take leases that came while a handler blocked the loop: only those that still stand."""
        lease_ms = self._settings.lease_ms

        def take(answers: list[Any]) -> None:
            self._touching -= 1
            standing = []
            for lease, answer in zip(leases, answers, strict=True):
                if isinstance(answer, LeaseLostError | JobNotFoundError):
                    log.warning(
                        "job %s: its lease ended before it was begun (%s)",
                        lease.job.job_id, one_line(answer), extra=log_fields(lease.job),
                    )  # fmt: skip
                else:
                    standing.append(lease)
            self._take(stage, standing)
            self.check_again()

        self._touching += 1
        touches = [
            Touch(job_id=each.job.job_id, lease=each.token, lease_ms=lease_ms) for each in leases
        ]
        self._link.post(touches, take, self._answer_s)
        self._link.push()

    def _take(self, stage: Stage, leases: list[Lease]) -> None:
        unwanted: list[tuple[str, int]] = []
        new: list[HeldJob] = []
        for lease in leases:
            known = self.keeper.holder(lease.job.job_id)
            if known is not None and _has_moved(known, lease):
                self._lose_moved(known)
                known = None
            if self._stopping.is_set():
                unwanted.append((lease.job.job_id, lease.token))
            elif known is not None and not self.settler.gives_back(known):
                # Its lease had lapsed, and the job came back to this worker.
                log.warning(
                    "job %s: the lease had lapsed, and was granted again",
                    known.job_id, extra=log_fields(known.job),
                )  # fmt: skip
                known.regain(lease)
            elif (lost := stage.lost_call(lease.job.job_id)) and not _has_moved(lost, lease):
                # The same, and it was taken for lost already: its call goes on.
                log.warning(
                    "job %s: the lease was lost, and was granted again",
                    lost.job_id, extra=log_fields(lost.job),
                )  # fmt: skip
                lost.regain(lease)
                self.keeper.hold(lost)
                stage.take_back(lost)
            elif (finished := self.settler.keeps(lease)) is not None:
                log.warning(
                    "job %s: the lease was lost, and was granted again for its result",
                    finished.job_id, extra=log_fields(finished.job),
                )  # fmt: skip
                finished.regain(lease)
                self.keeper.hold(finished)
            elif stage.ignores(lease):
                self._unpaid.add(lease)
            else:
                held = HeldJob(lease, stage)
                self.keeper.hold(held)
                new.append(held)
        # Only now, when all are held: to start hundreds of handlers may take longer than a lease.
        unwanted += self._begin(stage, new)
        if unwanted:
            self._release(unwanted)

    def _begin(self, stage: Stage, new: list[HeldJob]) -> list[tuple[str, int]]:
        """Begin to work on jobs; return job id and token of those that a stop came before."""
        begun = 0
        while begun < len(new) and not self._stopping.is_set():
            stage.take(new[begun])
            begun += 1
        for held in new[begun:]:
            held.is_over = True  # a touch that is under way must not claim it again
            self.keeper.drop(held)
        return [(held.job_id, held.token) for held in new[begun:]]

    def _lose_moved(self, held: HeldJob) -> None:
        """End the work on a job that another worker has moved: it takes no result of this call."""
        if not held.is_over:
            log.warning(
                "job %s: the lease had lapsed, and another worker moved the job: it begins anew",
                held.job_id, extra=log_fields(held.job),
            )  # fmt: skip
            self.keeper.drop(held)
            held.stage.lost(held)

    def claim_refused(self, refusal: TollgateError) -> None:
        """See `claims.ClaimOwner`."""

        async def judge() -> None:
            if not await self.roles.may_come_back(refusal):
                self.give_up(refusal)

        self._judge(judge())

    def _judge(self, asking: Coroutine[Any, Any, None]) -> None:
        """Ask for the roles, unless that is under way."""
        if self._judging is None or self._judging.done():
            self._judging = own_task(asking)
        else:
            asking.close()

    # --- called by the stages ---------------------------------------------------------------------

    def give_up(self, fault: TollgateError) -> None:
        """See `stage.StageOwner`."""
        self._refusal = fault
        self.stop()

    def settle(self, held: HeldJob, outcome: Outcome) -> None:
        """See `stage.StageOwner`."""
        self.settler.put(held, outcome)
        self.check_again()

    def forget(self, held: HeldJob) -> None:
        """See `stage.StageOwner`."""
        self.keeper.drop(held)

    def wake_keeper(self) -> None:
        """See `stage.StageOwner`."""
        self.keeper.wake()

    def leave_stuck(self) -> None:
        """See `stage.StageOwner`."""
        self.is_stuck = True
        self.stop()

    def _settled(self, held: HeldJob, outcome: Outcome | None) -> None:
        """Count a job whose outcome the broker took."""
        self.keeper.drop(held)
        if outcome is not None:
            if self._logs_each:
                log.debug("job %s: %s", held.job_id, outcome, extra=log_fields(held.job))
            is_end = isinstance(outcome, Move) and outcome.target in TERMINAL
            if is_end or (isinstance(outcome, Move) and self._settings.only == "payments"):
                self.finished += 1
        if self._settings.drain:
            for claims in self._claims:
                claims.found_nothing = False
        if self._settings.jobs is not None and self.finished >= self._settings.jobs:
            self.stop()
        self.check_again()

    # --- called by the lease thread ---------------------------------------------------------------

    def lease_lost(self, held: HeldJob, token: int, reason: TollgateError) -> None:
        """See `lease.LeaseListener`."""

        def look() -> None:
            # A claim of this worker may have got the job back, and the answer is still on its way.
            # Answers of one connection come in order: that one comes before the answer to this.
            touch = Touch(job_id=held.job_id, lease=token, lease_ms=self._settings.lease_ms)
            if is_lost():
                with suppress(ClientClosedError):
                    self._link.post([touch], lambda _: lose(), self._answer_s)
                    self._link.push()

        def is_lost() -> bool:
            return held.token == token and not held.is_over and not held.is_lost

        def lose() -> None:
            if self._touching:
                look()  # leases that came late are looked at first
            elif is_lost():
                log.warning(
                    "job %s: the lease is lost (%s)",
                    held.job_id, one_line(reason), extra=log_fields(held.job),
                )  # fmt: skip
                self.keeper.drop(held)
                held.stage.lost(held)

        self._in_loop(look)

    def stop_was_requested(self, held: HeldJob) -> None:
        """See `lease.LeaseListener`."""
        self._in_loop(lambda: held.stage.tell(held))

    def _in_loop(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    # --- the end ----------------------------------------------------------------------------------

    async def _end(self, grace_s: float) -> None:
        """Let handlers finish in the grace time, and give the leases of the others back."""
        for claims in self._claims:
            claims.stop()
        for claims in self._claims:
            claims.stage.begin_stop()
        await self._until_idle(grace_s)
        for claims in self._claims:
            claims.stage.cancel_all()
        await self._until_idle(CANCEL_S)
        for claims in self._claims:
            claims.stage.give_back_all()
        await self._until_idle(LAST_S)
        last: list[AnyCommand] = []
        for held, outcome in self.settler.give_up().items():
            log.warning(
                "job %s: the broker does not answer: its lease is given back",
                held.job_id, extra=log_fields(held.job),
            )  # fmt: skip
            # A result is stored if it can be; only if not, the lease is given back.
            last.append(outcome.command(held.job_id, held.version, held.token))
            last.append(Release(job_id=held.job_id, lease=held.token))
        last += [Release(job_id=each, lease=token) for each, token in self._unpaid.leases()]
        await self._send_last(last)
        await self._link.until_quiet(LAST_S)  # what withdrawn claims still got is released

    async def _until_idle(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.is_idle:
                    self._changed.clear()
                    await self._changed.wait()

    def _release(self, leases: Sequence[tuple[str, int]]) -> None:
        commands: list[AnyCommand] = [Release(job_id=each, lease=token) for each, token in leases]
        self._link.post(commands, lambda _: None, LAST_S)
        self._link.push()

    async def _send_last(self, commands: list[AnyCommand]) -> None:
        if commands:
            with suppress(TollgateError, TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._link.send_many(commands)


def _has_moved(held: HeldJob, lease: Lease) -> bool:
    """Return whether a job that comes back is no longer the one that a call works on.

    One that asks moves by its question and by the answer to it, which `Questions` waits for.
    """
    return held.version != lease.job.version and not held.is_asking
