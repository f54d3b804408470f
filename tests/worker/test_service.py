"""What a worker makes of a broker that will not have it, and says with its exit code."""

import asyncio
from typing import Any

import pytest

from tollgate.domain.exceptions import UnsupportedVersionError
from tollgate.domain.results import HelloResult
from tollgate.domain.status import AWAITING_PAYMENT, RUNNING, JobStatus
from tollgate.worker import service
from tollgate.worker.handlers import HandlerCalls, WorkStage
from tollgate.worker.payments import PaymentSimulator, PaymentStage
from tollgate.worker.runner import Runner
from tollgate.worker.settings import Settings


async def test_a_broker_that_will_not_have_it_ends_it(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(endpoint="ipc:///somewhere", only="payments")
    runner = Runner(client, [PaymentStage(PaymentSimulator(), 1)], settings)
    refusal = UnsupportedVersionError("this broker speaks\nversion 9")
    client.script |= {"ping": [refusal], "claim": [refusal]}
    stop = asyncio.Event()
    assert await service._run(runner, client, settings, stop) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the broker refuses this worker: this broker speaks version 9"
    ]


@pytest.mark.parametrize(
    ("endpoint", "roles", "only", "told", "claimed"),
    [
        ("ipc:///b", ["admin"], None, "its role is admin", {AWAITING_PAYMENT, RUNNING}),
        ("tcp://b:1", ["admin"], None, None, {AWAITING_PAYMENT, RUNNING}),
        ("tcp://b:1", ["worker", "payments"], None, None, {AWAITING_PAYMENT, RUNNING}),
        ("tcp://b:1", ["worker"], None, "does work only", {RUNNING}),
        ("tcp://b:1", [], None, "does work only", {RUNNING}),  # a broker of revision 1
        ("tcp://b:1", ["worker"], "work", None, {RUNNING}),
    ],
)
async def test_a_worker_does_what_its_roles_let_it(  # noqa: PLR0917 - a table
    client: Any,
    caplog: pytest.LogCaptureFixture,
    endpoint: str,
    roles: list[str],
    only: str | None,
    told: str | None,
    claimed: set[JobStatus],
) -> None:
    settings = Settings(endpoint=endpoint, only=only)
    stages = service._stages(settings, HandlerCalls(str, 1), PaymentSimulator())
    runner = Runner(client, stages, settings)
    caplog.set_level("INFO", "tollgate.worker")
    hello = HelloResult(1, "tollgate test", "boot", None, True, "worker", {}, roles)
    client.script["ping"] = [hello]
    running = asyncio.create_task(service._run(runner, client, settings, asyncio.Event()))
    await client.until_said("claim", len(claimed))
    runner.stop()
    assert await running == 0
    assert {status for status, _ in client.saying("claim")} == claimed
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "role" in line] == [
        line for line in lines if told and told in line
    ]
    assert len(lines) == 1 + bool(told)


@pytest.mark.parametrize(
    ("only", "stages"),
    [(None, [PaymentStage, WorkStage]), ("payments", [PaymentStage]), ("work", [WorkStage])],
)
def test_stages_are_what_was_asked_for(only: str | None, stages: list[type]) -> None:
    settings = Settings(endpoint="ipc:///somewhere", only=only)
    calls = HandlerCalls(str, 1)
    assert [type(stage) for stage in service._stages(settings, calls, PaymentSimulator())] == stages
