"""Outcomes that the broker took, but whose answer never came: each still takes effect once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tollgate
from tollgate.client.errors import OutcomeUnknown
from tollgate.client.sync import Client
from tollgate.domain.commands import AnyCommand, Release
from tollgate.domain.models import Job
from tollgate.testing import Broker
from tollgate.worker.link import Link

PATIENCE_S = 40.0


def lose_first_answer(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lose the answer to the first message that gives a lease back; return when it is lost."""
    post, is_lost = Link.post, threading.Event()

    def lossy(self: Link, commands: list[AnyCommand], on_answer: Any, timeout_s: float) -> Any:
        loses = not is_lost.is_set() and any(isinstance(each, Release) for each in commands)

        def answered(values: list[Any]) -> None:
            if loses:
                is_lost.set()
                # A claim in the same message keeps its answer: its lease would have to lapse.
                values = [
                    OutcomeUnknown("lost") if isinstance(each, Release) else value
                    for each, value in zip(commands, values, strict=True)
                ]
            on_answer(values)

        return post(self, commands, answered, timeout_s)

    monkeypatch.setattr(Link, "post", lossy)
    return is_lost


@contextmanager
def working(broker: Broker, handler: Callable[..., object], **options: Any) -> Iterator[None]:
    worker = tollgate.Worker(handler, broker.endpoint, **options)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(PATIENCE_S)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def entries(client: Client, job: Job) -> list[str]:
    return [each.what for each in client.history(job.job_id).entries]


def test_a_retry_counts_once(
    tollgate_broker: Broker, tollgate_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def handler(job: Job, ctx: tollgate.Context) -> str:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            raise tollgate.Retry("busy", after_s=0)  # the job comes back at once
        return "done"

    is_lost = lose_first_answer(monkeypatch)
    job = tollgate_broker.pay(tollgate_client.create(input="a"))
    with working(tollgate_broker, handler):
        until(lambda: tollgate_client.get(job.job_id).status == "completed")
    assert is_lost.is_set()
    assert tries == [1, 2]
    assert entries(tollgate_client, job).count("released") == 1


def test_a_job_on_hold_is_held_once(
    tollgate_broker: Broker, tollgate_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def handler(job: Job, ctx: tollgate.Context) -> str:
        tries.append(ctx.attempt)
        if len(tries) == 1:
            raise ValueError
        return "done"

    lose_first_answer(monkeypatch)
    job = tollgate_broker.pay(tollgate_client.create(input="a"))
    with working(tollgate_broker, handler, max_attempts=1, on_exhausted="hold"):
        until(lambda: tollgate_client.get(job.job_id).on_hold)
        tollgate_client.resume(job.job_id)
        until(lambda: tollgate_client.get(job.job_id).status == "completed")
    assert tries == [1, 2]
    assert entries(tollgate_client, job).count("held") == 1


def test_a_drain_ends_with_a_job_on_hold(
    tollgate_broker: Broker, tollgate_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(job: Job) -> str:
        raise ValueError

    is_lost = lose_first_answer(monkeypatch)
    job = tollgate_broker.pay(tollgate_client.create(input="a"))
    tollgate_broker.drain(handler, max_attempts=1, on_exhausted="hold")
    assert is_lost.is_set()
    assert tollgate_client.get(job.job_id).on_hold
