"""Keeps the jobs of the Masumi SDK (`masumi` 1.2.0) in a broker, for all web processes of an agent.

from tollgate.masumi import TollgateJobStorage

app = create_masumi_app(..., job_storage=TollgateJobStorage(queue="my-agent"))
"""

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, Final, TypeVar

from tollgate.client.aio import AsyncClient
from tollgate.client.arguments import seconds
from tollgate.client.errors import BrokerUnreachableError, may_pass
from tollgate.client.results import Page
from tollgate.client.sync import Client
from tollgate.domain.exceptions import (
    ArgumentError,
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    Refusal,
    TollgateError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import DEFAULT_QUEUE
from tollgate.domain.status import (
    AWAITING_INPUT,
    COMPLETED,
    FAILED,
    LEGAL_TRANSITIONS,
    RUNNING,
    JobStatus,
)
from tollgate.job_log import log_fields
from tollgate.masumi.sdk.fields import (
    FIXED,
    JUDGED,
    SPARE,
    SdkJob,
    answer_in,
    beside,
    canonical,
    columns_of,
    is_same,
    meta_with,
    read,
)

log = logging.getLogger("tollgate.masumi")

TIMEOUT_S: Final = 30.0
"""How long a call waits for a broker that is away, unless told otherwise."""
CALL_S: Final = 5.0
"""The longest time of one try."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
RACES_MAX: Final = 20
"""How often a change is decided anew because another process was faster."""
PAGE: Final = 100
ERROR_CHARACTERS: Final = 1_000
"""What is left of an error that is longer than the broker takes."""
_STATUSES: Final = {status.value: status for status in JobStatus}
_T = TypeVar("_T")


class TollgateJobStorage:
    """The SDK's `JobStorage` over a broker: any number of processes share the jobs.

    Nothing is opened before the first call. Each event loop has a client of its own, so a storage
    may be made, and used, before a fork (`--preload`).

    Args:
        endpoint: of the broker; by default TOLLGATE_ENDPOINT, or the user's own.
        key: path of a key file, for tcp; by default TOLLGATE_KEY. It needs the roles `producer`,
            `worker` and `payments`.
        queue: the queue of the jobs. Give each agent its own: `resume`, and workers of tollgate,
            take all running jobs of their queue.
        name: the name of the client, in histories.
        timeout_s: how long a call goes on trying while the broker is away.

    What the broker cannot do as asked is logged as a warning, and counted: fields in `dropped`, by
    name, and changes of status in `refused`, by `from -> to`.

    `isinstance(storage, masumi.job_manager.JobStorage)` holds if the SDK is imported before the
    storage is made. It is not imported here: it takes half a second, and changes how a process
    verifies certificates.

    All calls raise BrokerUnreachableError if no broker answers within `timeout_s`.
    """

    def __init__(
        self,
        endpoint: str | os.PathLike[str] | None = None,
        *,
        key: str | os.PathLike[str] | None = None,
        queue: str = DEFAULT_QUEUE,
        name: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Note the settings. Raises ArgumentError for a time that is none."""
        self._endpoint = endpoint
        self._key = key
        self._name = name
        self._timeout_s = seconds(timeout_s)
        self._clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self.queue = queue
        self.dropped: Counter[str] = Counter()
        """How often a field could not be kept, by its name."""
        self.refused: Counter[str] = Counter()
        """How often a change of status could not be made, by `from -> to`."""
        self.tokens: Mapping[str, int] = {}
        """The leases of this process, by job id: `resume` keeps them."""
        self.settles = False
        """Whether the broker sees to the proof of results; `resume` sets it. Then a job has a
        settlement, and ends 10 minutes before its payment does: later, no hash gets on chain."""
        _register(type(self))

    # --- what the SDK calls -----------------------------------------------------------------------

    async def create_job(self, job_id: str, job_data: Mapping[str, Any]) -> None:
        """Store a job. The same job may be stored again.

        Raises:
            ValueError: the id is no UUID or belongs to another job, the input is no JSON, or a text
                is longer than the broker takes (`text_bytes`, 64 KiB).

        """
        spare = SPARE if self.settles else timedelta()
        columns = columns_of(job_id, job_data, spare=spare)
        meta, left_out = meta_with(None, beside(columns, job_data))
        self._drop(left_out, {"job_id": job_id})
        try:
            await self._ask(
                lambda client: client.create(
                    **columns, queue=self.queue, meta=meta, settle=self.settles
                )
            )
        except (JobConflictError, TooLargeError) as refusal:
            raise ValueError(f"job {job_id} cannot be stored: {refusal}") from refusal
        status = job_data.get("status")
        if status is not None and status != JobStatus.AWAITING_PAYMENT.value:
            await self.update_job(job_id, {name: job_data.get(name) for name in JUDGED})

    async def get_job(self, job_id: str) -> SdkJob | None:
        """Return all fields of a job, as they were written; None if there is no such job."""
        job = await self.job(job_id)
        return None if job is None else read(job)

    async def update_job(self, job_id: str, updates: Mapping[str, Any]) -> None:
        """Change fields of a job, and its status by the state machine of the broker.

        What was done before may be done again. Of a change that the broker does not make, the SDK
        is told by a ValueError if it would go on as if it had been made: a move to `running`,
        `awaiting_input` or `completed`. Others are warned about and counted.

        Raises:
            ValueError: there is no such job, or it cannot be moved so.
            LeaseHeldError: another process works on the job.

        """
        await self.change(job_id, updates)

    async def delete_job(self, job_id: str) -> None:
        """Warn, and count: the broker deletes finished jobs by itself (`keep_finished_ms`)."""
        why = "the broker deletes no job on request"
        self._refuse({"job_id": job_id}, "any", "deleted", why)

    async def list_jobs(self, status: str | None = None) -> list[SdkJob]:
        """Return the jobs of the queue, oldest first; all, or those in a status."""
        if status is not None and status not in _STATUSES:
            return []
        found: list[SdkJob] = []
        after: str | None = None
        while True:
            page = await self._page(status, after)
            for each in page.jobs:
                job: Job | None = each
                if each.inputs is not None and len(each.inputs) > 1:
                    job = await self.job(each.job_id)  # a list shows the last answer alone
                if job is not None:
                    found.append(read(job))
            after = page.next
            if after is None:
                return found

    async def _page(self, status: str | None, after: str | None) -> Page:
        return await self._ask(
            lambda client: client.list_page(status, queue=self.queue, after=after, limit=PAGE)
        )

    # --- what `resume` and others call ------------------------------------------------------------

    async def job(self, job_id: str) -> Job | None:
        """Return a job as the broker has it; None if there is no such job."""
        try:
            return await self._ask(lambda client: client.get(job_id))
        except (JobNotFoundError, ArgumentError):
            return None

    async def change(
        self, job_id: str, updates: Mapping[str, Any], *, asked: int | None = None
    ) -> None:
        """Do what `update_job` does.

        `asked` is how many questions the job has asked after a move to `awaiting_input`: a repeat
        finds by it that the question is asked, and perhaps answered.
        """
        races = 0

        async def decide(client: AsyncClient) -> None:
            nonlocal races
            while True:
                try:
                    while await self._step(client, job_id, updates, asked):
                        pass
                except (VersionConflictError, InvalidStateTransitionError):
                    races += 1
                    if races >= RACES_MAX:
                        raise
                else:
                    return

        await self._ask(decide)

    async def answer(self, job_id: str, input_data: Mapping[str, Any]) -> None:
        """Give a job that asks a human what the human answered, not merged with anything.

        Raises ValueError if there is no such job, or if it does not ask, for example because
        another answer was faster.
        """
        text = canonical(input_data)
        # The number of the question: an earlier try, whose reply was lost, may have answered it,
        # and the job may ask the next one now.
        asked = 0

        async def provide(client: AsyncClient) -> None:
            nonlocal asked
            job = await client.get(job_id)
            rounds = job.inputs or ()
            asked = asked or len(rounds)
            if job.status is not AWAITING_INPUT or len(rounds) > asked:
                if asked and rounds[asked - 1].text == text:
                    return
                raise ValueError(f"job {job_id} is {job.status}: it does not ask for this input")
            await client.provide_input(job_id, text, expected_version=job.version)

        try:
            await self._ask(provide)
        except (JobNotFoundError, ArgumentError, VersionConflictError, TooLargeError) as refusal:
            raise ValueError(f"job {job_id}: the answer cannot be taken: {refusal}") from refusal

    def client(self) -> AsyncClient:
        """Return the client of the running event loop."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            for ended in [each for each in self._clients if each.is_closed()]:
                del self._clients[ended]
            call_s = min(CALL_S, self._timeout_s)
            found = AsyncClient(self._endpoint, key=self._key, timeout_s=call_s, name=self._name)
            self._clients[loop] = found
        return found

    def thread_client(self, timeout_s: float) -> Client:
        """Return a client for a thread, which has to close it."""
        return Client(self._endpoint, key=self._key, timeout_s=timeout_s, name=self._name)

    async def close(self) -> None:
        """Close the client of the running event loop; a later call opens another one."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    # --- changes ----------------------------------------------------------------------------------

    async def _step(
        self, client: AsyncClient, job_id: str, updates: Mapping[str, Any], asked: int | None
    ) -> bool:
        """Take one step towards what is asked for; return whether there may be another one."""
        try:
            job = await client.get(job_id)
        except (JobNotFoundError, ArgumentError) as fault:
            raise ValueError(f"job {job_id} not found in the broker") from fault
        target = self._target(job, updates)
        if target is AWAITING_INPUT and asked is not None and len(job.inputs or ()) >= asked:
            return False  # by an earlier try, whose reply was lost
        if target is None or target is job.status:
            await self._keep(client, job, updates, stays=True)
            return False
        way = _way(job.status, target)
        if way is None:
            why = "the broker's state machine has no such way"
            self._refuse(log_fields(job), job.status, target, why)
            if target in {RUNNING, AWAITING_INPUT, COMPLETED}:
                raise ValueError(f"job {job_id} is {job.status}: it cannot become {target}")
            return False
        await self._keep(client, job, updates, stays=False)
        await self._move(client, job, way, updates)
        return way is not target

    def _target(self, job: Job, updates: Mapping[str, Any]) -> JobStatus | None:
        status = updates.get("status")
        if status is None:
            return None
        found = _STATUSES.get(str(getattr(status, "value", status)))
        if found is None:
            self._refuse(log_fields(job), job.status, status, "the broker has no such status")
        return found

    async def _move(
        self, client: AsyncClient, job: Job, to: JobStatus, updates: Mapping[str, Any]
    ) -> None:
        """Make one legal move, with what belongs to it."""
        if job.status is AWAITING_INPUT and to is RUNNING:
            answer = canonical(answer_in(job, updates.get("input_data")))
            await client.provide_input(job.job_id, answer, expected_version=job.version)
            return
        token = self.tokens.get(job.job_id)
        fields: dict[str, Any] = {"expected_version": job.version, "lease": token}
        if to is COMPLETED:
            fields["result"] = self._text(job, "result", updates)
        elif to is FAILED:
            fields["error"] = self._text(job, "error", updates)
        elif to is AWAITING_INPUT:
            schema = updates.get("awaiting_input_schema")
            fields["input_schema"] = None if schema is None else canonical(schema)
            fields["keep_lease"] = token is not None
        try:
            await client.transition(job.job_id, to, **fields)
        except TooLargeError as refusal:
            if to is not FAILED or not fields["error"]:
                raise ValueError(f"job {job.job_id} cannot be {to}: {refusal}") from refusal
            self._drop(["error"], log_fields(job))
            fields["error"] = fields["error"][:ERROR_CHARACTERS]
            await client.transition(job.job_id, to, **fields)

    def _text(self, job: Job, name: str, updates: Mapping[str, Any]) -> str | None:
        """Return a result or an error, which have to be text."""
        value = updates.get(name)
        if value is None or isinstance(value, str):
            return value
        self._drop([name], log_fields(job))
        return canonical(value)

    async def _keep(
        self, client: AsyncClient, job: Job, updates: Mapping[str, Any], *, stays: bool
    ) -> None:
        """Keep the fields without a place in `meta`.

        If the job stays in its status, fields that cannot change any more have to be equal.

        Two processes that keep fields of one job at the same time may lose one of the two, because
        `annotate` changes no version. The SDK changes a job from one process at a time.
        """
        shown = read(job)
        changed = {
            name: value
            for name, value in updates.items()
            if name != "status" and not is_same(shown.get(name), value)
        }
        ours = FIXED | JUDGED | {"awaiting_input_schema"}
        if stays:
            self._drop([name for name in changed if name in ours], log_fields(job))
        else:
            asks = {"input_data"} if job.status is AWAITING_INPUT else set()
            self._drop([name for name in changed if name in FIXED - asks], log_fields(job))
        kept = {name: value for name, value in changed.items() if name not in ours}
        if kept:
            meta, left_out = meta_with(job.meta, kept)
            self._drop(left_out, log_fields(job))
            if meta != job.meta:
                await client.annotate(job.job_id, meta)

    # --- warnings and time ------------------------------------------------------------------------

    def _drop(self, names: list[str], of_job: dict[str, object]) -> None:
        for name in names:
            if not self.dropped[name]:
                log.warning(
                    "the broker cannot keep %s of job %s as it is",
                    name, of_job["job_id"], extra=of_job,
                )  # fmt: skip
            self.dropped[name] += 1

    def _refuse(self, of_job: dict[str, object], now: object, wanted: object, why: str) -> None:
        what = f"{now} -> {getattr(wanted, 'value', wanted)}"
        if not self.refused[what]:
            log.warning("job %s: %s is not done: %s", of_job["job_id"], what, why, extra=of_job)
        self.refused[what] += 1

    async def _ask(self, call: Callable[[AsyncClient], Awaitable[_T]]) -> _T:
        """Make a call that may be repeated, until the broker answers or the time is over."""
        until = monotonic() + self._timeout_s
        pause_s = PAUSE_S_MIN
        while True:
            try:
                return await call(self.client())
            except TollgateError as fault:
                left_s = until - monotonic()
                if not may_pass(fault) or (left_s <= 0 and isinstance(fault, Refusal)):
                    raise
                if left_s <= 0:
                    raise BrokerUnreachableError(
                        f"no answer of the broker within {self._timeout_s:g} s: {fault}"
                    ) from fault
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)


def _way(now: JobStatus, target: JobStatus) -> JobStatus | None:
    """Return the next status on the way to another one; None if there is no way.

    A job that asks is completed through `running`: a handler of the agent's own for answers leaves
    the status alone. A job that is not paid is never completed.
    """
    if target in LEGAL_TRANSITIONS[now]:
        return target
    return RUNNING if (now, target) == (AWAITING_INPUT, COMPLETED) else None


def _register(storage: type) -> None:
    """Let the SDK's `isinstance` and `issubclass` take the storage for a `JobStorage`."""
    module = sys.modules.get("masumi.job_manager")
    base = getattr(module, "JobStorage", None)
    if base is not None and not issubclass(storage, base):
        base.register(storage)
