"""A worker does what the roles of its key let it, and says what it does not do."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.broker.access.key_commands import new_key
from tests.brokers import PATIENCE_S, BrokerProcess, running_broker
from tollgate import Worker, connect
from tollgate.client.errors import BrokerUnreachableError
from tollgate.domain.exceptions import LeaseLostError, NotAuthorizedError, TollgateError
from tollgate.domain.status import AWAITING_PAYMENT, COMPLETED, RUNNING, JobStatus
from tollgate.worker.roles import Roles

REFUSED = NotAuthorizedError("claim takes the role worker")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Path, BrokerProcess]]:
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        new_key(directory, "alice")
        with running_broker(directory, keys=directory / "keys") as broker:
            yield directory, broker


@pytest.mark.parametrize(
    ("roles", "only", "told", "unpaid", "paid"),
    [
        ("admin", None, None, COMPLETED, COMPLETED),
        ("worker,payments", None, None, COMPLETED, COMPLETED),
        ("worker", None, "does work only", AWAITING_PAYMENT, COMPLETED),
        ("worker", "work", None, AWAITING_PAYMENT, COMPLETED),
        ("payments", "payments", None, RUNNING, RUNNING),
        ("worker", "payments", "refuses", AWAITING_PAYMENT, RUNNING),
        ("producer", "work", "refuses", AWAITING_PAYMENT, RUNNING),
    ],
)
async def test_a_worker_does_what_its_roles_let_it(  # noqa: PLR0917 - a table
    served: tuple[Path, BrokerProcess],
    caplog: pytest.LogCaptureFixture,
    roles: str,
    only: str | None,
    told: str | None,
    unpaid: JobStatus,
    paid: JobStatus,
) -> None:
    directory, broker = served
    queue = f"{roles.replace(',', '-')}-{only}"
    key = new_key(directory, f"key-{queue}", *roles.split(","))
    with connect(broker.endpoint) as local:
        jobs = [local.create(input="a", as_text=True, queue=queue).job_id for _ in range(2)]
        local.transition(jobs[1], RUNNING)
        worker = Worker(
            lambda job: job.input, broker.tcp, key=key, queues=[queue],
            simulate_payments=True, only=only, pay_delay_ms_min=0, pay_delay_ms_max=0,
        )  # fmt: skip
        serving = asyncio.create_task(worker.serve())
        async with asyncio.timeout(PATIENCE_S):
            while not serving.done():
                if told != "refuses" and [local.get(job_id).status for job_id in jobs] == [
                    unpaid,
                    paid,
                ]:
                    break
                await asyncio.sleep(0.01)
        worker.stop()
        assert await serving == (told == "refuses")
        assert [local.get(job_id).status for job_id in jobs] == [unpaid, paid]
        for job_id in jobs:  # no other test gets it
            if local.get(job_id).status is not COMPLETED:
                local.transition(job_id, "failed", error="cleared away")
    warnings = [
        record.getMessage() for record in caplog.records
        if record.levelname != "INFO" and "simulated" not in record.getMessage()
    ]  # fmt: skip
    assert len(warnings) == bool(told), warnings
    assert told is None or told in warnings[0]


class Pinged:
    """A link that answers each ping with the next of these: roles, or an error."""

    def __init__(self, *answers: list[str] | TollgateError) -> None:
        self._answers = [*answers]

    async def ping(self, timeout_s: float) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, TollgateError):
            raise answer
        return SimpleNamespace(roles=answer, role=answer[0])


@pytest.mark.parametrize(
    ("at_start", "now", "waits"),
    [
        (["worker"], ["observer"], True),
        (["worker", "payments"], ["worker"], True),
        (["worker"], BrokerUnreachableError("away"), True),
        (["worker"], ["worker"], False),  # it never had the role for this
        (["worker"], ["worker", "admin"], False),
        (["worker"], REFUSED, False),  # the key has ended
    ],
)
async def test_a_role_may_come_back_if_the_key_had_it(
    at_start: list[str], now: list[str] | TollgateError, *, waits: bool
) -> None:
    link = Pinged(at_start, now)
    roles = Roles(link)
    roles.begin(await link.ping(1.0))
    assert await roles.may_come_back(REFUSED) == waits


async def test_a_refusal_from_before_a_role_was_back_is_no_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    link = Pinged(["worker"], ["observer"], ["worker"], ["worker"])
    roles = Roles(link)
    roles.begin(await link.ping(1.0))
    assert [await roles.may_come_back(REFUSED) for _ in range(3)] == [True] * 3
    assert not roles.are_missing
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


async def test_other_refusals_have_nothing_to_do_with_roles() -> None:
    roles = Roles(Pinged())
    assert not await roles.may_come_back(REFUSED)  # nothing is known of the start
    assert not await roles.may_come_back(LeaseLostError("over"))
