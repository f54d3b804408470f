"""What `stats` counts and measures, and the limits on what it keeps and looks at."""

from datetime import timedelta
from typing import Any

import pytest

from tests.broker.core.restarts import restart
from tests.core import (
    ADMIN,
    COMPLETED,
    EPOCH,
    FAILED,
    OTHER,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    move,
    running,
    wait,
)
from tollgate.broker.core import explain_commands, figures, stats_commands
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    Claim,
    Count,
    Explain,
    Get,
    Hello,
    Hold,
    PauseQueue,
    Release,
    Stats,
    StopWaiting,
    Touch,
)
from tollgate.domain.figures import Denied
from tollgate.domain.messages import Reply, encode_request
from tollgate.domain.results import ErrorResult, ExplainedResult, HelloResult, StatsResult
from tollgate.domain.settlement import SettlementState


def stats_of(driver: Driver, **fields: Any) -> StatsResult:
    (result,) = driver.ask(Stats(**fields))
    assert isinstance(result, StatsResult)
    return result


def explain(driver: Driver, job_id: str) -> ExplainedResult:
    (result,) = driver.ask(Explain(job_id=job_id))
    assert isinstance(result, ExplainedResult)
    return result


def session_of(hello: object) -> int:
    assert isinstance(hello, HelloResult)
    assert hello.session is not None
    return hello.session


def in_session(driver: Driver, session: int, command: Any) -> None:
    """Send a command as a request of a session."""
    request = driver.request(command, session=session)
    driver.run(Arrival(PEER, [encode_request(request)], driver.principal))


# --- counters -------------------------------------------------------------------------------------


def test_commands_are_counted_by_kind_and_code() -> None:
    driver = Driver()
    job = running(driver)
    driver.ask(*[Get(job_id=job.job_id)] * 3, Get(job_id="none"))
    driver.ask(move(job, RUNNING), claim(RUNNING), Touch(job_id="none", lease=1, lease_ms=9))
    commands = stats_of(driver).commands
    assert commands.pop("stats").decided == 1
    counts = {name: (each.decided, each.refused) for name, each in commands.items()}
    assert counts == {
        "create": (1, {}),
        "get": (4, {"job_not_found": 1}),
        "transition": (2, {"illegal_transition": 1}),
        "claim": (1, {}),
        "touch": (1, {"job_not_found": 1}),
    }


def test_parked_commands_are_counted_once() -> None:
    driver = Driver()
    job = running(driver)
    seq = driver.post(wait(job.job_id, timeout_ms=1_000))
    other = Claim(status=RUNNING, lease_ms=9, wait_ms=1_000, limit=1, queues=["other"])
    driver.post(other)
    shown = stats_of(driver)
    assert (shown.parked_waits, shown.parked_claims) == (1, 1)
    assert shown.commands["wait"].decided == shown.commands["claim"].decided == 1
    driver.ask(StopWaiting(seqs=[seq]))
    driver.pass_ms(1_000)
    shown = stats_of(driver)
    assert (shown.parked_waits, shown.parked_claims) == (0, 0)
    assert shown.commands["wait"].refused == {"wait_timeout": 1}
    assert shown.commands["claim"].refused == {}


def test_commands_behind_a_full_reply_count_as_refused() -> None:
    driver = Driver(reply_bytes=64 * 1024)
    big = running(driver, input="x" * 40_000)
    driver.ask(Get(job_id=big.job_id), Get(job_id=big.job_id), Count())
    commands = stats_of(driver).commands
    assert (commands["get"].decided, commands["get"].refused) == (2, {"reply_full": 1})
    assert (commands["count"].decided, commands["count"].refused) == (1, {"reply_full": 1})


def test_a_message_that_is_put_off_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(type(driver.engine), "make_room", lambda *_: False)
    (hello,) = driver.ask(Hello(open_session=True))
    request = driver.request(create(), session=session_of(hello))
    frame = encode_request(request)
    for _ in range(3):  # each batch finds no room for its outcome
        assert driver.run(Arrival(PEER, [frame], ADMIN)) == []
    assert stats_of(driver).commands["create"].decided == 0
    monkeypatch.undo()
    driver.run(Arrival(PEER, [frame], ADMIN))
    assert stats_of(driver).commands["create"].decided == 1


def test_tries_and_lapses_are_counted() -> None:
    driver = Driver()
    job = running(driver)
    for reason in (None, "busy"):
        (grant,) = driver.grants_of(claim(RUNNING))
        driver.ask(Release(job_id=job.job_id, lease=grant.lease, reason=reason))
    driver.grants_of(claim(RUNNING, lease_ms=10))
    driver.pass_ms(10)
    shown = stats_of(driver)
    assert (shown.attempts, shown.lapses) == (2, 1)  # a plain release is no try


def test_a_replay_counts_nothing() -> None:
    driver = Driver()
    running(driver)
    driver.grants_of(claim(RUNNING, lease_ms=10))
    driver.pass_ms(10)
    restart(driver)
    shown = stats_of(driver)
    assert (shown.jobs, shown.lapses, [*shown.commands]) == (1, 0, ["stats"])
    assert not shown.in_status_s
    assert not shown.to_claim_s


# --- times ----------------------------------------------------------------------------------------


def test_times_of_jobs_are_measured() -> None:
    driver = Driver()
    (job,) = driver.ask(create())
    driver.pass_ms(3_000)
    driver.job(move(job.job.job_id, RUNNING))  # type: ignore[union-attr]
    driver.pass_ms(200)
    (grant,) = driver.grants_of(claim(RUNNING))
    driver.pass_ms(70_000)
    driver.pipeline.figures.refill()
    shown = stats_of(driver)
    assert shown.in_status_s["awaiting_payment"].at(0.5) == 5
    assert shown.to_claim_s["running"].at(1) == 0.5
    assert shown.to_claim_s["running"].total == pytest.approx(0.2)
    assert grant.lease == 1


def test_only_the_first_claim_of_a_job_is_measured() -> None:
    driver = Driver()
    job = running(driver)
    for _ in range(3):
        (grant,) = driver.grants_of(claim(RUNNING))
        driver.ask(Release(job_id=job.job_id, lease=grant.lease))
    assert stats_of(driver).to_claim_s["running"].count == 1


def test_a_refused_move_is_not_measured() -> None:
    driver = Driver()
    job = running(driver)
    driver.ask(move(job, RUNNING), move(job, COMPLETED, expected_version=9))
    assert "running" not in stats_of(driver).in_status_s


def test_under_load_a_sample_is_measured() -> None:
    driver = Driver()
    for _ in range(5):
        driver.ask(*[create()] * 20)
    jobs = [slot.job.job_id for slot in driver.engine.context.state.jobs.slots()]
    driver.ask(*[move(job_id, FAILED) for job_id in jobs])
    measured = stats_of(driver).in_status_s["awaiting_payment"]
    assert measured.count == figures.SAMPLES_MAX
    driver.pipeline.figures.refill()
    assert driver.pipeline.figures.samples_left == figures.SAMPLES_MAX


def test_a_clock_that_is_set_back_makes_no_time_negative() -> None:
    times = figures.Times()
    times.add(-5.0)
    assert (times.histogram().counts[0], times.total) == (1, 0.0)


# --- clients --------------------------------------------------------------------------------------


def test_clients_are_known_by_principal_and_name() -> None:
    driver = Driver()
    job = running(driver)
    driver.principal = Principal("key:gpu", frozenset({Role.WORKER}))
    (hello,) = driver.ask(Hello(open_session=True, client="worker@gpu"))
    session = session_of(hello)
    work = Claim(status=RUNNING, lease_ms=9_000, wait_ms=0, limit=1, queues=["default", "b"])
    request = driver.request(work, session=session)
    driver.run(Arrival(OTHER, [encode_request(request)], driver.principal))
    driver.principal = ADMIN
    driver.pass_ms(5_000)
    by_name = {each.client: each for each in stats_of(driver).clients}
    worker = by_name["worker@gpu"]
    assert (worker.by, worker.roles, worker.leases) == ("key:gpu", ["worker"], 1)
    assert worker.seen == EPOCH
    assert worker.last_claim is not None
    assert (worker.last_claim.of, worker.last_claim.queues) == ("running", ["default", "b"])
    shown = explain(driver, job.job_id)
    assert [each.client for each in shown.claimants] == ["worker@gpu"]
    assert shown.job.lease is not None
    assert shown.job.lease.client == "worker@gpu"


def test_clients_seen_at_one_time_are_ordered_by_name() -> None:
    driver = Driver()
    for number in (3, 1, 2):
        driver.principal = Principal(f"key:{number}", frozenset({Role.ADMIN}))
        driver.ask(claim(RUNNING))
    names = ["key:1", "key:2", "key:3"]
    assert [each.by for each in stats_of(driver).clients] == names
    job_id = running(driver).job_id
    assert [each.by for each in explain(driver, job_id).claimants] == names


def test_a_grant_to_a_parked_claim_is_no_sign_of_life() -> None:
    driver = Driver()
    driver.principal = Principal("key:gpu", frozenset({Role.WORKER}))
    driver.post(claim(RUNNING, wait_ms=60_000), peer=OTHER)
    driver.principal = ADMIN
    driver.pass_ms(5_000)
    running(driver)
    (worker,) = [each for each in stats_of(driver).clients if each.by == "key:gpu"]
    assert (worker.leases, worker.seen) == (1, EPOCH)


def test_claimants_show_what_they_hold() -> None:
    driver = Driver()
    for _ in range(2):
        running(driver)
    driver.grants_of(claim(RUNNING, limit=2, lease_ms=9_000))
    (ready, held) = (running(driver).job_id, driver.engine.context.state.jobs.slots()[0].job)
    for job_id in (ready, held.job_id):
        (claimant,) = explain(driver, job_id).claimants
        assert (claimant.by, claimant.leases) == ("uid:1000", 2)


def test_at_most_sixteen_claimants_are_shown() -> None:
    driver = Driver()
    for number in range(20):
        driver.principal = Principal(f"key:{number}", frozenset({Role.ADMIN}))
        driver.ask(claim(RUNNING))
        driver.pass_ms(10)
    job_id = running(driver).job_id
    shown = explain(driver, job_id)
    assert [each.by for each in shown.claimants] == [f"key:{19 - each}" for each in range(16)]
    assert shown.claimants_left_out == 4


def test_the_clients_seen_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CLIENTS_MAX", 3)
    driver = Driver()
    for number in range(5):
        driver.principal = Principal(f"key:{number}", frozenset({Role.ADMIN}))
        driver.ask(claim(RUNNING))
        driver.pass_ms(10)
    known = driver.pipeline.figures
    assert len(known.seen) == len(known.claims) == 5
    known.refill()
    assert (
        {by for by, _ in known.seen}
        == {"key:2", "key:3", "key:4"}
        == {by for by, _ in known.claims}
    )


def test_a_holder_from_before_the_start_is_shown() -> None:
    driver = Driver()
    running(driver)
    driver.grants_of(claim(RUNNING))
    driver.pipeline.figures.seen.clear()  # as after a restart: the lease stands
    driver.principal = Principal("key:look", frozenset({Role.OBSERVER}))
    held = [each for each in stats_of(driver).clients if each.leases]
    assert [(each.by, each.seen) for each in held] == [("uid:1000", None)]


def test_sessions_are_counted_by_client() -> None:
    driver = Driver()
    for number in range(5):
        driver.ask(Hello(open_session=True, client="web"))
        (hello,) = driver.ask(Hello(open_session=True, client=f"other-{number}"))
        in_session(driver, session_of(hello), create())
    driver.principal = Principal("key:web", frozenset({Role.ADMIN}))
    (hello,) = driver.ask(Hello(open_session=True, client="web"))
    in_session(driver, session_of(hello), create())
    by_name = {(each.by, each.client): each.sessions for each in stats_of(driver).clients}
    assert by_name["key:web", "web"] == 1
    assert {by_name["uid:1000", f"other-{number}"] for number in range(5)} == {1}
    assert by_name["uid:1000", ""] == 0  # requests without a session


def test_only_the_latest_sessions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_commands, "SESSIONS_LOOKED", 3)
    driver = Driver()
    sessions = [session_of(driver.ask(Hello(open_session=True, client="web"))[0]) for _ in range(5)]
    in_session(driver, sessions[0], create())
    (web,) = [each for each in stats_of(driver).clients if each.client == "web"]
    assert web.sessions == 3


@pytest.mark.parametrize("command", [create(), claim(RUNNING), claim(RUNNING, wait_ms=9)])
def test_the_last_that_lacked_a_role_is_told(command: Any) -> None:
    driver = Driver()
    assert stats_of(driver).last_denied is None
    driver.principal = Principal("key:look", frozenset({Role.OBSERVER}))
    (hello,) = driver.ask(Hello(open_session=True, client="top@desk"))
    driver.pass_ms(5_000)
    in_session(driver, session_of(hello), command)
    driver.principal = ADMIN
    tag = type(command).__struct_config__.tag
    driver.pass_ms(1_000)
    at = EPOCH + timedelta(seconds=5)
    assert stats_of(driver).last_denied == Denied("key:look", str(tag), at, "top@desk")
    assert stats_of(driver).commands[str(tag)].refused == {"not_authorized": 1}


def test_claims_for_settlements_are_no_workers() -> None:
    driver = Driver()
    driver.post(Claim(settlement=SettlementState.WANTED, lease_ms=9, wait_ms=1_000, limit=1))
    driver.post(claim(RUNNING, wait_ms=1_000))
    running(driver, queue="mail")
    (mail,) = stats_of(driver).queues
    assert (mail.name, mail.parked_claims, stats_of(driver).parked_claims) == ("mail", 0, 2)


# --- what is looked at ----------------------------------------------------------------------------


def test_figures_beyond_what_is_looked_at_are_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_commands, "LOOKED_MAX", 10)
    driver = Driver()
    jobs = [running(driver).job_id for _ in range(30)]
    driver.grants_of(claim(RUNNING, limit=12, lease_ms=60_000))
    driver.ask(*[Hold(job_id=job_id) for job_id in jobs[12:24]])
    shown = stats_of(driver)
    state = shown.statuses["running"]
    assert shown.estimated
    assert (state.count, state.leased, state.on_hold, state.ready) == (30, 12, 12, 6)
    assert shown.leases_left_out == 2


def test_delayed_jobs_beyond_what_is_looked_at_are_estimated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    later = EPOCH + timedelta(hours=1)
    for _ in range(20):
        running(driver, not_before=later)
    assert not stats_of(driver).estimated
    assert stats_of(driver).statuses["running"].delayed == 20
    monkeypatch.setattr(stats_commands, "LOOKED_MAX", 10)
    shown = stats_of(driver)
    assert (shown.estimated, shown.statuses["running"].delayed) == (True, 20)


def test_a_delayed_job_that_has_ended_is_not_counted() -> None:
    driver = Driver()
    later = EPOCH + timedelta(hours=1)
    delayed = [running(driver, not_before=later) for _ in range(2)]
    for _ in range(3):
        running(driver)
    driver.job(move(delayed[0], FAILED))
    state = stats_of(driver).statuses["running"]
    assert (state.count, state.delayed, state.ready) == (4, 1, 3)


def test_a_held_job_that_is_forgotten_is_kept_nowhere() -> None:
    driver = Driver(keep_finished_ms=1_000)
    job = running(driver)
    driver.ask(Hold(job_id=job.job_id))
    driver.job(move(job, FAILED))
    held = driver.engine.context.state.jobs.queues.held
    assert len(held) == 1
    driver.pass_ms(2_000)
    assert not held


def test_a_message_asks_for_figures_a_few_times_only() -> None:
    driver = Driver()
    results = driver.ask(*[Stats()] * 20)
    kinds = [type(each) for each in results]
    assert kinds[:4] == [StatsResult] * 4
    last = results[-1]
    assert isinstance(last, ErrorResult)
    assert last.code == "reply_full"


def test_many_queues_are_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_commands, "QUEUES_SHOWN", 2)
    driver = Driver()
    for queue, number in (("a", 1), ("b", 3), ("c", 2)):
        for _ in range(number):
            driver.ask(create(queue=queue))
    driver.ask(PauseQueue(queue="b"))
    shown = stats_of(driver)
    assert [each.name for each in shown.queues] == ["b", "c"]
    assert shown.queues_left_out == 1
    assert shown.queues[0].statuses["awaiting_payment"].paused == 3
    (only,) = stats_of(driver, queue="a").queues
    assert only.name == "a"
    assert stats_of(driver, queue="none").queues == []


def with_many_queues(queues: int, **limits: int) -> Driver:
    driver = Driver(queues=queues, **limits)
    driver.ask(*[create(queue=f"queue-{number}") for number in range(queues)])
    return driver


def any_job(lease_ms: int) -> Claim:
    return Claim(status=RUNNING, lease_ms=lease_ms, wait_ms=0, limit=1, queues=["*"])


def steps_of_stats(
    driver: Driver, *, due_every_ms: int = 0, times: int = 1
) -> tuple[StatsResult, int]:
    """Ask for figures; return them, and how many steps it took. Time passes between steps."""
    frame = encode_request(driver.request(*[Stats()] * times))
    steps = 0
    while True:
        steps += 1
        assert steps < 50
        output = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
        if output.taken:
            break
        driver.mono_ms += due_every_ms
        driver.wall += timedelta(milliseconds=due_every_ms)
    answer = driver.take(output)[-1][1]
    assert isinstance(answer, Reply)
    results = [result for result in answer.results if isinstance(result, StatsResult)]
    assert [result.statuses for result in results] == [results[0].statuses] * times
    return results[0], steps


def test_figures_of_many_queues_are_gathered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = with_many_queues(1_000)
    budgets: list[int] = []
    real = stats_commands._Gathering.go_on

    def watched(gathering: Any, context: Any) -> bool:
        before = context.scans_left
        is_done = real(gathering, context)
        budgets.append(before - context.scans_left)
        return is_done

    monkeypatch.setattr(stats_commands._Gathering, "go_on", watched)
    shown, steps = steps_of_stats(driver)
    assert steps == len(budgets) > 2
    assert max(budgets) <= stats_commands.STEP_SCANS + 1_000  # no part alone takes more here
    assert shown.statuses["awaiting_payment"].count == 1_000
    assert shown.commands["stats"].decided == 1
    monkeypatch.setattr(stats_commands, "STEP_SCANS", 10**9)
    at_once, steps = steps_of_stats(driver)
    assert steps == 1
    at_once.commands["stats"].decided = 1
    assert at_once == shown


def test_figures_are_those_of_the_position_they_name() -> None:
    """A lease that lapses while they are gathered is in them."""
    driver = with_many_queues(1_000)
    running(driver, queue="queue-0")
    driver.grants_of(any_job(lease_ms=1))
    shown, steps = steps_of_stats(driver, due_every_ms=1)
    assert steps > 3  # it began again
    assert (shown.lapses, shown.statuses["running"].leased) == (1, 0)
    assert shown.as_of == driver.engine.context.position()


def test_figures_are_gathered_although_something_is_always_due() -> None:
    driver = with_many_queues(1_000, lapses=1_000)
    for number in range(20):
        running(driver, queue=f"queue-{number}")
        driver.grants_of(any_job(lease_ms=1 + number))
    shown, steps = steps_of_stats(driver, due_every_ms=1)
    assert 1 < steps <= 1 + stats_commands.RESTARTS_MAX
    assert 0 < shown.lapses < 20


def test_a_message_that_asks_twice_is_answered() -> None:
    driver = with_many_queues(1_000)
    _, once = steps_of_stats(driver)
    _, twice = steps_of_stats(driver, times=2)
    assert once == twice


def test_figures_are_gathered_however_long_a_step_takes() -> None:
    driver = with_many_queues(1_000)
    _, quickly = steps_of_stats(driver)
    _, slowly = steps_of_stats(driver, due_every_ms=20_000)
    assert slowly == quickly > 2


def test_another_message_gathers_figures_anew() -> None:
    driver = with_many_queues(1_000)
    first, second = [
        Arrival(PEER, [encode_request(driver.request(Stats()))], ADMIN) for _ in range(2)
    ]
    left = []
    for arrival in (first, first, second):  # the first one may be refused in the middle
        assert not driver.pipeline.run([arrival], driver.now).taken
        left.append(driver.engine.context.gathering)
    assert left[0] is left[1] is not left[2]


def test_a_small_reply_leaves_queues_and_clients_out() -> None:
    driver = Driver(reply_bytes=64 * 1024, queues=1_000)
    for number in range(100):
        driver.ask(create(queue=f"{'q' * 50}{number}"))
    shown = stats_of(driver)
    assert 0 < len(shown.queues) < 100
    assert shown.queues_left_out == 100 - len(shown.queues)


def test_a_long_line_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    jobs = [running(driver).job_id for _ in range(9)]
    assert (explain(driver, jobs[8]).before, explain(driver, jobs[8]).before_at_least) == (8, False)
    monkeypatch.setattr(explain_commands, "AHEAD_MAX", 5)
    shown = explain(driver, jobs[8])
    assert (shown.before, shown.before_at_least) == (5, True)


def test_deadlines_say_what_they_do() -> None:
    driver = Driver()
    result = explain(driver, driver.job(create(pay_by_time=EPOCH + timedelta(hours=1))).job_id)
    assert [(each.what, each.at) for each in result.coming] == [
        ("pay_by_time", EPOCH + timedelta(hours=1, minutes=5))
    ]
    job = running(driver, submit_result_time=EPOCH + timedelta(hours=2))
    driver.grants_of(claim(RUNNING, lease_ms=60_000))
    assert [each.what for each in explain(driver, job.job_id).coming] == [
        "lease",
        "submit_result_time",
    ]
    ended = driver.job(move(running(driver), FAILED))
    assert [each.what for each in explain(driver, ended.job_id).coming] == ["keep_finished_ms"]


def test_the_last_lapse_says_that_the_job_fails() -> None:
    driver = Driver(lapses=2)
    job = running(driver)
    said = []
    for _ in range(2):
        driver.grants_of(claim(RUNNING, lease_ms=60_000))
        said += [each.then for each in explain(driver, job.job_id).coming]
        driver.pass_ms(60_001)
    assert said == [
        "unless it is touched, the lease lapses and the job can be claimed again",
        "unless it is touched, the lease lapses and the job fails: this is lapse 2 of 2",
    ]
    assert explain(driver, job.job_id).job.status is FAILED


def test_a_full_disk_shows() -> None:
    driver = Driver()
    job = running(driver)
    driver.writable = False
    assert not stats_of(driver).writable
    assert not explain(driver, job.job_id).writable
