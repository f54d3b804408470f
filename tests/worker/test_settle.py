"""An outcome is said until there is an answer, and never twice where it was heard the first time.

The broker is a script here: a real one cannot be made to lose just the answer, and just once.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.results import Lease
from tollgate.domain.exceptions import (
    DrainingError,
    LeaseLostError,
    SessionEvictedError,
    TooLargeError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import HandlerResult
from tollgate.worker.lease import HeldJob
from tollgate.worker.retry import BrokerStatus
from tollgate.worker.settle import settle

COMPLETED = HandlerResult(JobStatus.COMPLETED, result="42")
UNKNOWN = OutcomeUnknown("no answer")
UNREACHABLE = BrokerUnreachableError("nobody there")


@pytest.fixture
def settled(client: Any, make_lease: Callable[..., Lease]) -> Callable[..., Any]:
    async def run(outcome: HandlerResult = COMPLETED) -> Any:
        return await settle(
            client, HeldJob(make_lease()), outcome, BrokerStatus("ipc:///somewhere")
        )

    return run


def said(client: Any) -> list[tuple[Any, ...]]:
    return [arguments[1:] for arguments in client.saying("transition")]


async def test_it_is_said_with_version_and_lease(client: Any, settled: Any) -> None:
    assert await settled() is not None
    assert said(client) == [(JobStatus.COMPLETED, "42", 2, 101)]


async def test_what_was_heard_is_not_said_again(
    client: Any, settled: Any, make_job: Callable[..., Job]
) -> None:
    done = make_job(status=JobStatus.COMPLETED, result="42", version=3)
    client.script["transition"] = [UNKNOWN]
    client.script["get"] = [UNREACHABLE, done]
    assert await settled() == done
    assert len(said(client)) == 1


async def test_what_was_not_heard_is_said_again(
    client: Any, settled: Any, make_job: Callable[..., Job]
) -> None:
    client.script["transition"] = [UNREACHABLE, UNKNOWN]
    client.script["get"] = [make_job(), make_job()]
    assert await settled() is not None
    assert said(client) == [(JobStatus.COMPLETED, "42", 2, 101)] * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"status": JobStatus.COMPLETED, "result": "somebody else's", "version": 3},
        {"status": JobStatus.FAILED, "error": "too late", "version": 3},
        {"status": JobStatus.COMPLETED, "result": "42", "version": 5},
    ],
)
async def test_a_job_that_moved_otherwise_is_left_alone(
    client: Any, settled: Any, make_job: Callable[..., Job], fields: dict[str, Any]
) -> None:
    client.script["transition"] = [UNKNOWN]
    client.script["get"] = [make_job(**fields)]
    assert await settled() is None
    assert len(said(client)) == 1


async def test_a_broker_without_the_job_ends_it(client: Any, settled: Any) -> None:
    client.script["transition"] = [UNKNOWN]
    assert await settled() is None


async def test_a_refusal_that_passes_needs_no_look_at_the_job(client: Any, settled: Any) -> None:
    client.script["transition"] = [DrainingError("leaving"), SessionEvictedError("restarted")]
    assert await settled() is not None
    assert len(said(client)) == 3
    assert not client.saying("get")


async def test_a_refusal_that_stays_ends_it(
    client: Any, settled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.script["transition"] = [LeaseLostError("lease 101 is over")]
    assert await settled() is None
    assert [record.getMessage() for record in caplog.records] == [
        "job 00000000-0000-0000-0000-000000000001: completed refused (lease 101 is over)"
    ]


async def test_a_result_too_large_for_this_broker_fails_the_job(client: Any, settled: Any) -> None:
    client.script["transition"] = [TooLargeError("too much", limit=1)]
    assert await settled() is not None
    assert said(client)[1][:2] == (
        JobStatus.FAILED,
        "the handler's result has 2 bytes, and a text may have 1",
    )
