"""Asks humans for the handlers: puts a job into `awaiting_input`, and waits for the answer."""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from tollgate.client.arguments import text as check_text
from tollgate.client.errors import may_pass
from tollgate.domain.exceptions import (
    ArgumentError,
    JobNotFoundError,
    TollgateError,
    WaitTimeoutError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import InputRound
from tollgate.domain.status import RUNNING, TERMINAL
from tollgate.job_log import log_fields
from tollgate.worker.broker_status import Backoff, one_line
from tollgate.worker.call import Fail, Suspended
from tollgate.worker.context import Key, Schema
from tollgate.worker.executor import ASKING_MAX
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import Move
from tollgate.worker.own_tasks import own_task

if TYPE_CHECKING:
    from tollgate.worker.link import Link
    from tollgate.worker.settle import Settler

log = logging.getLogger("tollgate.worker")

WAIT_S: Final = 30.0
"""How long one `wait` lasts."""
KEY_FIELD: Final = "x-tollgate-key"
"""The field of a schema that holds a key that is a text."""


class SlotOwner(Protocol):
    """Gives a handler that asks its slot back when it goes on."""

    def leave_slot(self, held: HeldJob) -> None:
        """The handler waits for an answer: another job may have its slot."""
        ...

    async def enter_slot(self, held: HeldJob) -> None:
        """Wait for a slot, before jobs that are new."""
        ...


class Questions:
    """The questions of all handlers of a worker."""

    def __init__(self, link: "Link", settler: "Settler", slots: SlotOwner, asking_max: int) -> None:
        self._link = link
        self._settler = settler
        self._slots = slots
        self._asking_max = min(asking_max, ASKING_MAX)
        self._asked: dict[str, asyncio.Future[Job]] = {}
        self._kept = 0
        """How many calls wait for an answer, or will as soon as their question is at the broker."""
        self._changed = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def ask(self, held: HeldJob, schema: Schema, key: Key) -> str:
        """See `AsyncContext.ask`.

        Raises:
            ArgumentError: the schema or the key cannot be used.
            Fail: the key was answered with another schema.
            Suspended: the call must end; the job is called again when the answer has come.

        """
        if held.is_asking:
            raise ArgumentError("ask: a job has one question at a time; await the first one")
        if held.is_over or held.is_lost or held.gave_up_question:
            raise Suspended  # its time is up, another worker has the job, or the call has to end
        text = schema_text(schema, key)
        held.is_asking = True
        try:
            return await self._answer_to(held, text, key)
        except asyncio.CancelledError:
            # By a time limit of the handler's own, for example. The question stays: so the call
            # ends, and the handler is called again when it is answered.
            held.gave_up_question = True
            raise Suspended from None
        except Suspended:
            # What the handler makes of it is no result: `TaskGroup` puts it into another exception,
            # and `gather` may return it.
            held.gave_up_question = True
            raise
        finally:
            held.is_asking = False

    async def _answer_to(self, held: HeldJob, text: str, key: Key) -> str:
        if held.rounds is None:
            held.rounds = await self._rounds(held)
        place, known = find(held.rounds, key, held)
        if known is not None:
            if not same_schema(known.schema, text):
                raise Fail(
                    f"question {key if isinstance(key, str) else place} was answered with another"
                    " schema: the handler has changed"
                )
            return known.text or ""
        return await self._ask(held, text)

    def stop(self) -> None:
        """End all calls that wait for an answer: another worker goes on with their jobs."""
        self._is_stopping = True
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Suspended())

    def end(self, held: HeldJob) -> None:
        """End the wait of a call that is over, or whose job is no longer this worker's."""
        asked = self._asked.get(held.job_id)
        if asked is not None and not asked.done():
            asked.set_exception(Suspended())

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def _rounds(self, held: HeldJob) -> list[Any]:
        if not held.job.inputs:
            return []
        backoff = Backoff()
        while True:  # a claim does not show the texts
            try:
                job = await self._link.get(held.job_id)
            except TollgateError as fault:
                if not may_pass(fault):
                    raise Suspended from fault
                await backoff.wait()
            else:
                return [*(job.inputs or ())]

    async def _ask(self, held: HeldJob, text: str) -> str:
        # Counted before the broker has it: many may be under way at once.
        keeps = self._kept < self._asking_max and not self._is_stopping
        self._kept += keeps
        try:
            return await self._ask_and_wait(held, text, keeps=keeps)
        finally:
            self._kept -= keeps

    async def _ask_and_wait(self, held: HeldJob, text: str, *, keeps: bool) -> str:
        job, _ = await self._settler.deliver(held, Move.asks(text, keeps_lease=keeps))
        if held.is_over:  # the call has ended meanwhile
            raise Suspended
        if job is None:  # it does not take the question
            held.is_lost = True
            raise Suspended
        if job.status in TERMINAL:  # the broker takes no such question
            held.is_lost = True
            raise Suspended
        if not keeps:
            held.is_lost = True  # the lease has ended
            raise Suspended
        job = await self._answer(held)
        held.rounds = [*(job.inputs or ())]
        return held.rounds[-1].text or "" if held.rounds else job.provided_input or ""

    async def _answer(self, held: HeldJob) -> Job:
        """Wait for the answer without a slot; return the job with it, when there is a slot."""
        asked = asyncio.get_running_loop().create_future()
        self._asked[held.job_id] = asked
        if self._is_stopping:
            asked.set_exception(Suspended())
        self._slots.leave_slot(held)
        self._watch()
        try:
            job: Job = await asked
            if job.status is not RUNNING:
                log.warning(
                    "job %s: ended while it waited for an answer: %s",
                    job.job_id, one_line(job.error or job.status), extra=log_fields(job),
                )  # fmt: skip
                held.is_lost = True
                raise Suspended
            held.version = job.version
            if not await self._settler.has_lease(held):
                log.warning(
                    "job %s: another worker goes on with it", job.job_id, extra=log_fields(job)
                )
                held.is_lost = True
                raise Suspended
            await self._slots.enter_slot(held)
        except JobNotFoundError:
            log.warning("job %s: was removed", held.job_id, extra=log_fields(held.job))
            raise Suspended from None
        finally:
            self._asked.pop(held.job_id, None)
            self._changed.set()
        return job

    def _watch(self) -> None:
        self._changed.set()
        if self._waiting is None or self._waiting.done():
            self._waiting = own_task(self._wait())

    async def _wait(self) -> None:
        """Wait for the answers of all jobs together, anew when there is another question."""
        backoff = Backoff()
        while pending := [job_id for job_id, each in self._asked.items() if not each.done()]:
            self._changed.clear()
            waiting = own_task(self._link.wait(pending, statuses=[RUNNING], timeout_s=WAIT_S))
            changing = own_task(self._changed.wait())
            try:
                await asyncio.wait({waiting, changing}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    continue
                job = waiting.result()
            except WaitTimeoutError:
                continue
            except JobNotFoundError as fault:
                self._gone(fault)
            except TollgateError as fault:
                level = logging.DEBUG if may_pass(fault) else logging.WARNING
                log.log(level, "the wait for answers failed (%s)", one_line(fault))
                await backoff.wait()
            else:
                backoff = Backoff()
                asked = self._asked.get(job.job_id)
                if asked is not None and not asked.done():
                    asked.set_result(job)
            finally:
                waiting.cancel()
                changing.cancel()

    def _gone(self, fault: JobNotFoundError) -> None:
        asked = self._asked.get(fault.job_id or "")
        if asked is not None and not asked.done():
            asked.set_exception(fault)


def schema_text(schema: object, key: object) -> str:
    """Return a schema as JSON text, with a key that is a text in it. Raises ArgumentError."""
    if key is not None and (isinstance(key, bool) or not isinstance(key, int | str)):
        raise ArgumentError(f"ask: key must be a number or a text, not {key!r:.60}")
    if isinstance(schema, str):
        if not isinstance(key, str):
            return check_text("ask", "schema", schema)
        try:
            schema = json.loads(schema)
        except ValueError:
            schema = None
    if isinstance(key, str):
        if not isinstance(schema, dict):
            raise ArgumentError("ask: a schema with a text as key must be a JSON object")
        schema = {**schema, KEY_FIELD: key}
    if not isinstance(schema, dict | list):
        raise ArgumentError(f"ask: schema must be a text, a dict or a list, not {schema!r:.60}")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as fault:
        raise ArgumentError(f"ask: the schema cannot be written as JSON: {fault}") from None
    return check_text("ask", "schema", text)


def find(rounds: list[InputRound], key: Key, held: HeldJob) -> tuple[int, InputRound | None]:
    """Return the number of a question, and its round if it was answered.

    Questions whose key is a text have no number, and do not count for those of others. Raises
    ArgumentError.
    """
    if isinstance(key, str):
        for each in rounds:
            if key_of(each.schema) == key:
                return 0, each
        return 0, None
    numbered = [each for each in rounds if key_of(each.schema) is None]
    place = held.asked if key is None else key
    if not 0 <= place <= len(numbered):
        raise ArgumentError(f"ask: question {key} comes after {len(numbered)}, which is not asked")
    held.asked = place + 1
    return place, numbered[place] if place < len(numbered) else None


def key_of(schema: str | None) -> str | None:
    """Return the key in a schema, if it has one that is a text."""
    parsed = _parsed(schema)
    key = parsed.get(KEY_FIELD) if isinstance(parsed, dict) else None
    return key if isinstance(key, str) else None


def same_schema(one: str | None, other: str) -> bool:
    """Return whether two schemas are equal as JSON, or as texts."""
    return one == other or (one is not None and _parsed(one) == _parsed(other) is not None)


def _parsed(text: str | None) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None
