"""What the stages of a worker and its runner know of each other."""

from typing import Protocol

from tollgate.client.results import Lease
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.status import JobStatus
from tollgate.worker.call import CallResult
from tollgate.worker.context import Key, Schema
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import Outcome


class Stage(Protocol):
    """What a worker does for jobs in one status: decide their payments, or do their work."""

    name: str
    status: JobStatus
    """The status of the jobs that it takes."""
    queues: tuple[str, ...] | None
    """The queues of the jobs that it takes; None for all."""

    slots: int
    """How many jobs it takes at once."""

    @property
    def is_idle(self) -> bool:
        """Whether it works on no job."""
        ...

    @property
    def is_quiet(self) -> bool:
        """Whether it is idle, but for handlers that wait for an answer."""
        ...

    def room(self, settling: int = 0) -> int:
        """Return how many more jobs it can take, if so many finished ones count as well."""
        ...

    def ignores(self, lease: Lease) -> bool:
        """Return whether the job needs nothing until its lease lapses."""
        ...

    def take(self, held: HeldJob) -> None:
        """Begin to work on a job."""
        ...

    def lost_call(self, job_id: str) -> HeldJob | None:
        """Return a job of this id whose lease is lost and whose call goes on, if there is one."""
        ...

    def take_back(self, held: HeldJob) -> None:
        """The lease of such a job was granted to this worker again."""
        ...

    def lost(self, held: HeldJob) -> None:
        """End the work on a job that is no longer this worker's."""
        ...

    def tell(self, held: HeldJob) -> None:
        """Somebody asked the holder of the job to stop."""
        ...

    def begin_stop(self) -> None:
        """The worker was told to stop: only what may finish in the grace time goes on."""
        ...

    def cancel_all(self) -> None:
        """The grace time is over: end everything that can be ended."""
        ...

    def give_back_all(self) -> None:
        """Give the leases of everything else back."""
        ...

    def call_began(self, held: HeldJob) -> None:
        """The handler is called now, for a job that was taken before."""
        ...

    def call_ended(self, held: HeldJob, result: CallResult) -> None:
        """Take the result of a call of the handler."""
        ...

    async def ask(self, held: HeldJob, schema: Schema, key: Key) -> str:
        """See `AsyncContext.ask`."""
        ...

    def progressed(self) -> None:
        """Have the progress sent soon; called in any thread."""
        ...


class StageOwner(Protocol):
    """What a stage needs of the runner."""

    def settle(self, held: HeldJob, outcome: Outcome) -> None:
        """Tell the broker the outcome of a job."""
        ...

    def forget(self, held: HeldJob) -> None:
        """Say no more about a job: it is not this worker's."""
        ...

    def check_again(self) -> None:
        """Check whether there is room for more jobs, and whether all work is done."""
        ...

    def wake_keeper(self) -> None:
        """Have the progress of jobs sent; called in any thread."""
        ...

    def give_up(self, fault: TollgateError) -> None:
        """Stop, and have `run` raise this."""
        ...

    def leave_stuck(self) -> None:
        """No slot is left: stop, with a code that a supervisor restarts on."""
        ...
