"""A broker that has forgotten a client's session: the client opens another one and goes on."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.sync import Client
from tollgate.domain.commands import Claim, Touch, Transition
from tollgate.domain.exceptions import SessionEvictedError
from tollgate.domain.results import Grant, LeasesResult
from tollgate.domain.status import JobStatus

from .peers import PATIENCE_S, BrokerProcess, job_fields, job_id, job_result, refused, reply
from .talk import Talk
from .test_request_session import CLAIM, MOVE, open_session

GONE = SessionEvictedError("gone")


@pytest.fixture
def talk() -> Talk:
    return Talk(remembers=True)


@pytest.fixture
def stopped(endpoint: str) -> Iterator[Callable[..., BrokerProcess]]:
    """Return a function that makes brokers, which are not started yet and are killed at the end."""
    made: list[BrokerProcess] = []

    def make(*options: str, in_memory: bool = True) -> BrokerProcess:
        made.append(BrokerProcess(endpoint, *options, in_memory=in_memory))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def test_another_session_is_asked_for_at_once(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.hear(refused(first.seq, GONE))
    (again,) = open_session(talk, talk.requests(), number=8)
    talk.hear(reply(again.seq, job_result(1)))
    assert call.done
    assert talk.now == 100.0


def test_a_broker_that_always_forgets_is_asked_slowly(talk: Talk) -> None:
    talk.ask(MOVE, timeout_s=60)
    (request,) = open_session(talk, talk.requests())
    talk.hear(refused(request.seq, GONE))
    for number in range(8, 12):
        (request,) = open_session(talk, talk.requests() or talk.wake(), number)
        talk.hear(refused(request.seq, GONE))
    assert talk.requests() == []
    assert talk.now > 105


def test_no_other_session_in_time_is_no_eviction(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.hear(refused(first.seq, GONE))
    while not call.done:
        talk.wake()
    assert type(call.values[0]) is BrokerUnreachableError
    assert "has forgotten the session" in str(call.values[0])


@pytest.mark.parametrize("others", [(), (Touch(job_id=job_id(1), lease=1, lease_ms=1_000),)])
def test_a_claim_goes_on_in_another_session(talk: Talk, others: tuple[Touch, ...]) -> None:
    claim = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=0, limit=1)
    call = talk.ask(claim, *others)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, GONE))
    assert not call.done
    (again,) = open_session(talk, talk.wake(), number=8)
    assert again.session == 8
    talk.hear(reply(first.seq, LeasesResult([Grant(job_fields(1), 5)])))  # it was executed, late
    (release,) = talk.requests()
    assert [type(command).__name__ for command in release.commands] == ["Release"]


def test_a_claim_beside_a_change_is_unknown(talk: Talk) -> None:
    claim = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=0, limit=1)
    call = talk.ask(claim, MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, GONE))
    assert [type(value) for value in call.values] == [OutcomeUnknown] * 2


def test_a_parked_claim_repeated_to_a_new_broker_goes_on(talk: Talk) -> None:
    call = talk.ask(CLAIM)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, GONE))
    (again,) = open_session(talk, talk.wake(), number=8)
    talk.hear(reply(again.seq, LeasesResult([])))
    assert call.values == [[]]


def test_a_late_eviction_leaves_the_new_session_alone(talk: Talk) -> None:
    talk.ask(MOVE)
    other = talk.ask(Transition(job_id=job_id(2), target=JobStatus.RUNNING))
    first, second = open_session(talk, talk.requests())
    talk.hear(refused(first.seq, GONE))
    (again,) = open_session(talk, talk.requests(), number=8)
    talk.hear(reply(again.seq, job_result(1)))
    assert talk.wake() == [second]  # in the old session: the broker may have executed it there
    talk.hear(refused(second.seq, GONE))
    assert isinstance(other.values[0], OutcomeUnknown)
    talk.ask(MOVE)
    (third,) = talk.requests()
    assert third.session == 8


def test_clients_go_on_after_an_in_memory_restart(
    make_client: Callable[..., Any], stopped: Callable[..., BrokerProcess], endpoint: str
) -> None:
    broker = stopped().start()
    client, other = (make_client(endpoint, timeout_s=PATIENCE_S) for _ in range(2))
    client.create(input="a")
    with ThreadPoolExecutor() as pool:
        claims = pool.submit(other.claim, "running", wait_ms=60_000)
        broker.kill()
        broker.start()
        job = client.create(input="b")
        client.transition(job.job_id, "running")
        (lease,) = claims.result(PATIENCE_S)
        assert lease.job.job_id == job.job_id


def test_an_evicted_client_goes_on(
    make_client: Callable[..., Any], stopped: Callable[..., BrokerProcess], endpoint: str
) -> None:
    stopped("--sessions", "2").start()
    clients = [make_client(endpoint, timeout_s=PATIENCE_S) for _ in range(4)]
    for _ in range(3):
        for client in clients:
            client.create(input="a")
    assert clients[0].count().total == 12


def test_clients_go_on_after_a_copy_was_restored(
    make_client: Callable[..., Any],
    stopped: Callable[..., BrokerProcess],
    endpoint: str,
    tmp_path: Path,
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    broker = stopped("--data-dir", str(data), in_memory=False).start()
    with Client(endpoint, timeout_s=PATIENCE_S) as earlier:
        earlier.create(input="a")
    broker.terminate()
    shutil.copytree(data, copy)
    broker.start()
    client, other = (make_client(endpoint, timeout_s=PATIENCE_S) for _ in range(2))
    client.create(input="not in the copy")
    broker.kill()
    shutil.rmtree(data)
    copy.rename(data)
    broker.start()
    for _ in range(3):  # in a session of its own, or they would get the answers of each other
        assert other.create(input="b").input == "b"
        assert client.create(input="c").input == "c"
    assert client.count().total == 7
