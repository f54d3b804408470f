"""The work stage: gives claimed jobs to the handler, in slots, and decides by its results."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from tollgate.client.results import Lease
from tollgate.domain.status import RUNNING
from tollgate.job_log import log_fields
from tollgate.worker.broker_status import one_line
from tollgate.worker.call import CallResult, Suspended
from tollgate.worker.context import Key, Schema
from tollgate.worker.executor import Executor
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import GiveBack, Move, Outcome
from tollgate.worker.own_tasks import own_task
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.questions import Questions
from tollgate.worker.stage import StageOwner

if TYPE_CHECKING:
    from tollgate.worker.settings import WorkerSettings

log = logging.getLogger("tollgate.worker")

BEGIN_S: Final = 60.0
"""How long a call may wait for a process or a thread. Then another worker may have the job, which
is no try: the handler was not called."""
STUCK_S: Final = 5.0
"""How long all slots may be taken by handlers that do not end before the worker leaves."""


class WorkStage:
    """Calls the handler for jobs that are running, up to `concurrency` at once.

    A handler that waits for an answer has no slot meanwhile. One that does not end when it is
    cancelled keeps its slot until it returns.
    """

    name = "work"
    status = RUNNING

    def __init__(
        self, settings: "WorkerSettings", executor: Executor, policy: RetryPolicy, owner: StageOwner
    ) -> None:
        self.queues: tuple[str, ...] | None = settings.queues
        self.slots = settings.concurrency
        self._settings = settings
        self._executor = executor
        self._policy = policy
        self._owner = owner
        self.questions: Questions
        """Set by the runner, which has the connection."""
        self.why_spent: Callable[[HeldJob], Awaitable[str | None]]
        """Likewise: `tries.why_spent` over that connection."""
        self._working: set[HeldJob] = set()
        self._asking: set[HeldJob] = set()
        self._stuck: dict[HeldJob, bool] = {}
        """Those whose call was cancelled and has not ended, and whether that was logged."""
        self._waiting: deque[HeldJob] = deque()
        self._resuming: deque[tuple[HeldJob, asyncio.Future[None]]] = deque()
        self._leave: asyncio.TimerHandle | None = None
        self._spent: dict[HeldJob, asyncio.Task[None]] = {}
        """Jobs that came back though their tries are used up."""
        self._is_stopping = False

    @property
    def is_idle(self) -> bool:
        """Whether no handler is at work or waits for an answer."""
        return not (
            self._working or self._waiting or self._asking or self._spent or self._are_ending
        )

    @property
    def _are_ending(self) -> bool:
        """Whether a call was cancelled, and what it returns will still be the job's outcome."""
        return any(not held.is_over for held in self._stuck)

    @property
    def is_quiet(self) -> bool:
        """Whether no handler is at work: all that go on wait for an answer."""
        return not (self._working or self._waiting or self._resuming or self._spent)

    @property
    def stuck(self) -> list[HeldJob]:
        """The jobs whose handlers were cancelled and go on all the same."""
        return [*self._stuck]

    def room(self, settling: int = 0) -> int:
        """Return how many more jobs there are slots for, if so many finished ones keep theirs."""
        taken = len(self._working) + len(self._waiting) + len(self._stuck) + len(self._resuming)
        return self.slots - taken - settling - len(self._spent)

    def ignores(self, lease: Lease) -> bool:  # noqa: ARG002 - every job is worked on
        """Return whether the job needs nothing until its lease lapses."""
        return False

    def take(self, held: HeldJob) -> None:
        """Begin to work on a job as soon as there is a slot."""
        if held.attempt > self._policy.max_attempts:
            self._spent[held] = own_task(self._end_spent(held))
            return
        self._waiting.append(held)
        self._fill()

    async def _end_spent(self, held: HeldJob) -> None:
        """End a job whose last try had no result, unless somebody resumed it since."""
        why = await self.why_spent(held)
        del self._spent[held]
        if why is None:
            self._waiting.append(held)
            self._fill()
        else:
            self._decide(held, CallResult(error=why))
        self._owner.check_again()

    def call_ended(self, held: HeldJob, result: CallResult) -> None:
        """See `held.Stage`; of a job whose outcome is decided, only the slot matters."""
        if held.timer is not None:
            held.stop_timer()
        if held in self._working:
            self._working.discard(held)
        else:
            if held in self._asking:
                self._asking.discard(held)
                result = self._unanswered(held, result)
            if self._stuck.pop(held, False):
                log.info(
                    "job %s: its handler has returned after all",
                    held.job_id, extra=log_fields(held.job),
                )  # fmt: skip
        if not held.is_over:
            try:
                self._decide(held, result)
            except Exception:
                # The lease is not released: the job would come back at once. It lapses instead.
                log.exception(
                    "job %s: left alone after a fault of the worker",
                    held.job_id, extra=log_fields(held.job),
                )  # fmt: skip
                held.is_over = True
                self._owner.forget(held)
        if self._waiting or self._resuming:
            self._fill()
        self._owner.check_again()

    def _unanswered(self, held: HeldJob, result: CallResult) -> CallResult:
        """End the wait for an answer of a call that has ended; return what counts as its result.

        A task that the handler left may still wait. While its question is open, a job can fail, but
        it takes no result and no pause.
        """
        self.questions.end(held)
        for each, entered in self._resuming:
            if each is held and not entered.done():
                entered.set_exception(Suspended())
        if result.is_suspended or result.is_final or held.gave_up_question:
            return result
        log.warning(
            "job %s: its handler ended with a question open (%s), and is called again after the"
            " answer",
            held.job_id, one_line(result.error or "it returned"), extra=log_fields(held.job),
        )  # fmt: skip
        return CallResult(is_suspended=True)

    async def ask(self, held: HeldJob, schema: Schema, key: Key) -> str:
        """See `held.Stage`."""
        return await self.questions.ask(held, schema, key)

    def progressed(self) -> None:
        """See `held.Stage`."""
        self._owner.wake_keeper()

    def lost_call(self, job_id: str) -> HeldJob | None:
        """See `Stage`."""
        for held in self._stuck:
            if held.job_id == job_id and not held.is_over:
                return held
        return None

    def take_back(self, held: HeldJob) -> None:
        """See `Stage`: a thread goes on with it; a task that is being cancelled gives it back."""
        held.is_lost = False
        held.stop_requested = held.job.stop_requested
        del self._stuck[held]
        self._working.add(held)
        self._set_timer(held)

    def lost(self, held: HeldJob) -> None:
        """End the work on a job that is no longer this worker's, if the handler can be ended.

        What a handler returns all the same is sent, in case the job can still take it.
        """
        held.is_lost = held.stop_requested = True
        self._executor.notify(held)
        if held in self._asking:
            self.questions.end(held)
        elif held in self._working:
            self._cancel(held, "its lease is lost")
        elif held in self._waiting or held in self._spent:
            if task := self._spent.pop(held, None):
                task.cancel()
            else:
                self._waiting.remove(held)
            held.is_over = True
            self._owner.forget(held)
        self._owner.check_again()

    def tell(self, held: HeldJob) -> None:
        """Tell the handler that somebody asked for a stop."""
        held.stop_requested = True
        self._executor.notify(held)

    def begin_stop(self) -> None:
        """Tell all handlers of the stop; those that wait for an answer or a slot end now."""
        self._is_stopping = True
        self.questions.stop()
        for held, task in [*self._spent.items()]:
            task.cancel()
            del self._spent[held]
            self._waiting.append(held)
        while self._resuming:
            _, entered = self._resuming.popleft()
            if not entered.done():
                entered.set_exception(Suspended())
        while self._waiting:
            self._end(self._waiting.popleft(), GiveBack())
        for held in self._working:
            held.is_stopping = True
            self._executor.notify(held)

    def cancel_all(self) -> None:
        """End all handlers that can be ended; their leases are given back, uncounted."""
        for held in [*self._working, *self._asking]:
            self._cancel(held, "the worker stops")

    def give_back_all(self) -> None:
        """Give the leases of the others back: their handlers cannot be ended, and go on."""
        for held in [*self._stuck]:
            if not held.is_over:
                self._decide(held, CallResult(is_suspended=True))

    # --- slots ------------------------------------------------------------------------------------

    def leave_slot(self, held: HeldJob) -> None:
        """See `questions.SlotOwner`."""
        self._working.discard(held)
        self._asking.add(held)
        self._pause_limit(held)
        self._fill()
        self._owner.check_again()

    async def enter_slot(self, held: HeldJob) -> None:
        """See `questions.SlotOwner`."""
        if self._is_stopping:
            raise Suspended
        entered = asyncio.get_running_loop().create_future()
        self._resuming.append((held, entered))
        self._fill()
        try:
            await entered
        except BaseException:
            self._resuming = deque(each for each in self._resuming if each[0] is not held)
            raise

    def _fill(self) -> None:
        free = self.slots - len(self._working) - len(self._stuck)
        while free > 0 and self._resuming:
            held, entered = self._resuming.popleft()
            if not entered.done():
                free -= 1
                self._asking.discard(held)
                self._working.add(held)
                self._limit(held)
                entered.set_result(None)
        while free > 0 and self._waiting:
            held = self._waiting.popleft()
            free -= 1
            self._working.add(held)
            if self._settings.work_delay_ms:
                loop = asyncio.get_running_loop()
                pause_s = self._settings.work_delay_ms / 1_000
                held.timer = loop.call_later(pause_s, self._start, held)
            else:
                self._start(held)

    def _start(self, held: HeldJob) -> None:
        held.timer = None
        held.has_begun = True
        held.left_s = self._settings.timeout_s
        self._executor.start(held)
        if not held.begun_at:
            loop = asyncio.get_running_loop()
            held.timer = loop.call_later(BEGIN_S, self._never_began, held)

    def _never_began(self, held: HeldJob) -> None:
        held.timer = None
        log.error(
            "job %s: given back: for %d s no process or thread could begin its call",
            held.job_id, BEGIN_S, extra=log_fields(held.job),
        )  # fmt: skip
        self._cancel(held, "it has not begun")
        self._fill()
        self._owner.check_again()

    def call_began(self, held: HeldJob) -> None:
        """See `Stage`: while a call waits for a process or a thread, its time does not run."""
        if held.timer is not None:
            held.stop_timer()
        self._limit(held)

    # --- time limits ------------------------------------------------------------------------------

    def _limit(self, held: HeldJob) -> None:
        held.begun_at = monotonic()
        self._set_timer(held)

    def _set_timer(self, held: HeldJob) -> None:
        if held.left_s is not None:
            left_s = max(0.0, held.begun_at + held.left_s - monotonic())
            held.timer = asyncio.get_running_loop().call_later(left_s, self._overran, held)

    def _pause_limit(self, held: HeldJob) -> None:
        held.stop_timer()
        if held.left_s is not None:
            held.left_s -= monotonic() - held.begun_at

    def _overran(self, held: HeldJob) -> None:
        held.timer = None
        result = overrun(self._settings.timeout_s)
        self._decide(held, result)
        self._cancel(held, result.error or "")
        self._fill()
        self._owner.check_again()

    def _cancel(self, held: HeldJob, reason: str) -> None:
        """End a call; if it cannot be ended, it keeps its slot."""
        held.stop_timer()
        self._working.discard(held)
        self._asking.discard(held)
        if not held.has_begun or self._executor.cancel(held, reason):
            if not held.is_over:
                self._decide(held, CallResult(is_suspended=True))
            return
        self._stuck[held] = False
        asyncio.get_running_loop().call_later(1.0, self._tell_stuck, held)

    def _tell_stuck(self, held: HeldJob) -> None:
        """Log that a handler goes on; leave if no slot is left."""
        if held not in self._stuck:
            return
        self._stuck[held] = True
        free = self.slots - len(self._stuck)
        log.error(
            "job %s: its handler does not end, and keeps its slot: %d of %d slots are left",
            held.job_id, free, self.slots, extra=log_fields(held.job),
        )  # fmt: skip
        if free <= 0 and self._leave is None:
            loop = asyncio.get_running_loop()
            self._leave = loop.call_later(STUCK_S, self._leave_if_stuck)

    def _leave_if_stuck(self) -> None:
        self._leave = None
        if len(self._stuck) >= self.slots:
            log.error(
                "no slot is left: the handlers of all %d hang (jobs %s); the worker leaves with"
                " code 4, to be started again",
                len(self._stuck), ", ".join(held.job_id for held in self._stuck),
            )  # fmt: skip
            self._owner.leave_stuck()

    # --- results ----------------------------------------------------------------------------------

    def _decide(self, held: HeldJob, result: CallResult) -> None:
        if held.gave_up_question:
            result = CallResult(is_suspended=True)
        if held.is_lost and result.is_suspended:
            held.is_over = True
            self._owner.forget(held)
            return
        outcome = self._policy.outcome(result, held.attempt)
        if type(outcome) is not Move or outcome.error is not None:
            self._log(held, result, outcome)
        held.is_over = True
        self._owner.settle(held, outcome)

    def _end(self, held: HeldJob, outcome: Outcome) -> None:
        held.is_over = True
        self._owner.settle(held, outcome)

    def _log(self, held: HeldJob, result: CallResult, outcome: Outcome) -> None:
        """Log why a try did not complete its job, at the default level, with the traceback."""
        if result.is_suspended:
            log.info("job %s: released unfinished", held.job_id, extra=log_fields(held.job))
            return
        error = result.error or (outcome.error if isinstance(outcome, Move) else outcome.reason)
        if isinstance(outcome, Move):
            then = "the job fails"
        elif outcome.hold:
            then = "the job is on hold, until somebody resumes it"
        else:
            then = f"again in {(outcome.delay_ms or 0) / 1_000:.1f} s"
        tries = f"try {held.attempt} of {self._policy.max_attempts}"
        level = logging.ERROR
        if result.is_final:  # the handler's decision, and no fault
            level = logging.WARNING
        elif result.is_retry and isinstance(outcome, GiveBack):
            level = logging.INFO
        fields = {"exception": result.trace.rstrip()} if result.trace else {}
        log.log(
            level, "job %s: %s: %s; %s", held.job_id, tries, one_line(error), then,
            extra=log_fields(held.job) | fields,
        )  # fmt: skip


def overrun(limit_s: float | None) -> CallResult:
    """Return the result of a call that took longer than its time limit."""
    return CallResult(error=f"TimeoutError: the handler took longer than {limit_s or 0:g} s")
