"""What tests of the worker share: jobs, and a client whose broker answers by a script."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from tests.worker.house import ROOT, House
from tests.worker.isolation import make_call, opened  # noqa: F401 - fixtures
from tollgate.client.results import Lease
from tollgate.domain.exceptions import JobNotFoundError, TollgateError
from tollgate.domain.models import Job, JobStatus

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


UNSCRIPTED: Final = object()


def transition_said(
    job_id: str,
    target: JobStatus,
    *,
    result: str | None,
    error: str | None,
    expected_version: int,
    lease: int,
) -> tuple[Any, ...]:
    return job_id, target, result or error, expected_version, lease


class ScriptedClient:
    """The part of `AsyncClient` that a worker uses, answering what a test wants it to.

    `script[name]` holds the answers to come: values, exceptions to raise, or functions to call.
    Without one, claims find nothing and all else succeeds. `said` is what the worker said, and
    `messages` has the commands of each of its batches.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = defaultdict(list)
        self.said: list[tuple[Any, ...]] = []
        self.messages: list[list[str]] = []
        self._more = asyncio.Event()

    async def ping(self, timeout_s: float) -> Any:
        return await self._answer("ping", ())

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

    async def transition(self, job_id: str, target: JobStatus, **fields: Any) -> Any:
        return await self._answer("transition", transition_said(job_id, target, **fields))

    async def get(self, job_id: str) -> Job:
        async def missing() -> Job:
            raise JobNotFoundError(job_id)

        job: Job = await self._answer("get", (job_id,), missing)
        return job

    def batch(self) -> "ScriptedBatch":
        return ScriptedBatch(self)

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
        answer = self._hear(name, arguments)
        await asyncio.sleep(0)
        return await self._worth(answer, default)

    def _hear(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Note what was said, and return the answer to it, UNSCRIPTED if there is none."""
        self.said.append((name, *arguments))
        self._more.set()
        return self.script[name].pop(0) if self.script[name] else UNSCRIPTED

    async def _worth(self, answer: Any, default: Callable[[], Awaitable[Any]] | None) -> Any:
        if answer is UNSCRIPTED:
            return await default() if default else object()
        if isinstance(answer, BaseException):
            raise answer
        return await answer() if callable(answer) else answer


class ScriptedBatch:
    """Commands for a `ScriptedClient`, each answered from the script of its name.

    What is no answer of a broker is raised when the command is appended.
    """

    def __init__(self, client: ScriptedClient) -> None:
        self._client = client
        self._names: list[str] = []
        self._answers: list[Any] = []

    def __len__(self) -> int:
        return len(self._names)

    def touch(self, job_id: str, token: int, *, lease_ms: int) -> int:
        return self._append("touch", (job_id, token))

    def release(self, job_id: str, token: int) -> int:
        return self._append("release", (job_id, token))

    def transition(self, job_id: str, target: JobStatus, **fields: Any) -> int:
        return self._append("transition", transition_said(job_id, target, **fields))

    async def send(self) -> list[Any]:
        self._client.messages.append(self._names)
        await asyncio.sleep(0)
        if self._client.script["send"]:
            await self._client._worth(self._client.script["send"].pop(0), None)
        return [
            answer if isinstance(answer, TollgateError) else await self._client._worth(answer, None)
            for answer in self._answers
        ]

    def _append(self, name: str, arguments: tuple[Any, ...]) -> int:
        answer = self._client._hear(name, arguments)
        if isinstance(answer, BaseException) and not isinstance(answer, TollgateError):
            raise answer
        self._names.append(name)
        self._answers.append(answer)
        return len(self._names) - 1


@pytest.fixture
async def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses be short: their length is not what is tested."""
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MIN", 0.001)
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MAX", 0.01)


@pytest.fixture
def house(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """A folder without a broker yet, for a test that starts and ends its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    house = House(tmp_path_factory.mktemp("w"))
    yield house
    house.close()


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A folder with one broker for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        house = House(tmp_path_factory.mktemp("w"))
        house.broker()
        yield house
        house.close()
