"""The other side of the jobs: creates them, pays, answers questions, and asks some to stop."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec

from tests.chaos.scripts import End, Script, answer
from tollgate import Client, Job, JobStatus
from tollgate.client.results import History
from tollgate.domain.exceptions import InvalidStateTransitionError, Refusal, TollgateError

ASK_S: Final = 5.0
"""How long a call may take; the broker is down for less, or the call is repeated."""
POLL_S: Final = 0.05
LOOK_S: Final = 0.3
STOP_AFTER_S: Final = 0.5
"""How long a job runs before it is asked to stop."""


class Producer:
    """A thread with a client. It goes on when the broker is away."""

    def __init__(self, endpoint: str, scripts: Sequence[Script]) -> None:
        self._endpoint = endpoint
        self._scripts = scripts
        self._thread = threading.Thread(target=self._run)
        self._leaving = threading.Event()
        self._stop_at: dict[str, float] = {}
        self._look_at = 0.0
        self._ended: set[str] = set()
        self.allowed = 0
        """How many jobs may be there so far."""
        self.created = 0
        self.faults: list[str] = []
        """What must not happen to a producer."""

    @property
    def ended(self) -> int:
        """How many jobs have ended, or are on hold."""
        return len(self._ended)

    @property
    def is_done(self) -> bool:
        return self.ended == len(self._scripts)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._endpoint, timeout_s=ASK_S) as client:
            while not self._leaving.is_set():
                try:
                    self._create(client)
                    self._answer(client)
                    self._look(client)
                except Refusal as fault:
                    self.faults.append(repr(fault))
                except TollgateError:  # the broker is away
                    pass
                except Exception as fault:  # noqa: BLE001 - the audit reports it
                    self.faults.append(repr(fault))
                self._leaving.wait(POLL_S)

    def _create(self, client: Client) -> None:
        """Create and pay the jobs that may be there. Doing it twice is doing it once."""
        while self.created < min(self.allowed, len(self._scripts)):
            script = self._scripts[self.created]
            job_id = job_id_of(script)
            job = client.create(
                input=msgspec.json.encode(script).decode(),
                job_id=job_id,
                queue=script.queue,
                priority=script.priority,
                delay_s=script.delay_ms / 1_000 if script.delay_ms else None,
            )
            if job.status is JobStatus.AWAITING_PAYMENT:
                client.transition(job_id, JobStatus.RUNNING, expected_version=1)
            if script.end is End.STOP:
                self._stop_at[job_id] = time.monotonic() + STOP_AFTER_S
            self.created += 1

    def _answer(self, client: Client) -> None:
        for job in client.list(JobStatus.AWAITING_INPUT):
            question = json.loads(job.input_schema or "")["input_data"][0]["name"]
            client.provide_input(job.job_id, answer(question), expected_version=job.version)
        for job_id, due in [*self._stop_at.items()]:
            if time.monotonic() >= due:
                with suppress(InvalidStateTransitionError):  # its tries were exhausted before
                    client.request_stop(job_id)
                del self._stop_at[job_id]

    def _look(self, client: Client) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_S
        for job in client.list():
            if is_over(job):
                self._ended.add(job.job_id)


def job_id_of(script: Script) -> str:
    return str(UUID(int=script.number, version=4))


def is_over(job: Job) -> bool:
    return job.status in {JobStatus.COMPLETED, JobStatus.FAILED} or job.on_hold


def outcomes(endpoint: str, scripts: Sequence[Script]) -> dict[str, tuple[Job, History]]:
    """Return each job as it is at the end, and what happened to it."""
    found = {}
    with Client(endpoint, timeout_s=ASK_S) as client:
        for script in scripts:
            job_id = job_id_of(script)
            found[job_id] = client.get(job_id), client.history(job_id)
    return found
