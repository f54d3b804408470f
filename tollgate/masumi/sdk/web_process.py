"""One web process of an SDK agent, as the parts of `resume` share it: its storage, its leases."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from tollgate.client.errors import ClientClosedError, may_pass
from tollgate.domain.exceptions import LeaseLostError, TollgateError
from tollgate.domain.models import Job
from tollgate.masumi.sdk.leases import Held, LeaseKeeper
from tollgate.masumi.sdk.storage import TollgateJobStorage

log = logging.getLogger("tollgate.masumi")

AGAIN_S: Final = 0.5
"""How long to wait before a broker that is away is asked again."""
REGAINS: Final = 20
"""How often a change waits for a lease that lapsed to be granted again."""


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


current_run: ContextVar[Run | None] = ContextVar("tollgate_masumi_run", default=None)
"""The run of the task."""


class WebProcess:
    """An SDK server, its storage, and the keeper of the leases while the app runs."""

    def __init__(self, server: Any, settings: Settings) -> None:  # noqa: ANN401 - as `resume`
        self.server = server
        self.manager = server.job_manager
        self.storage: TollgateJobStorage = server.job_manager.storage
        self.settings = settings
        self.keeper: LeaseKeeper | None = None

    def leases(self) -> LeaseKeeper:
        """Return the keeper. Raises RuntimeError before the start."""
        if self.keeper is None:
            raise RuntimeError("the app has not started: call `await resumer.start()`")
        return self.keeper

    async def persist(self, held: Held, updates: Mapping[str, Any]) -> None:
        """Store a change of a job whose lease is held, however long it takes."""
        regains = 0
        while True:
            try:
                await self.patient(
                    lambda: self.storage.change(held.job_id, updates, asked=held.rounds + 1)
                )
            except LeaseLostError:
                regains += 1
                if regains > REGAINS or self.leases().holder(held.job_id) is not held:
                    raise
                self.leases().wake()  # it lapsed, and may be had again
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def patient(self, call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Make a call until the broker answers. Raises what another try would meet again."""
        while True:
            try:
                return await call()
            except TollgateError as fault:
                if isinstance(fault, ClientClosedError) or not may_pass(fault):
                    raise
                log.debug("trying again: %s", fault)
                await asyncio.sleep(AGAIN_S)


def cancel(task: "asyncio.Task[None] | None") -> None:
    """End a task, if there is one."""
    if task is not None:
        task.cancel()
