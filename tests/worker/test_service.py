"""What a worker makes of a broker that will not have it, and says with its exit code."""

import asyncio
from typing import Any

import pytest

from tollgate.domain.exceptions import UnsupportedVersionError
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
    ("only", "stages"),
    [(None, [PaymentStage, WorkStage]), ("payments", [PaymentStage]), ("work", [WorkStage])],
)
def test_stages_are_what_was_asked_for(only: str | None, stages: list[type]) -> None:
    settings = Settings(endpoint="ipc:///somewhere", only=only)
    calls = HandlerCalls(str, 1)
    assert [type(stage) for stage in service._stages(settings, calls, PaymentSimulator())] == stages
