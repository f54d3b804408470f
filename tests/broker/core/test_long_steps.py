"""What a client can cause is done in pieces: each batch drops and evicts only so much."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.core import (
    ADMIN,
    OTHER,
    PEER,
    Driver,
    claim,
    create,
    error_of_result,
    job_of,
    leases_of,
    move,
    wait,
)
from tests.core import job_id as numbered
from tollgate.broker.core import context, engine, pipeline, runs
from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.events import SessionEvicted
from tollgate.broker.core.lease_commands import LEASE_COST
from tollgate.broker.repository import indexes, queues
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Claim,
    Count,
    Get,
    Hello,
    Hold,
    PauseQueue,
    Resume,
    ResumeQueue,
    StopWaiting,
    Touch,
)
from tollgate.domain.messages import REPLY_BYTES_MAX, Reply, decode_answer, encode_request
from tollgate.domain.results import AnyResult, CountResult, ErrorResult, HelloResult, LeasesResult
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, RUNNING

STALE = 100
DROPS = 16


@pytest.fixture(autouse=True)
def few_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (context, queues):
        monkeypatch.setattr(module, "DROPS_MAX", DROPS)
    monkeypatch.setattr(queues, "TIDY_MIN", 4)


def steps(driver: Driver, *commands: AnyCommand, session: int = 0) -> tuple[list[Output], Reply]:
    """Send a message; return the batches that it took, and its reply."""
    request = driver.request(*commands, session=session)
    arrival = Arrival(PEER, [encode_request(request)], ADMIN)
    outputs = [driver.pipeline.run([arrival], driver.now)]
    while not outputs[-1].taken:
        assert not outputs[-1].replies
        outputs.append(driver.pipeline.run([arrival], driver.now))
    (frame,) = [reply.frame for reply in outputs[-1].replies]
    reply = decode_answer(frame)
    assert isinstance(reply, Reply)
    return outputs, reply


def worked(driver: Driver) -> list[str]:
    """Return the ids of jobs of which all but the last have ended, without a claim."""
    ids = [driver.job(create()).job_id for _ in range(STALE + 1)]
    for job_id in ids:
        driver.ask(move(job_id, RUNNING))
    for job_id in ids[-2::-1]:  # the oldest last: until then nothing at the head is stale
        driver.ask(move(job_id, COMPLETED))
    return ids


def entries(driver: Driver) -> int:
    """Return how many entries the ready line of running jobs has."""
    (ready,) = driver.engine.context.state.jobs.queues.by_name["default"].lines[RUNNING]
    return len(ready)


def only(reply: Reply) -> AnyResult:
    (result,) = reply.results
    return result


def test_a_claim_drops_stale_entries_over_several_batches() -> None:
    driver = Driver()
    ids = worked(driver)
    before = entries(driver)
    outputs, reply = steps(driver, claim())
    result = only(reply)
    assert isinstance(result, LeasesResult)
    assert [grant.job.job_id for grant in result.leases] == ids[-1:]
    assert len(outputs) == 1 + STALE // DROPS
    assert before == STALE + 1
    assert all(not output.records for output in outputs[:-1])


def test_a_claim_that_may_park_drops_over_several_batches() -> None:
    driver = Driver()
    ids = worked(driver)
    outputs, reply = steps(driver, claim(wait_ms=60_000))
    result = only(reply)
    assert isinstance(result, LeasesResult)
    assert [grant.job.job_id for grant in result.leases] == ids[-1:]
    assert len(outputs) == 1 + STALE // DROPS
    assert driver.engine.context.figures.decided[Claim] == 1


def test_each_batch_drops_no_more_than_it_may() -> None:
    driver = Driver()
    worked(driver)
    arrival = Arrival(PEER, [encode_request(driver.request(claim()))], ADMIN)
    left = entries(driver)
    while left > 1:
        driver.pipeline.run([arrival], driver.now)
        assert left - DROPS <= entries(driver) < left
        left = entries(driver)


def test_a_count_drops_stale_entries_over_several_batches() -> None:
    driver = Driver()
    ids = worked(driver)
    outputs, reply = steps(driver, Count())
    result = only(reply)
    assert isinstance(result, CountResult)
    assert result.oldest["running"] == driver.job(move(ids[-1], COMPLETED)).created_at
    assert len(outputs) > STALE // DROPS


def test_a_repeat_that_must_drop_much_is_put_off() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    request = driver.request(create(), Count(), session=hello.session or 0)
    arrival = Arrival(PEER, [encode_request(request)], ADMIN)
    driver.run(arrival)
    worked(driver)
    stored = driver.engine.context.state.jobs.stored
    outputs = [driver.pipeline.run([arrival], driver.now)]
    while not outputs[-1].taken:
        assert not outputs[-1].replies
        outputs.append(driver.pipeline.run([arrival], driver.now))
    assert len(outputs) > STALE // DROPS
    assert not any(output.records for output in outputs)
    (reply,) = outputs[-1].replies
    answer = decode_answer(reply.frame)
    assert isinstance(answer, Reply)
    created, counted = answer.results
    assert job_of(created).version == 1
    assert isinstance(counted, CountResult)
    assert driver.engine.context.state.jobs.stored == stored


def test_behind_a_change_a_claim_is_to_be_sent_again() -> None:
    driver = Driver()
    ids = worked(driver)
    outputs, reply = steps(driver, create(), claim(), Count())
    assert len(outputs) == 1, "what has happened is answered"
    created, claimed, counted = reply.results
    assert job_of(created).job_id not in ids
    assert error_of_result(claimed).code == error_of_result(counted).code == "reply_full"
    _, again = steps(driver, claim())
    result = only(again)
    assert isinstance(result, LeasesResult)
    assert len(result.leases) == 1


def test_a_parked_claim_gets_its_job_in_a_later_batch() -> None:
    driver = Driver()
    *ids, free = [driver.job(create()).job_id for _ in range(STALE + 1)]
    seq = driver.post(claim(wait_ms=60_000))
    driver.ask(
        *[move(job_id, RUNNING) for job_id in ids],
        *[Hold(job_id=job_id) for job_id in ids],
        move(free, RUNNING),
    )
    batches = 0
    while driver.result_of(seq) is None:
        assert driver.pipeline.is_behind()
        driver.run()
        batches += 1
    assert batches == STALE // DROPS
    granted = driver.result_of(seq)
    assert isinstance(granted, LeasesResult)
    assert [grant.job.job_id for grant in granted.leases] == [free]


def test_one_batch_evicts_no_more_sessions_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "EVICTED_MIN", 5)
    monkeypatch.setattr(engine, "EVICTED_MAX", 5)
    driver = Driver(outcomes=64)
    numbers = []
    for _ in range(22):
        (hello,) = driver.ask(Hello(open_session=True))
        assert isinstance(hello, HelloResult)
        numbers.append(hello.session or 0)
    for number in numbers[:-1]:
        steps(driver, create(), create(), create(), session=number)
    outputs, reply = steps(driver, *[create()] * 60, session=numbers[-1])
    evicted = [
        sum(type(event) is SessionEvicted for record in output.records for event in record.events)
        for output in outputs
    ]
    assert max(evicted) == 5
    assert sum(evicted) > 15
    assert len(reply.results) == 60
    assert driver.engine.context.state.jobs.stored == 21 * 3 + 60


def sent_until_done(driver: Driver, make: Callable[[str], AnyCommand], ids: list[str]) -> list[int]:
    """Send a command for each job, and the refused ones again; return how many each message did."""
    left, done = ids, []
    while left:
        results = driver.ask(*map(make, left))
        refused = [isinstance(result, ErrorResult) for result in results]
        assert refused == sorted(refused), "all behind the first refused one are refused"
        done.append(refused.count(False))
        left = left[done[-1] :]
    return done


def test_a_message_changes_only_so_many_long_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(40)]
    while not driver.engine.context.state.jobs.texts.are_long:
        driver.ask(*[Hold(job_id=job_id, reason="r" * 200) for job_id in ids])
        driver.ask(*[Resume(job_id=job_id) for job_id in ids])
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 10 * indexes.LONG_COST)
    done = sent_until_done(driver, lambda job_id: Annotate(job_id=job_id, meta="m"), ids)
    assert done == [10] * 4
    assert {driver.job(Get(job_id=job_id)).meta for job_id in ids} == {"m"}


def test_single_commands_on_long_texts_share_a_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    job = driver.job(create())
    while not driver.engine.context.state.jobs.texts.are_long:
        driver.ask(Hold(job_id=job.job_id, reason="r" * 200))
        driver.ask(Resume(job_id=job.job_id))
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 10 * indexes.LONG_COST)
    frames = [
        encode_request(driver.request(Annotate(job_id=job.job_id, meta=f"{number}")))
        for number in range(15)
    ]
    batch = [Arrival(PEER, [frame], ADMIN) for frame in frames]
    assert driver.pipeline.run(batch, driver.now).taken == 10


def test_a_single_command_leaves_room_for_its_envelope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    rooms: list[int] = []
    decide = driver.engine.decide

    def noted(run: Any, request: Any) -> list[Any]:
        rooms.append(request.room_bytes)
        return decide(run, request)

    monkeypatch.setattr(driver.engine, "decide", noted)
    driver.ask(Count())
    assert rooms == [driver.engine.limits.reply_bytes - REPLY_BYTES_MAX]


def test_a_message_moves_only_so_many_jobs_with_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LONG_RUN", 4)
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(40)]
    driver.ask(*[move(job_id, RUNNING) for job_id in ids])
    driver.ask(*[move(job_id, AWAITING_INPUT, input_schema="?") for job_id in ids])
    driver.ask(*[move(job_id, RUNNING) for job_id in ids])
    driver.ask(*[move(job_id, AWAITING_INPUT, input_schema="?") for job_id in ids])
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 9 * 2)  # each shows two rounds
    asked = sent_until_done(driver, lambda job_id: move(job_id, RUNNING), ids)
    assert asked == [12, 12, 12, 4], "whole runs, until the budget is spent"
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 8 * 2)
    shown = sent_until_done(driver, lambda job_id: Get(job_id=job_id), ids)
    assert shown == [8] * 5


def test_a_repeat_shows_only_so_many_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    job_id = driver.job(create()).job_id
    driver.ask(move(job_id, RUNNING), move(job_id, AWAITING_INPUT, input_schema="?"))
    request = driver.request(create(), *[Get(job_id=job_id)] * 20, session=hello.session or 0)
    arrival = Arrival(PEER, [encode_request(request)], ADMIN)
    driver.pipeline.run([arrival], driver.now)
    monkeypatch.setattr(context, "SCAN_JOBS_MAX", 5)
    (again,) = driver.pipeline.run([arrival], driver.now).replies
    reply = decode_answer(again.frame)
    assert isinstance(reply, Reply)
    assert [isinstance(result, ErrorResult) for result in reply.results].count(True) == 15


RUNS = 10


def message(driver: Driver, *commands: AnyCommand) -> Arrival:
    return Arrival(PEER, [encode_request(driver.request(*commands))], ADMIN)


def long_message(driver: Driver, jobs: int = 9) -> Arrival:
    """Return a message in which no two commands share a run: of each job it has three."""
    commands: list[AnyCommand] = []
    for number in range(jobs):
        made = numbered(1_000 + number)
        commands += [create(job_id=made), move(made, RUNNING), move(made, COMPLETED)]
    return message(driver, *commands)


def begun(monkeypatch: pytest.MonkeyPatch, driver: Driver, long: Arrival) -> None:
    """Have the first batch of a message decided."""
    monkeypatch.setattr(engine, "RUNS_MAX", RUNS)
    output = driver.pipeline.run([long], driver.now)
    assert (output.taken, output.records, output.replies) == (0, [], [])
    assert driver.pipeline.is_deciding


def finished(driver: Driver, long: Arrival) -> list[Output]:
    outputs = [driver.pipeline.run([long], driver.now)]
    while driver.pipeline.is_deciding:
        outputs.append(driver.pipeline.run([long], driver.now))
    assert outputs[-1].taken == 1
    return outputs


def test_a_long_message_is_decided_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, undisturbed = Driver(), Driver()
    long = long_message(driver)
    (whole,) = finished(undisturbed, long_message(undisturbed))
    begun(monkeypatch, driver, long)
    driver.mono_ms += 5
    driver.wall += timedelta(milliseconds=5)
    *_, last = finished(driver, long)
    assert (last.records, last.replies) == (whole.records, whole.replies)
    assert len(last.records) == 1, "a crash loses all of the message or nothing"


def test_a_batch_decides_only_so_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, decided = Driver(), list[int]()
    long = long_message(driver)
    begun(monkeypatch, driver, long)
    decided.append(len(driver.engine.context.events))
    driver.pipeline.run([long], driver.now)
    decided.append(len(driver.engine.context.events))
    assert decided == [RUNS, 2 * RUNS]


def test_nothing_happens_in_the_middle_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    leased = driver.job(create(), move(numbered(1), RUNNING)).job_id
    leases_of(driver.ask(claim(lease_ms=1_000))[0])
    seq = driver.post(claim(wait_ms=60_000), peer=OTHER)
    long = long_message(driver)
    begun(monkeypatch, driver, long)
    driver.mono_ms += 2_000  # the lease is over, and jobs of the message are running
    outputs = finished(driver, long)
    assert not any(output.records for output in outputs[:-1])
    assert driver.result_of(seq, OTHER) is None
    driver.run()
    (grant,) = leases_of(driver.result_of(seq, OTHER))
    assert grant.job.job_id == leased


def test_a_long_message_begins_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    long = long_message(driver, jobs=25)
    short = Arrival(OTHER, [encode_request(driver.request(create()))], ADMIN)
    monkeypatch.setattr(pipeline, "LONG_BYTES", len(long.frames[0]) - 1)
    assert driver.pipeline.run([short, short, long, short], driver.now).taken == 2
    assert driver.pipeline.run([long, short], driver.now).taken == 2


def test_only_the_first_message_of_a_batch_takes_several() -> None:
    driver = Driver()
    short = Arrival(OTHER, [encode_request(driver.request(Count()))], ADMIN)
    shortest = [Count()] * (engine.RUNS_MAX + 1)  # no command has a shorter name
    long = Arrival(PEER, [encode_request(driver.request(*shortest))], ADMIN)
    assert driver.pipeline.run([short, long], driver.now).taken == 1
    assert not driver.pipeline.is_deciding


@pytest.mark.parametrize("act", ["drain", "expel"])
def test_parked_commands_are_answered_after_a_message(
    act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    driver.post(claim(wait_ms=60_000), peer=OTHER)
    long = long_message(driver)
    begun(monkeypatch, driver, long)
    apart = driver.pipeline.drain() if act == "drain" else driver.pipeline.expel(ADMIN)
    assert (apart.records, apart.replies) == ([], [])
    assert driver.pipeline.is_behind()
    *_, last = finished(driver, long)
    assert [reply.peer for reply in last.replies] == [PEER, OTHER]
    assert len(last.records) == 1


def test_a_repeat_of_a_long_message_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    commands: list[Any] = []
    for number in range(RUNS):
        commands += [create(job_id=numbered(1_000 + number)), Get(job_id=numbered(1_000 + number))]
    request = driver.request(*commands, session=hello.session or 0)
    long = Arrival(PEER, [encode_request(request)], ADMIN)
    begun(monkeypatch, driver, long)
    *_, last = finished(driver, long)
    again = driver.pipeline.run([long], driver.now)
    assert not again.records
    assert [reply.frame for reply in again.replies] == [reply.frame for reply in last.replies]
    assert driver.engine.context.state.jobs.stored == RUNS


def test_waits_that_end_at_once_are_answered_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [driver.post(wait(job.job_id)) for _ in range(25)]
    monkeypatch.setattr(pipeline, "REPLIES_MAX", RUNS)
    batches = [len(driver.run(message(driver, move(job, RUNNING), move(job, FAILED))))]
    while driver.pipeline.is_behind():
        batches.append(len(driver.run()))
    assert batches == [1 + RUNS - 1, RUNS, 6]
    assert [answer.seq for _, answer in driver.inbox[-25:]] == seqs


def test_stopped_commands_are_answered_before_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    seqs = [driver.post(claim(wait_ms=60_000)) for _ in range(5)]
    monkeypatch.setattr(pipeline, "REPLIES_MAX", 2)
    answers = driver.run(message(driver, StopWaiting(seqs=seqs)))
    assert [answer.seq for _, answer in answers] == [*seqs, driver.seq]


def runs_of(monkeypatch: pytest.MonkeyPatch, driver: Driver, *commands: AnyCommand) -> list[int]:
    """Return how many commands each run had that a message was cut into."""
    sizes: list[int] = []
    decide = driver.engine.decide

    def counted(run: Any, request: Any) -> list[Any]:
        sizes.append(len(run))
        return decide(run, request)

    with monkeypatch.context() as patched:
        patched.setattr(driver.engine, "decide", counted)
        driver.ask(*commands)
    return sizes


def test_slow_runs_are_cut_and_share_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SLOW_RUN", 4)
    monkeypatch.setattr(engine, "LONG_RUN", 3)
    monkeypatch.setattr(engine, "RUNS_MAX", 8)
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(20)]
    moves = [move(job_id, RUNNING) for job_id in ids]
    assert runs_of(monkeypatch, driver, *moves) == [20]
    ask = message(driver, *[move(job_id, AWAITING_INPUT, input_schema="?") for job_id in ids])
    assert [driver.pipeline.run([ask], driver.now).taken for _ in range(3)] == [0, 0, 1]
    ends = [move(job_id, FAILED) for job_id in ids]  # from now on, jobs are looked at alone
    assert runs_of(monkeypatch, driver, *ends) == [4] * 5
    assert runs_of(monkeypatch, driver, *[Get(job_id=job_id) for job_id in ids]) == [20]


def test_slow_creations_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SLOW_RUN", 4)
    monkeypatch.setattr(runs, "FEW_QUEUES", 2)
    driver = Driver()
    assert runs_of(monkeypatch, driver, *[create(settle=True)] * 6) == [4, 2]
    two, three = ([create(queue=f"{n % many}") for n in range(8)] for many in (2, 3))
    assert runs_of(monkeypatch, driver, *two) == [8]
    assert runs_of(monkeypatch, driver, *three) == [4, 4]


def test_touches_share_batches_like_single_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SLOW_RUN", 4)
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(10)]
    touches = [Touch(job_id=job_id, lease=1, lease_ms=1_000) for job_id in ids]
    assert runs_of(monkeypatch, driver, *touches) == [4, 4, 2]


def test_a_batch_that_reads_much_decides_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNS_MAX", 40)
    monkeypatch.setattr(engine, "READ_BYTES", 0)
    driver = Driver()
    long = long_message(driver, jobs=30)
    driver.pipeline.run([long], driver.now)
    first = len(driver.engine.context.events)
    driver.pipeline.run([long], driver.now)
    assert first == 40 - len(long.frames[0]) // engine.BYTES_A_RUN
    assert len(driver.engine.context.events) - first == 40


def test_parked_claims_of_many_jobs_share_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "SERVED_MAX", 10 * LEASE_COST)
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(40)]
    driver.ask(*[move(job_id, RUNNING) for job_id in ids], PauseQueue(queue="default"))
    seqs = [driver.post(claim(limit=10, wait_ms=60_000)) for _ in range(4)]
    driver.inbox.clear()
    driver.ask(ResumeQueue(queue="default"))
    granted = [len(driver.inbox) - 1]
    while driver.pipeline.is_behind():
        granted.append(len(driver.run()))
    assert granted == [1, 1, 1, 1]
    got = [grant.job.job_id for seq in seqs for grant in leases_of(driver.result_of(seq))]
    assert got == ids
