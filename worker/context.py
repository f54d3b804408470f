"""What a handler gets beside its job: it asks humans, reports, and sees who wants it to stop."""

import logging
import os
from collections.abc import MutableMapping
from typing import Any, Protocol

from tollgate.domain.models import Job
from tollgate.job_log import log_fields

Schema = str | dict[str, Any] | list[Any]
"""An input schema as MIP-003 defines it: JSON text, or what becomes it."""
Key = int | str | None


class Asking(Protocol):
    """What a context needs of the worker that runs it."""

    job: Job
    attempt: int

    @property
    def stop_requested(self) -> bool:
        """Somebody asked the holder to stop, or the job is no longer this worker's."""
        ...

    @property
    def is_stopping(self) -> bool:
        """The worker was told to stop."""
        ...

    def set_progress(self, text: str, fraction: float | None) -> None:
        """Show with the job how far it is; may be called in any thread."""
        ...


class BaseContext:
    """What both contexts share. A handler gets one as its second argument."""

    def __init__(self, call: Asking) -> None:
        self._call = call
        self._log: JobLog | None = None
        self._pid = os.getpid()

    @property
    def log(self) -> "JobLog":
        """A logger whose lines carry the job's id, the number of the try, and its trace."""
        if self._log is None:
            self._log = JobLog(self._call.job, self._call.attempt)
        return self._log

    @property
    def job(self) -> Job:
        """The job as it was claimed."""
        return self._call.job

    @property
    def attempt(self) -> int:
        """The number of this try, from 1."""
        return self._call.attempt

    @property
    def traceparent(self) -> str | None:
        """The `traceparent` of W3C Trace Context that the creator sent, None if it sent none."""
        return self._call.job.traceparent

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the holder of the job to stop; what that means is yours to say.

        It is also true when the job is no longer this worker's: its result cannot be stored.
        """
        return self._call.stop_requested

    @property
    def worker_stopping(self) -> bool:
        """Whether the worker was told to stop: the handler has its grace time left."""
        return self._call.is_stopping

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Show with the job how far it is; the latest one of a second counts.

        `text` has at most 1,024 bytes of UTF-8 (`progress_bytes`), a longer one is cut. `fraction`
        is the part that is done, 0 to 1. It returns at once.

        Raises:
            ArgumentError: `text` is no text, or `fraction` is not from 0 to 1.
            RuntimeError: this is a process that the handler has forked.

        """
        self._check_process()
        self._call.set_progress(text, fraction)

    def _check_process(self) -> None:
        """Raise RuntimeError in a fork: what it says would reach nothing, and it would wait."""
        if os.getpid() != self._pid:
            raise RuntimeError("only the process of the handler itself can speak with the worker")


class AsyncContext(BaseContext):
    """The context of an async handler."""

    async def ask(self, schema: Schema, key: Key = None) -> str:
        """Ask a human, and return the answer, across restarts of worker and broker.

        The job is in `awaiting_input` until `provide_input`. Meanwhile the handler keeps its lease
        and gives up its slot. If the worker ends, another one calls the handler from its start, and
        `ask` returns at once what was answered before: so ask the same questions in the same order.

        `schema` is the question: the job's `input_schema`, as MIP-003 defines it. `key` says which
        question it is: by default its number in the job, from 0. With a text as key the order does
        not matter; it is kept in the schema as `x-tollgate-key`.

        Raises:
            Fail: this key was answered with another schema. Let it pass: the job fails.
            ArgumentError: the schema is no JSON, or a key is of a question that was not asked yet.
            RuntimeError: this is a process that the handler has forked.

        """
        self._check_process()
        return await self._call.ask(schema, key)  # type: ignore[attr-defined,no-any-return]


class Context(BaseContext):
    """The context of a plain handler, in a thread or a process of its own."""

    def ask(self, schema: Schema, key: Key = None) -> str:
        """Ask a human, and return the answer, across restarts of worker and broker.

        It blocks this thread; otherwise it is `AsyncContext.ask`.
        """
        self._check_process()
        return self._call.ask(schema, key)  # type: ignore[attr-defined,no-any-return]


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the id of the job, the number of the try, and the trace, if any, to each line."""

    def __init__(self, job: Job, attempt: int) -> None:
        fields = {**log_fields(job), "attempt": attempt}
        super().__init__(logging.getLogger("tollgate.handler"), fields)

    def process(
        self,
        msg: Any,  # noqa: ANN401 - as logging has it
        kwargs: MutableMapping[str, Any],
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`; what the caller gives as `extra` is kept."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
