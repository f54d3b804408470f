"""Questions of handlers to humans: asked once, and answered whichever process gets the answer."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from tollgate.domain.exceptions import LeaseLostError
from tollgate.domain.results import InputRound
from tollgate.domain.status import AWAITING_INPUT, RUNNING
from tollgate.masumi.sdk.fields import canonical, parsed
from tollgate.masumi.sdk.leases import Held
from tollgate.masumi.sdk.web_process import AGAIN_S, Run, WebProcess, cancel, current_run

log = logging.getLogger("tollgate.masumi")


class Questions:
    """What takes the place of the SDK's methods for human input."""

    def __init__(self, process: WebProcess) -> None:
        self._process, self._storage = process, process.storage
        self._hitl = import_module("masumi.hitl")
        self._set_awaiting_input = process.manager.set_job_awaiting_input
        self._provide_input_handler = process.server.handler.get_provide_input_handler

    async def asked(
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
        run = current_run.get()
        if run is None:
            await self._set_awaiting_input(job_id, input_schema, message)
            return
        if self._process.leases().holder(job_id) is not run.held:
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
        job = await self._process.patient(lambda: self._storage.job(job_id))
        return job.inputs or () if job is not None else ()

    async def _wait_for_answer(self, job_id: str, run: Run) -> str | None:
        """Return the answer to the last question, whichever process got it."""
        client = self._storage.client()
        run.asks = True
        try:
            await self._process.patient(lambda: client.wait(job_id, statuses=RUNNING))
            job = await self._process.patient(lambda: self._storage.job(job_id))
        finally:
            run.asks = False
        await self._make_sure(run.held)
        if job is None or job.status is not RUNNING:
            log.warning(
                "job %s ended while it asked: its handler is ended",
                job_id, extra=run.held.log_fields,
            )  # fmt: skip
            cancel(run.task)
            raise asyncio.CancelledError("the job has ended")
        rounds = job.inputs or ()
        run.questions = run.held.rounds = len(rounds)
        return rounds[-1].text if rounds else None

    async def _make_sure(self, held: Held) -> None:
        """Return if the lease stands: one granted while the job asked has ended with the answer.

        Then another process may have the job now.
        """
        client, lease_ms = self._storage.client(), self._process.settings.lease_ms
        while self._process.leases().holder(held.job_id) is held:
            try:
                await self._process.patient(
                    lambda: client.touch(held.job_id, held.token, lease_ms=lease_ms)
                )
            except LeaseLostError:
                self._process.leases().wake()
                await asyncio.sleep(AGAIN_S)
            else:
                return
        raise asyncio.CancelledError("the lease was lost")

    async def answered(self, job_id: str, input_data: Mapping[str, Any]) -> None:
        """Store an answer."""
        await self._storage.answer(job_id, input_data)
        self._forget_answer(job_id)

    def _forget_answer(self, job_id: str) -> None:
        """Drop the answer that the SDK is about to keep: the handler gets it from the broker."""
        answers = self._hitl._input_data_store  # noqa: SLF001
        asyncio.get_running_loop().call_soon(answers.pop, job_id, None)

    def answering(self) -> Any:  # noqa: ANN401 - a handler or None
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

    def forget(self, job_id: str) -> None:
        """Drop the event of a question whose call is over."""
        self._hitl._input_events.pop(job_id, None)  # noqa: SLF001


def _object(text: str | None) -> dict[str, Any]:
    """Return an answer as the SDK hands it to a handler."""
    found = parsed(text)
    return found if isinstance(found, dict) else {}
