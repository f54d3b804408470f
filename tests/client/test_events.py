"""Following events with both clients, over restarts of a real broker."""

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import BrokerProcess, running_broker
from tests.testing.inside import is_parked
from tollgate.client.aio import AsyncClient
from tollgate.client.following import Following
from tollgate.client.sync import Client
from tollgate.domain.commands import Events
from tollgate.domain.exceptions import ArgumentError, DrainingError, EventsGoneError
from tollgate.domain.results import EventsResult, JobEvent, error_of, refusal_of
from tollgate.testing import Broker

from .peers import HASH, PATIENCE_S, refused, reply
from .talk import Talk

EMPTY = EventsResult([], "log-2-0", "log-2-0")


@pytest.fixture
def durable(endpoint: str) -> Iterator[BrokerProcess]:
    directory = Path(endpoint.removeprefix("ipc://")).parent
    with running_broker(directory, data_dir=directory / "data") as broker:
        yield broker


def test_events_come_after_a_list(client_of_empty: Any) -> None:
    client = client_of_empty
    client.create(HASH)
    page = client.list_page()
    job = client.create(HASH, input='{"a": 1}', queue="mail")
    client.transition(job.job_id, "running")
    created, moved = client.events(page.as_of, follow=False, texts=True)
    assert (created.what, created.job_id, created.queue) == ("created", job.job_id, "mail")
    assert created.fields["input"] == '{"a": 1}'
    assert (moved.what, moved.from_, moved.status) == ("moved", "awaiting_payment", "running")
    assert moved.fields == {
        "status": "running", "version": 2, "queue": "mail", "updated_at": moved.at,
    }  # fmt: skip
    assert [*client.events(created.position, follow=False)] == [moved]


def test_events_are_read_in_pages(client_of_empty: Any) -> None:
    client = client_of_empty
    start = client.count().as_of
    client.create_many([HASH] * 10)
    events = [*client.events(start, follow=False, page=3)]
    assert len(events) == 10
    page = client.events_page(start, limit=4)
    assert [event.job_id for event in page.events] == [event.job_id for event in events[:4]]
    assert page.next == page.events[-1].position
    assert client.events_page(events[-1].position) == EventsResult([], page.as_of, page.as_of)


def test_events_of_one_queue_status_or_job(client_of_empty: Any) -> None:
    client = client_of_empty
    start = client.count().as_of
    jobs = [client.create(HASH, queue=queue) for queue in ("a", "b", "c")]
    client.transition(jobs[0].job_id, "running")

    def told(**only: Any) -> list[str]:
        return [event.queue for event in client.events(start, follow=False, **only)]

    assert told(queues="b") == ["b"]
    assert told(queues=["b", "c"]) == ["b", "c"]
    assert told(statuses="running") == ["a"]
    assert told(job_ids=[jobs[0].job_id, jobs[2].job_id]) == ["a", "c", "a"]
    batch = client.batch()
    batch.events_page(start, queues="c")
    (page,) = batch.send()
    assert [event.queue for event in page.events] == ["c"]


def test_a_position_of_another_broker_is_gone(client_of_empty: Any) -> None:
    with pytest.raises(EventsGoneError) as caught:
        next(client_of_empty.events("elsewhere-1-0"))
    assert caught.value.newest == client_of_empty.count().as_of
    assert [*client_of_empty.events(caught.value.oldest, follow=False)] == []


@pytest.mark.parametrize(
    "wrong",
    [{"after": 1}, {"after": ""}, {"queues": 1}, {"queues": ["*"]}, {"statuses": ["paid"]},
     {"job_ids": []}, {"page": 0}, {"texts": "yes"}],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_named(client_of_empty: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        [*client_of_empty.events(**{"follow": False, **wrong})]


def test_a_follower_waits_for_what_happens(tollgate_broker: Broker) -> None:
    with Client(tollgate_broker.endpoint) as client, Client(tollgate_broker.endpoint) as other:
        events = client.events(client.count().as_of)
        timer = threading.Timer(0.2, other.create, [HASH])
        timer.start()
        assert next(events).what == "created"
        timer.join()


def test_a_follower_that_is_interrupted_leaves_nothing_parked(tollgate_broker: Broker) -> None:
    async def until(*, waiting: bool) -> None:
        while is_parked(tollgate_broker) is not waiting:  # noqa: ASYNC110 - it is another thread
            await asyncio.sleep(0.01)

    async def follow() -> None:
        async with AsyncClient(tollgate_broker.endpoint) as client:
            events = client.events((await client.count()).as_of)
            task = asyncio.ensure_future(anext(events))
            await until(waiting=True)
            task.cancel()
            await until(waiting=False)

    asyncio.run(asyncio.wait_for(follow(), PATIENCE_S))


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_a_follower_goes_on_over_restarts(durable: BrokerProcess, *, kill: bool) -> None:
    """No event is missed, and none comes twice."""
    seen: list[JobEvent] = []
    with Client(durable.endpoint, timeout_s=PATIENCE_S) as client:
        events = client.events(client.count().as_of, page=7)
        made: list[str] = []
        for _ in range(3):
            with Client(durable.endpoint, timeout_s=PATIENCE_S) as other:
                made += [job.job_id for job in other.create_many([HASH] * 20)]
            seen += islice(events, 15)  # and so some are read only after the restart
            if kill:
                durable.kill()
            else:
                durable.stop()
            durable.restart()
        seen += islice(events, 60 - len(seen))
    assert [event.job_id for event in seen] == made


def test_a_follower_is_parked_again_after_a_restart(durable: BrokerProcess) -> None:
    def restart() -> None:
        time.sleep(0.3)
        durable.kill()
        durable.restart()
        with Client(durable.endpoint, timeout_s=PATIENCE_S) as other:
            other.create(HASH)

    with Client(durable.endpoint, timeout_s=PATIENCE_S) as client:
        start = client.count().as_of
        thread = threading.Thread(target=restart)
        thread.start()
        event = next(client.events(start))
        thread.join()
    assert event.what == "created"


# --- without a broker -----------------------------------------------------------------------------


def following(after: str | None, *, follow: bool = True) -> Following:
    return Following(
        after, queues=None, statuses=None, job_ids=None, texts=False, follow=follow, page=9,
        patience_s=5.0,
    )  # fmt: skip


def test_a_follower_without_a_position_asks_for_one_first() -> None:
    stream = following(None)
    first, deadline = stream.request(100.0)
    assert (first, deadline) == (Events(limit=9), 105.0)
    stream.take(EMPTY)
    second, deadline = stream.request(100.0)
    assert (second.after, second.wait_ms, deadline) == ("log-2-0", 15_000, 120.0)
    assert not stream.is_done


def test_a_reader_that_does_not_follow_ends_at_the_end() -> None:
    stream = following("log-1-0", follow=False)
    stream.take(EventsResult([], "log-2-0", "log-3-0"))
    assert not stream.is_done
    stream.take(EMPTY)
    assert stream.is_done


def test_a_repeat_waits_only_for_the_time_that_is_left() -> None:
    talk = Talk()
    talk.ask(Events(after="log-1-0", wait_ms=15_000), timeout_s=60)
    (first,) = talk.requests()
    talk.now += 6
    (again,) = talk.requests()
    assert first.commands == [Events(after="log-1-0", wait_ms=15_000)]
    assert again.commands == [Events(after="log-1-0", wait_ms=9_000)]
    assert again.seq == first.seq


@pytest.mark.parametrize("whole", [True, False])
def test_a_stopping_broker_is_asked_again(*, whole: bool) -> None:
    talk = Talk()
    call = talk.ask(Events(after="log-1-0", wait_ms=15_000), timeout_s=60)
    (first,) = talk.requests()
    refusal = DrainingError("the broker is about to leave")
    if whole:
        talk.hear(refused(first.seq, refusal))
    else:
        talk.hear(reply(first.seq, error_of(refusal)))
    talk.now += 6
    (again,) = talk.requests()
    talk.hear(reply(again.seq, EMPTY))
    assert call.values == [EMPTY]


def test_events_gone_has_its_positions_after_the_wire() -> None:
    gone = EventsGoneError("gone", oldest="log-3-0", newest="log-9-1")
    again = refusal_of(error_of(gone))
    assert isinstance(again, EventsGoneError)
    assert (again.oldest, again.newest) == ("log-3-0", "log-9-1")
