"""The calls of revision 2 of the protocol, of both clients, against a real broker."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tollgate.client.results import Explanation, History, Touched
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseHeldError,
    LeaseLostError,
    VersionConflictError,
)
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import InputRound, LeaseInfo, Progress, StatsResult
from tollgate.domain.settlement import SettlementState

from .peers import HASH, PATIENCE_S, BrokerProcess

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
_queues = count(1)


@pytest.fixture
def queue() -> str:
    """Return the name of a queue that no other test uses."""
    return f"queue-{next(_queues)}"


@pytest.fixture
def client(make_client: Callable[..., Any], broker: BrokerProcess) -> Any:
    return make_client(broker.endpoint, timeout_s=PATIENCE_S, name="shop@host:7")


def running(client: Any, queue: str, **fields: Any) -> Job:
    job = client.create(HASH, queue=queue, **fields)
    moved: Job = client.transition(job.job_id, "running")
    return moved


def leased(client: Any, queue: str, **fields: Any) -> Any:
    running(client, queue, **fields)
    (lease,) = client.claim("running", queues=queue, lease_ms=60_000)
    return lease


def test_a_job_has_all_that_it_was_created_with(client: Any, queue: str) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    job = client.create(
        HASH,
        queue=queue,
        priority=3,
        not_before=at,
        meta='{"for": "Ann"}',
        traceparent=TRACE,
        settle=True,
    )
    assert (job.queue, job.priority, job.not_before) == (queue, 3, at)
    assert (job.meta, job.traceparent) == ('{"for": "Ann"}', TRACE)
    assert job.settlement.state is SettlementState.PENDING
    assert client.get(job.job_id) == job
    plain = client.create(HASH)
    assert (plain.queue, plain.priority, plain.settlement) == ("default", 0, None)


def test_claims_take_jobs_of_their_queues(client: Any, queue: str) -> None:
    other = f"{queue}.other"
    second, first = running(client, queue, priority=1), running(client, queue)
    third = running(client, other)
    leases = client.claim("running", queues=[queue, other], limit=5)
    assert [lease.job.job_id for lease in leases] == [first.job_id, second.job_id, third.job_id]
    assert client.claim("running", queues=[queue]) == []


def test_claims_may_name_their_jobs(client: Any, queue: str) -> None:
    jobs = [running(client, queue) for _ in range(3)]
    wanted = [jobs[2].job_id, jobs[0].job_id, "nowhere"]
    leases = client.claim("running", job_ids=wanted)
    assert sorted(lease.job.job_id for lease in leases) == sorted(wanted[:2])
    assert client.claim("running", job_ids=jobs[0].job_id) == []


def test_a_delayed_job_is_claimed_later(client: Any, queue: str) -> None:
    job = running(client, queue, delay_s=0.3)
    assert client.claim("running", queues=queue) == []
    (lease,) = client.claim("running", queues=queue, wait_ms=20_000)
    assert lease.job.job_id == job.job_id


def test_a_job_is_released_for_a_later_try(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    client.release(lease.job.job_id, lease.token, delay_s=0.2, reason="busy")
    assert client.claim("running", queues=queue) == []
    (again,) = client.claim("running", queues=queue, wait_ms=20_000)
    assert again.job.attempts == 1
    client.release(again.job.job_id, again.token, hold=True)
    job = client.get(again.job.job_id)
    assert job.on_hold
    assert job.attempts == 1


def test_a_job_is_held_and_resumed(client: Any, queue: str) -> None:
    job = running(client, queue)
    for _ in range(2):
        assert client.hold(job.job_id, reason="looks wrong").on_hold
    assert client.claim("running", queues=queue) == []
    with pytest.raises(VersionConflictError):
        client.resume(job.job_id, expected_version=9)
    assert not client.resume(job.job_id, expected_version=job.version).on_hold
    assert len(client.claim("running", queues=queue)) == 1
    client.cancel(done := client.create(HASH).job_id)
    with pytest.raises(InvalidStateTransitionError):
        client.hold(done)


def test_a_holder_learns_that_it_should_stop(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    assert client.touch(lease.job.job_id, lease.token) == Touched(stop_requested=False)
    assert client.request_stop(lease.job.job_id, reason="refund").stop_requested
    assert client.touch(lease.job.job_id, lease.token).stop_requested


def test_progress_is_shown_with_the_job(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    client.touch(lease.job.job_id, lease.token, progress="reading", fraction=0.25)
    progress = client.get(lease.job.job_id).progress
    assert isinstance(progress, Progress)
    assert (progress.text, progress.fraction) == ("reading", 0.25)


def test_meta_is_annotated_and_removed(client: Any, queue: str) -> None:
    job = client.create(HASH, queue=queue)
    annotated = client.annotate(job.job_id, "a note", expected_version=1)
    assert (annotated.meta, annotated.version) == ("a note", 1)
    assert client.annotate(job.job_id, None).meta is None


def test_every_answer_is_kept(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    job = lease.job
    for question, answer in (("name?", "Ann"), ("age?", "42")):
        job = client.transition(
            job.job_id,
            "awaiting_input",
            input_schema=question,
            lease=lease.token,
            keep_lease=True,
        )
        assert client.touch(job.job_id, lease.token)
        job = client.provide_input(
            job.job_id, answer, expected_version=job.version, input_hash=HASH
        )
    assert client.touch(job.job_id, lease.token)
    inputs = (InputRound(3, "name?", "Ann", HASH), InputRound(5, "age?", "42", HASH))
    assert (job.inputs, client.get(job.job_id).inputs) == (inputs, inputs)
    (listed,) = [each for each in client.list_page(queue=queue).jobs if each.job_id == job.job_id]
    assert [each.text for each in listed.inputs] == [None, None]


def test_an_admin_may_force_a_move(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    job = lease.job
    with pytest.raises(LeaseHeldError):
        client.transition(job.job_id, "failed", expected_version=job.version)
    moved = client.transition(job.job_id, "failed", expected_version=job.version, force=True)
    assert moved.status is JobStatus.FAILED
    with pytest.raises(LeaseLostError):
        client.touch(job.job_id, lease.token)


def test_leases_are_shown_on_request(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    free = running(client, queue)
    job = client.get(lease.job.job_id, lease=True)
    assert isinstance(job.lease, LeaseInfo)
    assert job.lease.client == "shop@host:7"
    assert 0 < job.lease.left_ms <= 60_000
    held, other = client.list(queue=queue, lease=True)
    assert held.lease.by == job.lease.by
    assert other.job_id == free.job_id
    assert other.lease is client.get(lease.job.job_id).lease is None


def test_history_tells_who_did_what(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    client.release(lease.job.job_id, lease.token, reason="no time")
    history = client.history(lease.job.job_id)
    assert isinstance(history, History)
    assert [each.what for each in history.entries] == ["created", "moved", "claimed", "released"]
    assert {each.client for each in history.entries[1:]} == {"shop@host:7"}
    moved, released = history.entries[1], history.entries[3]
    assert (moved.from_, moved.to) == ("awaiting_payment", "running")
    assert released.reason == "no time"
    assert (history.job_id, history.left_out, history.lease) == (lease.job.job_id, 0, None)
    assert history.as_of
    with pytest.raises(JobNotFoundError):
        client.history("nowhere")


def test_an_explanation_has_facts_of_one_moment(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    explanation = client.explain(lease.job.job_id)
    job, facts = explanation.job, explanation.facts
    assert isinstance(explanation, Explanation)
    assert (job.job_id, job.lease.client) == (lease.job.job_id, "shop@host:7")
    assert [each.what for each in facts.entries] == ["created", "moved", "claimed"]
    assert (facts.claimed_for, facts.claimable, facts.lease_ms) == ("running", False, 60_000)
    assert {each.to: each.roles for each in facts.legal if each.command == "transition"} == {
        target: ["worker", "admin"] for target in ("awaiting_input", "completed", "failed")
    }
    assert [each.client for each in facts.claimants] == ["shop@host:7"]
    with pytest.raises(JobNotFoundError):
        client.explain("nowhere")


def test_stats_are_of_jobs_clients_loop_and_connections(client: Any, queue: str) -> None:
    leased(client, queue)
    client.create(HASH, queue=queue)
    stats = client.stats(queue=queue)
    assert isinstance(stats, StatsResult)
    (figures,) = stats.queues
    assert (figures.name, figures.statuses["running"].leased) == (queue, 1)
    assert figures.statuses["awaiting_payment"].ready == 1
    assert stats.jobs >= sum(each.count for each in figures.statuses.values())
    assert next(each for each in stats.clients if each.leases).client == "shop@host:7"
    assert stats.commands["claim"].decided >= 1
    assert stats.connections
    assert stats.loop is not None
    assert stats.loop.batch_messages.count > 0
    assert stats.since is not None
    assert stats.since <= stats.time
    assert stats.journal is None  # this broker keeps all in memory


def test_a_settlement_goes_its_way(client: Any, queue: str) -> None:
    job = client.create(HASH, queue=queue, settle=True)
    client.transition(job.job_id, "running")
    job = client.transition(job.job_id, "completed", result="done")
    assert job.settlement.state is SettlementState.WANTED
    assert client.count(queue=queue, settlement="wanted").by_settlement == {"wanted": 1}
    (listed,) = client.list(queue=queue, settlement=SettlementState.WANTED)
    assert listed.job_id == job.job_id
    (lease,) = client.claim(settlement="wanted", queues=queue)
    client.settle(job.job_id, lease=lease.token, retry_after_s=0)
    (lease,) = client.claim(settlement="wanted", queues=queue, wait_ms=20_000)
    job = client.settle(job.job_id, lease=lease.token, to="submitted", result_hash=HASH)
    assert job.settlement.result_hash == HASH
    job = client.settle(job.job_id, on_chain_state="ResultSubmitted")
    assert job.settlement.on_chain_state == "ResultSubmitted"
    job = client.settle(job.job_id, to=SettlementState.CONFIRMED, reason="seen")
    assert job.settlement.state is SettlementState.CONFIRMED
    with pytest.raises(InvalidStateTransitionError):
        client.settle(job.job_id, to="wanted")


def test_a_queue_is_paused_and_resumed(client: Any, queue: str) -> None:
    running(client, queue)
    for _ in range(2):
        assert client.pause_queue(queue) is None
    assert client.claim("running", queues=queue) == []
    client.resume_queue(queue)
    assert len(client.claim("running", queues=queue)) == 1


def test_lists_and_counts_are_of_a_queue(client: Any, queue: str) -> None:
    ids = [client.create(HASH, queue=queue).job_id for _ in range(5)]
    running(client, queue)
    count = client.count(queue=queue)
    assert (count.total, count.by_status["awaiting_payment"]) == (6, 5)
    assert count.as_of
    listed = [job.job_id for job in client.list("awaiting_payment", queue=queue, page=2)]
    assert listed == ids
    newest = client.list("awaiting_payment", queue=queue, newest=True, page=2)
    assert [job.job_id for job in newest] == ids[::-1]
    page = client.list_page("awaiting_payment", queue=queue, newest=True, limit=3)
    assert len(page.jobs) == 3
    assert page.as_of


def test_a_batch_has_all_calls(client: Any, queue: str) -> None:
    lease = leased(client, queue)
    job_id, batch = lease.job.job_id, client.batch()
    batch.create(HASH, queue=queue, priority=1, delay_s=3_600, meta="m", settle=True)
    batch.get(job_id, lease=True)
    batch.touch(job_id, lease.token, progress="half", fraction=0.5)
    batch.request_stop(job_id, reason="enough")
    batch.annotate(job_id, "note")
    batch.hold(job_id)
    batch.resume(job_id)
    batch.release(job_id, lease.token, delay_s=3_600, reason="later")
    batch.claim("running", job_ids=[job_id])
    batch.pause_queue(queue)
    batch.resume_queue(queue)
    batch.count(queue=queue)
    batch.list_page(queue=queue, newest=True, lease=True, limit=1)
    batch.history(job_id)
    batch.settle(job_id, on_chain_state="x")
    batch.explain(job_id)
    batch.stats(queue=queue)
    values = batch.send()
    created, got, touched, stopping, noted, held, resumed, released, claimed = values[:9]
    assert created.not_before > datetime.now(UTC) + timedelta(minutes=50)
    assert got.lease.client == "shop@host:7"
    assert touched == Touched(stop_requested=False)
    assert (stopping.stop_requested, noted.meta, held.on_hold) == (True, "note", True)
    assert not resumed.on_hold
    assert released is None
    assert [each.job.job_id for each in claimed] == [job_id]  # by its id, it need not wait
    assert values[9:11] == [None, None]
    assert values[11].total == 2
    assert values[12].jobs[0].job_id == created.job_id
    assert isinstance(values[13], History)
    assert isinstance(values[14], InvalidStateTransitionError)  # it has no settlement
    assert values[15].facts.claimed_for == "running"
    assert [each.name for each in values[16].queues] == [queue]


def test_a_greeting_tells_roles_time_and_revision(client: Any) -> None:
    hello = client.ping()
    assert hello.revision == 3
    assert "admin" in hello.roles
    assert abs(hello.time.timestamp() - time.time()) < PATIENCE_S
    assert hello.limits["queues"] == 1_000
