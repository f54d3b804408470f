"""Leases are touched while they are held, and what the broker says about them is believed."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tollgate.client.errors import OutcomeUnknown
from tollgate.client.results import Lease
from tollgate.domain.exceptions import (
    InternalError,
    JobNotFoundError,
    LeaseLostError,
    TollgateError,
)
from tollgate.worker.lease import HeldJob, LeaseKeeper


@pytest.fixture
async def keeper(client: Any) -> AsyncIterator[LeaseKeeper]:
    keeper = LeaseKeeper(client, 15)
    running = asyncio.create_task(keeper.run())
    yield keeper
    running.cancel()


@pytest.fixture
async def held(make_lease: Callable[..., Lease]) -> AsyncIterator[HeldJob]:
    held = HeldJob(make_lease())
    held.task = asyncio.create_task(asyncio.sleep(3_600))
    yield held
    held.task.cancel()


async def test_a_lease_is_touched_until_it_is_dropped(
    client: Any, keeper: LeaseKeeper, held: HeldJob
) -> None:
    keeper.hold(held)
    await client.until_said("touch", 3)
    keeper.drop(held)
    await asyncio.sleep(0)
    touches = client.saying("touch")
    assert set(touches) == {(held.job.job_id, held.token)}
    await asyncio.sleep(0.05)
    assert client.saying("touch") == touches


@pytest.mark.parametrize("reason", [LeaseLostError("over"), JobNotFoundError("id")])
async def test_a_lost_lease_ends_the_task(
    client: Any, keeper: LeaseKeeper, held: HeldJob, reason: TollgateError
) -> None:
    client.script["touch"] = [None, reason, reason]
    keeper.hold(held)
    assert held.task is not None
    await asyncio.wait({held.task}, timeout=30)
    assert held.task.cancelled()
    assert held.is_lost


async def test_a_lease_that_its_own_outcome_ended_is_not_lost(
    client: Any, keeper: LeaseKeeper, held: HeldJob
) -> None:
    client.script["touch"] = [LeaseLostError("over")]
    held.is_settling = True
    keeper.hold(held)
    await client.until_said("touch", 2)
    assert not held.is_lost


@pytest.mark.parametrize(
    ("fault", "level"),
    [(OutcomeUnknown("no answer"), logging.DEBUG), (InternalError("oh"), logging.WARNING)],
)
async def test_a_touch_that_fails_is_followed_by_the_next(
    *,
    client: Any,
    keeper: LeaseKeeper,
    held: HeldJob,
    fault: TollgateError,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    client.script["touch"] = [fault]
    keeper.hold(held)
    await client.until_said("touch", 2)
    assert not held.is_lost
    assert [record.levelno for record in caplog.records if "touch" in record.message] == [level]


async def test_an_unanswered_touch_does_not_hold_up_the_others(
    client: Any, keeper: LeaseKeeper, make_lease: Callable[..., Lease]
) -> None:
    client.script["touch"] = [asyncio.Event().wait]
    stuck, other = HeldJob(make_lease(1)), HeldJob(make_lease(2))
    keeper.hold(stuck)
    await client.until_said("touch", 1)
    keeper.hold(other)
    await client.until_said("touch", 4)
    assert [token for _, token in client.saying("touch")] == [101, 102, 102, 102]


async def test_one_message_touches_all_leases(
    client: Any, keeper: LeaseKeeper, make_lease: Callable[..., Lease]
) -> None:
    client.script["touch"] = [None, LeaseLostError("over"), None]
    holds = [HeldJob(make_lease(number)) for number in (1, 2, 3)]
    for held in holds:
        keeper.hold(held)
    await client.until_said("touch", 4)
    assert client.messages[0] == ["touch"] * 3
    assert Counter(held.is_lost for held in holds) == {False: 2, True: 1}


async def test_leases_are_given_back_in_one_message(client: Any) -> None:
    await LeaseKeeper(client, 15).release([("a", 1), ("b", 2)])
    assert client.saying("release") == [("a", 1), ("b", 2)]
    assert client.messages == [["release"] * 2]
