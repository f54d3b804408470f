"""A job under a lease of this worker, from its claim until nothing more is said about it."""

from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from tollgate.client.arguments import fraction as check_fraction
from tollgate.client.arguments import text as check_text
from tollgate.client.results import Lease
from tollgate.domain.models import Job
from tollgate.worker.call import CallResult
from tollgate.worker.context import Key, Schema
from tollgate.worker.outcome import cut

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from tollgate.worker.stage import Stage

PROGRESS_BYTES: Final = 1024
"""Largest text of a progress, in bytes of UTF-8."""


_progress_lock = Lock()
"""One for all jobs: it is held for a moment, and few handlers report."""


class HeldJob:
    """A job and its lease, and the call of the handler that works on it (`HandlerCall`)."""

    __slots__ = (
        "_progress", "asked", "attempt", "begun_at", "gave_up_question", "has_begun", "is_asking",
        "is_lost", "is_over", "is_stopping", "job", "job_id", "left_s", "rounds", "stage",
        "stop_requested", "timer", "token", "version",
    )  # fmt: skip

    def __init__(self, lease: Lease, stage: "Stage") -> None:
        # Each field of a job is looked up once here: a look-up costs as much as ten of ours.
        job = lease.job
        self.job: Job = job
        self.job_id = job.job_id
        self.version = job.version
        """The version that the broker has, as far as this worker knows."""
        self.token = lease.token
        """Proves the lease. The lease thread changes it when it claims a lapsed lease again."""
        self.stage = stage
        self.attempt = job.attempts + 1
        self.stop_requested = job.stop_requested
        self.is_stopping = False
        self.is_lost = False
        """The broker said that the lease is over: another worker may have the job."""
        self.is_over = False
        """The outcome of the job is decided. From now on only the broker's answer counts."""
        self.has_begun = False
        """The executor has the call."""
        self.is_asking = False
        """The handler waits for an answer, and the job is in `awaiting_input`."""
        self.gave_up_question = False
        """A question ended without an answer: the call ends, and has no result."""
        self.asked = 0
        """How many questions without a key the handler has asked in this call."""
        self.rounds: list[Any] | None = None
        """The questions of the job with their answers, once they were needed."""
        self.begun_at = 0.0
        """When the call began, or went on after an answer; monotonic, in s. 0 before that."""
        self.left_s: float | None = None
        """What is left of the time limit."""
        self.timer: TimerHandle | None = None
        self._progress: tuple[str, float | None] | None = None

    def regain(self, lease: Lease) -> None:
        """Go on under another lease: the one before has lapsed, which counted as a try."""
        self.attempt = lease.job.attempts + 1
        self.token = lease.token

    def set_progress(self, text: str, fraction: float | None) -> None:
        """See `HandlerCall`."""
        plain = cut(check_text("progress", "text", text), PROGRESS_BYTES)
        if fraction is not None:
            expected = "a number from 0 to 1"
            fraction = check_fraction("progress", "fraction", fraction, expected)
        with _progress_lock:
            self._progress = (plain, fraction)
        self.stage.progressed()

    @property
    def limit_at(self) -> float | None:
        """When the time limit of the call ends (monotonic, in s), if it has one and is at work."""
        if self.left_s is None or not self.begun_at or self.is_asking or self.is_over:
            return None
        return self.begun_at + self.left_s

    @property
    def has_progress(self) -> bool:
        """Whether there is a progress that was not sent."""
        return self._progress is not None

    def take_progress(self) -> tuple[str, float | None] | None:
        """Return the progress to send, once."""
        with _progress_lock:
            taken, self._progress = self._progress, None
        return taken

    def put_progress_back(self, progress: tuple[str, float | None]) -> None:
        """Have a progress sent again that the broker did not take, unless there is a newer one."""
        with _progress_lock:
            if self._progress is None:
                self._progress = progress

    async def ask(self, schema: Schema, key: Key) -> str:
        """See `HandlerCall`."""
        return await self.stage.ask(self, schema, key)

    def began(self) -> None:
        """See `HandlerCall`."""
        self.stage.call_began(self)

    def done(self, result: CallResult) -> None:
        """See `HandlerCall`."""
        self.stage.call_ended(self, result)

    def stop_timer(self) -> None:
        """Stop the timer of the time limit, or of a pause before the call."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
