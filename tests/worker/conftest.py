"""What tests of the worker share: jobs, and a client whose broker answers by a script."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from client.values import Lease
from domain.exceptions import JobNotFoundError
from domain.models import Job, JobStatus

PATIENCE_S: Final = 30.0
"""Longer than anything here takes, on a machine however slow."""


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(number: int = 1, **fields: Any) -> Job:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        given: dict[str, Any] = {
            "job_id": str(UUID(int=number)),
            "status": JobStatus.RUNNING,
            "input_hash": "0" * 64,
            "blockchain_identifier": f"payment {number}",
            "created_at": at,
            "updated_at": at,
            "version": 2,
        }
        return Job(**given | fields)

    return make


@pytest.fixture
def make_lease(make_job: Callable[..., Job]) -> Callable[..., Lease]:
    def make(number: int = 1, **fields: Any) -> Lease:
        return Lease(make_job(number, **fields), 100 + number, 30_000)

    return make


class ScriptedClient:
    """The part of `AsyncClient` that a worker uses, answering what a test wants it to.

    `script[name]` holds the answers to come: values, exceptions to raise, or functions to call.
    Without one, claims find nothing and all else succeeds. `said` is what the worker said.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = defaultdict(list)
        self.said: list[tuple[Any, ...]] = []
        self._more = asyncio.Event()

    async def ping(self, timeout_s: float) -> None:
        await self._answer("ping", ())

    async def claim(
        self, status: JobStatus, *, lease_ms: int, wait_ms: int, limit: int, timeout_s: float
    ) -> list[Lease]:
        async def nothing() -> list[Lease]:
            await asyncio.sleep(0.01)
            return []

        leases: list[Lease] = await self._answer("claim", (status, limit), nothing)
        return leases

    async def touch(self, job_id: str, token: int, *, lease_ms: int) -> None:
        await self._answer("touch", (job_id, token))

    async def release(self, job_id: str, token: int) -> None:
        await self._answer("release", (job_id, token))

    async def transition(
        self,
        job_id: str,
        target: JobStatus,
        *,
        result: str | None,
        error: str | None,
        expected_version: int,
        lease: int,
    ) -> Any:
        said = (job_id, target, result or error, expected_version, lease)
        return await self._answer("transition", said)

    async def get(self, job_id: str) -> Job:
        async def missing() -> Job:
            raise JobNotFoundError(job_id)

        job: Job = await self._answer("get", (job_id,), missing)
        return job

    def saying(self, name: str) -> list[tuple[Any, ...]]:
        """What was said with the command `name`."""
        return [arguments[1:] for arguments in self.said if arguments[0] == name]

    async def until_said(self, name: str, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.saying(name)) < times:
                self._more.clear()
                await self._more.wait()

    async def _answer(
        self,
        name: str,
        arguments: tuple[Any, ...],
        default: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        self.said.append((name, *arguments))
        self._more.set()
        await asyncio.sleep(0)
        if not self.script[name]:
            return await default() if default else object()
        answer = self.script[name].pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return await answer() if callable(answer) else answer


@pytest.fixture
async def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses be short: their length is not what is tested."""
    monkeypatch.setattr("worker.link.PAUSE_S_MIN", 0.001)
    monkeypatch.setattr("worker.link.PAUSE_S_MAX", 0.01)
