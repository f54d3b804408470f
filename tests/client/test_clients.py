"""Every call of both clients against a real broker."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tollgate.client import commands
from tollgate.client.errors import BatchError, ClientClosedError
from tollgate.client.sync import Client, connect
from tollgate.domain import messages
from tollgate.domain.commands import AnyCommand, Create
from tollgate.domain.exceptions import (
    ArgumentError,
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    LeaseHeldError,
    LeaseLostError,
    RepositoryFullError,
    TooLargeError,
    VersionConflictError,
    WaitTimeoutError,
)
from tollgate.domain.hashing import input_hash
from tollgate.domain.messages import Request, decode_request
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import CountResult
from tollgate.testing import Broker

from .peers import HASH, PATIENCE_S, SOON_S, BrokerProcess, job_id

Make = Callable[..., Any]


def running(client: Any) -> Job:
    job: Job = client.transition(client.create(HASH).job_id, "running")
    return job


def test_ping_returns_the_greeting(client: Any) -> None:
    hello = client.ping()
    assert hello.protocol == 1
    assert hello.limits["commands"] == 1_000
    assert client.ping(timeout_s=PATIENCE_S).boot_id == hello.boot_id


def test_create_stores_every_field(client: Any) -> None:
    at = datetime(2100, 1, 1, tzinfo=UTC)
    fields = {
        "input": '{"a": 1}',
        "identifier_from_purchaser": "aabb",
        "job_id": job_id(1),
        "blockchain_identifier": "on chain",
        "pay_by_time": at,
        "submit_result_time": at + timedelta(hours=1),
    }
    job = client.create(HASH, **fields)
    assert isinstance(job, Job)
    assert job.status is JobStatus.AWAITING_PAYMENT
    assert job.input_hash == HASH
    assert job.model_dump(include=set(fields)) == fields

    assert client.create(HASH, **fields) == job
    assert client.get(job_id(1)) == job
    assert client.get(blockchain_identifier="on chain") == job
    with pytest.raises(JobConflictError):
        client.create("f" * 64, job_id=job_id(1))


def test_create_hashes_the_input(client: Any) -> None:
    job = client.create(input='{"b": 2, "a": 1.0}', identifier_from_purchaser="aabb")
    assert job.input == '{"b": 2, "a": 1.0}'
    assert job.input_hash == input_hash("aabb", {"a": 1, "b": 2})


def test_a_missing_job_is_not_found(client: Any) -> None:
    with pytest.raises(JobNotFoundError) as caught:
        client.get("nowhere")
    assert caught.value.job_id == "nowhere"


def test_a_job_goes_through_its_whole_life(client: Any) -> None:
    job = client.create(HASH)
    job = client.transition(job.job_id, JobStatus.RUNNING, expected_version=1)
    job = client.transition(job.job_id, "awaiting_input", input_schema='{"type": "string"}')
    assert job.input_schema == '{"type": "string"}'
    job = client.provide_input(job.job_id, "here", expected_version=job.version)
    assert (job.status, job.provided_input) == (JobStatus.RUNNING, "here")
    job = client.transition(job.job_id, "completed", result="done")
    assert (job.status, job.result, job.version) == (JobStatus.COMPLETED, "done", 5)
    with pytest.raises(InvalidStateTransitionError) as caught:
        client.transition(job.job_id, "failed", error="too late")
    assert (caught.value.from_state, caught.value.to_state) == ("completed", "failed")


def test_refusals_carry_status_and_version(client: Any) -> None:
    job = running(client)
    with pytest.raises(VersionConflictError) as caught:
        client.transition(job.job_id, "failed", expected_version=1)
    assert (caught.value.status, caught.value.version) == ("running", 2)
    with pytest.raises(InvalidStateTransitionError):
        client.cancel(job.job_id)


def test_cancel_ends_an_unpaid_job(client: Any) -> None:
    job = client.cancel(client.create(HASH).job_id, expected_version=1)
    assert (job.status, job.error) == (JobStatus.FAILED, "cancelled")


def test_count_by_status(client_of_empty: Any) -> None:
    client = client_of_empty
    client.create(HASH)
    running(client)
    count = client.count()
    assert isinstance(count, CountResult)
    assert count.total == 2
    assert count.by_status["running"] == 1
    assert client.count("running").by_status == {"running": 1}


def test_list_yields_every_job_once_by_creation(client_of_empty: Any) -> None:
    client = client_of_empty
    ids = [job.job_id for job in client.create_many([HASH] * 25)]
    assert [job.job_id for job in client.list(page=10)] == ids
    assert [*client.list("completed")] == []

    page = client.list_page(limit=20)
    assert [job.job_id for job in page.jobs] == ids[:20]
    page = client.list_page("awaiting_payment", after=page.next, limit=20)
    assert [job.job_id for job in page.jobs] == ids[20:]
    assert page.next is None


def test_wait_returns_a_finished_job_at_once(client: Any) -> None:
    job = client.cancel(client.create(HASH).job_id)
    assert client.wait(job.job_id) == job
    assert client.wait([client.create(HASH).job_id, job.job_id], timeout_s=PATIENCE_S) == job
    assert client.wait(running(client).job_id, statuses=["running"]).status is JobStatus.RUNNING


def test_wait_times_out(client: Any) -> None:
    job = client.create(HASH)
    for timeout_s in (0, SOON_S):
        with pytest.raises(WaitTimeoutError):
            client.wait(job.job_id, timeout_s=timeout_s)


def test_a_long_wait_is_sent_in_slices(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.client.waits.SLICE_MS", 20)
    with pytest.raises(WaitTimeoutError):
        client.wait(client.create(HASH).job_id, timeout_s=SOON_S)


def test_a_wait_ends_by_another_clients_change(make_client: Make, broker: BrokerProcess) -> None:
    waiting, acting = (make_client(broker.endpoint) for _ in range(2))
    job = acting.create(HASH)
    with ThreadPoolExecutor() as pool:
        waited = pool.submit(waiting.wait, job.job_id)
        acting.cancel(job.job_id)
        assert waited.result(PATIENCE_S).status is JobStatus.FAILED


def test_a_claim_ends_by_another_clients_change(make_client: Make, tollgate_broker: Broker) -> None:
    claiming, acting = (make_client(tollgate_broker.endpoint) for _ in range(2))
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(claiming.claim, "running", wait_ms=60_000)
        job = running(acting)
        (lease,) = claimed.result(PATIENCE_S)
    assert lease.job == job


def test_claim_touch_and_release(client_of_empty: Any) -> None:
    client = client_of_empty
    job = running(client)
    (lease,) = client.claim("running", lease_ms=60_000, limit=5)
    assert (lease.job, lease.lease_ms) == (job, 60_000)
    assert client.claim("running") == []
    assert client.claim("running", wait_ms=20) == []
    assert not client.touch(job.job_id, lease.token, lease_ms=90_000).stop_requested
    with pytest.raises(LeaseHeldError):
        client.transition(job.job_id, "completed", result="mine")
    assert client.release(job.job_id, lease.token) is None
    with pytest.raises(LeaseLostError):
        client.touch(job.job_id, lease.token)

    (again,) = client.claim("running")
    assert again.token > lease.token
    done = client.transition(job.job_id, "completed", result="mine", lease=again.token)
    assert done.status is JobStatus.COMPLETED


def test_what_time_brings_is_told(client_of_empty: Any, tollgate_broker: Broker) -> None:
    client = client_of_empty
    job = running(client)
    (lease,) = client.claim("running", lease_ms=60_000)
    tollgate_broker.advance(60)
    with pytest.raises(LeaseLostError):
        client.touch(job.job_id, lease.token)
    (again,) = client.claim("running")
    client.release(job.job_id, again.token, delay_s=3_600, reason="busy")
    assert client.claim("running") == []
    tollgate_broker.advance(3_600)
    (last,) = client.claim("running")
    assert last.job.attempts == 2
    assert client.get(client.create(HASH).job_id).created_at == tollgate_broker.now


def test_create_many_fills_messages_and_keeps_the_order(client: Any) -> None:
    progress: list[int] = []
    rows = [{"input": str(number)} for number in range(2_500)]
    before = client.count().total
    jobs = client.create_many(iter(rows), on_progress=progress.append)
    assert [job.input for job in jobs] == [str(number) for number in range(2_500)]
    assert progress == sorted(set(progress))
    assert progress[-1] == 2_500
    assert client.count().total == before + 2_500


def test_create_many_stores_all_valid_rows(client: Any) -> None:
    rows = [HASH, "short", Create(input_hash=HASH), {"input": "x" * 300_000}, {"input": "text"}]
    before = client.count().total
    with pytest.raises(BatchError) as caught:
        client.create_many(rows)
    kinds = [Job, ArgumentError, Job, TooLargeError, Job]
    assert [type(result) for result in caught.value.results] == kinds
    assert [position for position, _ in caught.value.failed] == [1, 3]
    assert client.count().total == before + 3


def test_send_many_takes_commands_as_they_are_sent(client_of_empty: Any) -> None:
    client = client_of_empty
    ids = [job_id(number) for number in range(1, 2_501)]
    made: list[int] = []
    progress: list[int] = []

    def lifecycles() -> Iterator[AnyCommand]:
        for number, each in enumerate(ids):
            made.append(number)
            yield commands.create(HASH, job_id=each)
        # By now many of them are stored: no more than four messages are ahead of the answers.
        # How far the reports are behind the answers depends on the machine.
        seen.append(progress[-1])
        for each in ids:
            yield commands.transition(each, "running")
        yield commands.get("nowhere")
        yield commands.count()

    seen: list[int] = []
    values = client.send_many(lifecycles(), on_progress=progress.append, message_commands=100)
    assert [job.job_id for job in values[:2_500]] == ids
    assert {job.status for job in values[2_500:5_000]} == {JobStatus.RUNNING}
    assert isinstance(values[5_000], JobNotFoundError)
    assert values[5_001].by_status["running"] == 2_500
    assert seen[0] >= 1_000
    assert made == list(range(2_500))


def test_a_slow_iterable_loses_no_answer(make_client: Make, broker: BrokerProcess) -> None:
    client = make_client(broker.endpoint, timeout_s=1)
    client.ping(timeout_s=PATIENCE_S)  # it may take its time to start

    def slow() -> Iterator[AnyCommand]:
        for number in range(8):
            if number == 5:
                time.sleep(1.5)  # longer than a message may take
            yield commands.create(HASH)

    values = client.send_many(slow(), message_commands=1)
    assert [type(value) for value in values] == [Job] * 8


def test_on_progress_may_use_the_same_client(
    broker: BrokerProcess,
) -> None:
    client = Client(broker.endpoint, timeout_s=PATIENCE_S)
    before = client.count().total
    totals: list[int] = []

    def tell(_: int) -> None:
        time.sleep(0.02)  # everything in flight is answered by now
        totals.append(client.count().total)

    client.create_many([HASH] * 20, message_commands=1, on_progress=tell)
    assert totals[-1] == before + 20
    client.close()


def test_send_many_passes_an_exception_of_the_iterable(client: Any) -> None:
    def some() -> Iterator[AnyCommand]:
        yield commands.create(HASH)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.send_many(some())
    assert client.send_many([]) == []
    assert client.ping().protocol == 1  # and goes on


def test_create_many_of_nothing(client: Any) -> None:
    assert client.create_many([]) == []


def test_create_many_passes_an_exception_of_the_iterable(client: Any) -> None:
    def rows() -> Iterator[str]:
        yield HASH
        raise LookupError("the rows are gone")

    before = client.count().total
    with pytest.raises(LookupError, match="the rows are gone"):
        client.create_many(rows())
    assert client.count().total == before


def test_a_full_repository(make_client: Make, endpoint: str) -> None:
    broker = BrokerProcess(endpoint, "--jobs", "3").start()
    try:
        client = make_client(timeout_s=PATIENCE_S)
        with pytest.raises(BatchError) as caught:
            client.create_many([HASH] * 5)
        kinds = [Job] * 3 + [RepositoryFullError] * 2
        assert [type(result) for result in caught.value.results] == kinds
    finally:
        broker.kill()


def test_results_that_do_not_fit_are_asked_for_again(client: Any) -> None:
    text = "x" * 60_000
    ids = [client.create(HASH, input=text).job_id for _ in range(3)]
    batch = client.batch()
    for number in range(200):  # 12 MB in all, where a reply holds 4 MiB
        batch.get(ids[number % 3])
    jobs = batch.send()
    assert [job.job_id for job in jobs] == [ids[number % 3] for number in range(200)]


def test_a_batch_of_every_command(client_of_empty: Any) -> None:
    client = client_of_empty
    old, work, asking = client.create(HASH), running(client), running(client)
    asking = client.transition(asking.job_id, "awaiting_input")
    batch = client.batch(timeout_s=PATIENCE_S)
    assert batch.create(HASH, job_id=job_id(5)) == 0
    assert batch.get(job_id(5)) == 1
    batch.get("nowhere")
    batch.cancel(old.job_id)
    batch.count("failed")
    batch.list_page(limit=1)
    batch.claim("running")
    batch.touch(work.job_id, 77)
    batch.release(work.job_id, 77)
    batch.transition(work.job_id, "completed", result="not mine")
    batch.provide_input(asking.job_id, "here", expected_version=asking.version)
    assert len(batch) == 11

    values = batch.send()

    created, got, missing, cancelled, count, page, leases, lost, lost_too, held, provided = values
    assert created == got
    assert isinstance(missing, JobNotFoundError)
    assert cancelled.status is JobStatus.FAILED
    assert count.by_status == {"failed": 1}
    assert [job.job_id for job in page.jobs] == [old.job_id]
    assert [lease.job.job_id for lease in leases] == [work.job_id]
    assert {type(value) for value in (lost, lost_too)} == {LeaseLostError}
    assert isinstance(held, LeaseHeldError)
    assert provided.provided_input == "here"
    with pytest.raises(RuntimeError, match="a batch is sent once"):
        batch.send()


def test_a_batch_refuses_invalid_arguments(client: Any) -> None:
    batch = client.batch()
    with pytest.raises(ArgumentError):
        batch.transition("a", "paid")
    assert batch.send() == []


def test_a_closed_client_raises(client: Any) -> None:
    client.create(HASH)
    client.close()
    client.close()
    if isinstance(client, Client):
        with pytest.raises(ClientClosedError):
            client.count()


def test_a_client_is_a_context_manager(broker: BrokerProcess) -> None:
    with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
        client.ping()
    with pytest.raises(ClientClosedError):
        client.ping()


def test_connect_pings_the_broker(broker: BrokerProcess) -> None:
    with connect(broker.endpoint, timeout_s=PATIENCE_S) as client:
        assert client.endpoint == broker.endpoint
        assert client._session.greeting is not None


def test_the_endpoint_may_come_from_the_environment(
    make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "ipc:///somewhere")
    assert Client().endpoint == "ipc:///somewhere"
    assert Client("ipc:///else").endpoint == "ipc:///else"
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "")
    assert Client().endpoint.endswith("/broker.sock")


def test_the_iterable_may_use_the_same_client(broker: BrokerProcess) -> None:
    with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = client.create_many([{"input": str(number)} for number in range(30)])
        copies = client.create_many({"input": f"{client.get(job.job_id).input}!"} for job in jobs)
        assert [job.input for job in copies] == [f"{number}!" for number in range(30)]


def has_creates(request: Request) -> bool:
    return any(isinstance(command, Create) for command in request.commands)


def test_message_commands_limits_a_request(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client.ping()
    frames: list[Request] = []
    build = messages.encode_frame

    def encode_frame(*parts: Any) -> bytes:
        frame = build(*parts)
        frames.append(decode_request(frame))
        return frame

    monkeypatch.setattr("tollgate.client.inflight.encode_frame", encode_frame)
    jobs = client.create_many([HASH] * 25, message_commands=10)
    assert [len(frame.commands) for frame in frames if has_creates(frame)] == [10, 10, 5]
    frames.clear()
    batch = client.batch(message_commands=7)
    for job in jobs:
        batch.get(job.job_id)
    assert batch.send() == jobs
    assert [len(frame.commands) for frame in frames if frame.commands] == [7, 7, 7, 4]


def test_message_commands_is_at_least_one(client: Any) -> None:
    with pytest.raises(ValueError, match="whole number from 1 on"):
        client.batch(message_commands=0)
    with pytest.raises(ValueError, match="whole number from 1 on"):
        client.create_many([HASH], message_commands=-1)


def test_a_spinning_client_gets_the_same_answers(broker: BrokerProcess) -> None:
    with connect(broker.endpoint, spin_us=300) as client:
        job = client.create(HASH)
        assert client.get(job.job_id) == job
        with pytest.raises(WaitTimeoutError):
            client.wait(job.job_id, timeout_s=SOON_S)
