"""What little of a message, or one moment, can cause at once is spread over batches."""

from datetime import timedelta

import pytest

from tests.core import (
    ADMIN,
    OTHER,
    PEER,
    Driver,
    claim,
    create,
    error_of_result,
    job_id,
    leases_of,
    move,
)
from tollgate.broker.core import context, engine, feed, lease_commands
from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.events import SessionEvicted
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.state import State
from tollgate.broker.journal import RECORD, Entry
from tollgate.broker.repository import queues
from tollgate.domain.commands import AnyCommand, Cancel, Claim, Count, Events, Hello
from tollgate.domain.messages import Reply, Request, decode_answer, encode_request
from tollgate.domain.results import AnyResult, EventsResult, HelloResult
from tollgate.domain.status import COMPLETED, RUNNING

A_CLAIM = 20
"""Jobs that a large claim gets."""


def message(driver: Driver, *commands: AnyCommand, session: int = 0, peer: bytes = PEER) -> Arrival:
    return Arrival(peer, [encode_request(driver.request(*commands, session=session))], ADMIN)


def outputs_of(driver: Driver, *messages: Arrival) -> list[Output]:
    """Return the outputs of all batches that some messages take."""
    outputs, left = list[Output](), [*messages]
    while left:
        outputs.append(driver.pipeline.run(left, driver.now))
        left = left[outputs[-1].taken :]
    return outputs


def results_of(output: Output) -> list[AnyResult]:
    reply = decode_answer(output.replies[-1].frame)
    assert isinstance(reply, Reply)
    return [*reply.results]


def ready(driver: Driver, jobs: int) -> list[str]:
    ids = [driver.job(create()).job_id for _ in range(jobs)]
    driver.ask(*[move(each, RUNNING) for each in ids])
    return ids


def claim_of_any(wait_ms: int = 0) -> Claim:
    return Claim(status=RUNNING, lease_ms=60_000, wait_ms=wait_ms, limit=1, queues=["*"])


def opened(driver: Driver) -> int:
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    return hello.session or 0


def evicted_by(outputs: list[Output]) -> list[int]:
    """Return how many sessions each batch has evicted."""
    return [
        sum(type(event) is SessionEvicted for record in output.records for event in record.events)
        for output in outputs
    ]


# --- claims of many jobs --------------------------------------------------------------------------


def few_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch decide one large claim of a message."""
    monkeypatch.setattr(engine, "LEASES_A_RUN", 1)
    monkeypatch.setattr(engine, "RUNS_MAX", A_CLAIM)


def test_large_claims_of_a_message_take_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    few_leases(monkeypatch)
    driver = Driver()
    ids = ready(driver, 3 * A_CLAIM)
    outputs = outputs_of(driver, message(driver, *[claim(limit=A_CLAIM)] * 3))
    assert len(outputs) == 3
    assert [len(output.records) for output in outputs] == [0, 0, 1]
    grants = [grant for result in results_of(outputs[-1]) for grant in leases_of(result)]
    assert [grant.job.job_id for grant in grants] == ids


def test_a_batch_ends_with_a_message_that_took_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for what was decided with it, and not for more."""
    few_leases(monkeypatch)
    driver = Driver()
    ready(driver, 2 * A_CLAIM)
    before = message(driver, Count(), peer=OTHER)
    large = message(driver, *[claim(limit=A_CLAIM)] * 2)
    behind = message(driver, Count(), peer=OTHER)
    outputs = outputs_of(driver, before, large, behind)
    assert [output.taken for output in outputs] == [1, 1, 1]
    assert [reply.peer for output in outputs for reply in output.replies] == [OTHER, PEER, OTHER]


def test_a_batch_has_few_large_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    ready(driver, 8 * A_CLAIM)
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 2 * A_CLAIM * lease_commands.LEASE_SCANS)
    large = [message(driver, claim(limit=A_CLAIM)) for _ in range(4)]
    assert [output.taken for output in outputs_of(driver, *large)] == [2, 2]
    small = [message(driver, claim(limit=lease_commands.FEW_LEASES)) for _ in range(10)]
    assert [output.taken for output in outputs_of(driver, *small)] == [10], "of as many jobs"


def test_the_feed_keeps_few_fresh_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    ready(driver, 2 * A_CLAIM)
    fresh = driver.engine.context.state.feed
    fresh.settle()
    driver.ask(claim(limit=A_CLAIM))
    assert len(fresh.known) == A_CLAIM
    monkeypatch.setattr(lease_commands, "LEASE_BYTES", feed.CHUNK_BYTES // A_CLAIM)
    driver.ask(claim(limit=A_CLAIM))
    assert (fresh.known, fresh.fresh) == ([], [])


def test_a_chunk_of_a_long_record_is_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK_EVENTS", A_CLAIM)
    monkeypatch.setattr(feed, "PACKED_MAX", A_CLAIM)
    driver = Driver()
    kept = driver.engine.context.state.feed
    start = driver.engine.context.position()
    ready(driver, 2 * A_CLAIM)
    kept.settle()
    driver.ask(claim(limit=2 * A_CLAIM))
    driver.ask(create())
    kept.settle()
    (before,) = driver.ask(Events(after=start))
    assert kept.loose
    while kept.loose:
        kept.pack()
    counts = [(each.count, each.columns is None) for each in kept._chunks[:-1]]
    assert {is_loose for count, is_loose in counts if count > A_CLAIM} == {True}
    assert {is_loose for count, is_loose in counts if count <= A_CLAIM} <= {False}
    (after,) = driver.ask(Events(after=start))
    assert isinstance(before, EventsResult)
    assert isinstance(after, EventsResult)
    assert before.events == after.events


# --- sessions with many outcomes ------------------------------------------------------------------


def filled(driver: Driver, sessions: int, outcomes: int) -> list[int]:
    """Open sessions with so many outcomes each; return their numbers."""
    numbers = [opened(driver) for _ in range(sessions)]
    for number in numbers:
        refused = [Cancel(job_id=job_id(9_000 + place)) for place in range(outcomes)]
        outputs_of(driver, message(driver, *refused, session=number))
    return numbers


def test_a_batch_forgets_few_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FORGOTTEN_MAX", 15)
    driver = Driver(outcomes=70)
    own = opened(driver)
    filled(driver, 6, 10)
    assert driver.engine.context.state.requests.outcomes == 60
    outputs = outputs_of(driver, message(driver, *[create()] * 60, session=own))
    assert evicted_by(outputs) == [2, 2, 1]
    assert driver.engine.context.state.requests.outcomes == 70


def test_hellos_forget_few_outcomes_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(sessions=6)
    filled(driver, 6, 10)
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 2 * 10)
    monkeypatch.setattr(engine, "FORGOTTEN_A_SCAN", 1)
    hellos = [message(driver, Hello(open_session=True)) for _ in range(6)]
    outputs = outputs_of(driver, *hellos)
    assert max(evicted_by(outputs)) == 2
    assert sum(evicted_by(outputs)) == 6
    (last,) = results_of(outputs[-1])
    assert isinstance(last, HelloResult)
    assert last.session


def test_hellos_that_forget_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(sessions=6)
    filled(driver, 6, 10)
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 2 * 10)
    monkeypatch.setattr(engine, "FORGOTTEN_A_SCAN", 1)
    outputs = outputs_of(driver, message(driver, create(), *[Hello(open_session=True)] * 3))
    assert evicted_by(outputs) == [2]
    *done, refused = results_of(outputs[-1])
    assert all(isinstance(hello, HelloResult) for hello in done[1:])
    assert error_of_result(refused).code == "reply_full"


def test_an_evicted_session_leaves_no_outcomes() -> None:
    driver = Driver()
    requests = driver.engine.context.state.requests
    ready(driver, 4)
    numbers = filled(driver, 3, 5)
    for number in numbers:  # requests that are recent, with events and leases
        outputs_of(driver, message(driver, claim(), create(), session=number))
    held = requests.outcomes
    for number in numbers:
        driver.engine.context.record_one(SessionEvicted(number), 0)
    assert held > 3 * 5
    assert (requests.outcomes, requests.owners) == (0, 0)
    assert not requests._recent


# --- one moment -----------------------------------------------------------------------------------


def test_a_batch_looks_at_few_lines_that_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "WAKES_MAX", 2)
    driver = Driver()
    soon = driver.wall + timedelta(seconds=10)
    names = [f"queue-{number}" for number in range(5)]
    for name in names:
        driver.ask(move(driver.job(create(queue=name, not_before=soon)), RUNNING))
    seqs = [driver.post(claim_of_any(wait_ms=60_000)) for _ in names]
    driver.wall, driver.mono_ms = soon, driver.mono_ms + 10_000
    granted = [len(driver.run()) for _ in range(4)]
    assert granted == [2, 2, 1, 0]
    assert all(leases_of(driver.result_of(seq)) for seq in seqs)


def test_keys_that_go_together_end_their_commands_together() -> None:
    driver = Driver()
    workers = [
        Principal(f"key:{number}", frozenset({Role.WORKER}), key=f"{number}") for number in range(3)
    ]
    seqs = []
    for worker in workers:
        request = driver.request(claim(wait_ms=60_000))
        driver.run(Arrival(PEER, [encode_request(request)], worker))
        seqs.append(request.seq)
    driver.run()
    driver.take(driver.pipeline.expel(*workers[:2]))
    assert len(driver.engine.context.waiters.endings) <= 1
    while driver.pipeline.is_behind():
        driver.run()
    codes = [error_of_result(driver.result_of(seq)).code for seq in seqs[:2]]
    assert codes == ["not_authorized"] * 2
    assert driver.answer_to(seqs[2]) is None


def test_many_queues_share_what_is_dropped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stale, many, drops = 3, 40, 16
    for module in (context, queues):
        monkeypatch.setattr(module, "DROPS_MAX", drops)
    monkeypatch.setattr(queues, "TIDY_MIN", 2 * stale)
    driver = Driver()
    for number in range(many):
        ids = [driver.job(create(queue=f"queue-{number}")).job_id for _ in range(stale)]
        driver.ask(*[move(each, RUNNING) for each in ids])
        driver.ask(*[move(each, COMPLETED) for each in reversed(ids)])
    outputs = outputs_of(driver, message(driver, claim_of_any()))
    assert len(outputs) > many * stale // drops // 2
    assert leases_of(results_of(outputs[-1])[0]) == []


def test_acknowledged_outcomes_are_freed_by_later_batches() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    session, seqs = hello.session or 0, range(1, 7)
    refusals: list[AnyCommand] = [Cancel(job_id=job_id(99))] * 1_000
    for seq in seqs:
        driver.run(Arrival(PEER, [encode_request(Request(1, session, seq, 0, refusals))], ADMIN))
    last = Request(1, session, len(seqs) + 1, len(seqs), refusals[:1])
    driver.run(Arrival(PEER, [encode_request(last)], ADMIN))
    requests = driver.engine.context.state.requests
    assert (requests.outcomes, len(requests.forgotten)) == (1, len(seqs))
    driver.ask(Count())
    assert not requests.forgotten
    replayed, payloads = State(), encode_records(driver.records)
    replay([Entry(each + 1, RECORD, payload) for each, payload in enumerate(payloads)], replayed)
    assert (replayed.requests.outcomes, len(replayed.requests.forgotten)) == (1, 0)
