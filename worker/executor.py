"""What runs a handler: the loop, a thread or a child process. This is what they have in common."""

from typing import Final, Protocol

from tollgate.domain.models import Job
from tollgate.worker.call import CallResult
from tollgate.worker.context import Key, Schema


class HandlerCall(Protocol):
    """One call of the handler, as an executor sees it. It lives in the event loop.

    The worker makes one for each job that it holds. All is called in the loop, but `set_progress`,
    which may be called in any thread.
    """

    job: Job
    attempt: int
    stop_requested: bool
    """Somebody asked the holder to stop, or the job is no longer this worker's."""
    is_stopping: bool
    """The worker was told to stop."""

    def set_progress(self, text: str, fraction: float | None) -> None:
        """Send the progress with the next touch. Raises ArgumentError."""
        ...

    async def ask(self, schema: Schema, key: Key) -> str:
        """See `AsyncContext.ask`. It may raise Suspended: the call must end with that."""
        ...

    def began(self) -> None:
        """Say, once, that the handler is called now: its time runs from here on."""
        ...

    def done(self, result: CallResult) -> None:
        """Say, once, how the call ended. Later calls of it do nothing."""
        ...


ASKING_MAX: Final = 1_000
"""Handlers that wait for an answer at a time, as many as one `wait` may name. Beyond that a call
ends at its question, and the handler is called again after the answer."""


class Executor(Protocol):
    """Calls the handler. The worker starts no more calls than it has slots."""

    asking_max: int
    """How many calls may wait for an answer at a time, beside those that have slots."""

    async def open(self) -> None:
        """Prepare to take calls, in the loop of the worker.

        Raises:
            HandlerNotFoundError: the handler cannot be loaded.

        """
        ...

    def start(self, call: HandlerCall) -> None:
        """Begin a call, at once or as soon as there is a place for it: `call.began` tells.

        It ends with `call.done`, whatever the handler does.
        """
        ...

    def cancel(self, call: HandlerCall, reason: str) -> bool:
        """End a call; return whether its slot will be free at once or soon.

        A thread cannot be ended: the answer is False, and its slot stays taken until the handler
        returns, which `call.done` tells. With True, `call.done` need not follow. `reason` is for
        the log.
        """
        ...

    def notify(self, call: HandlerCall) -> None:
        """Tell the handler that `stop_requested` or `is_stopping` of its call has changed."""
        ...

    def close(self) -> None:
        """End all calls that can be ended, at once, and wait for nothing."""
        ...
