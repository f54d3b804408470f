"""What happens by itself in time: deadlines, the clocks, the removal of finished jobs."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    DAY_MS,
    EPOCH,
    FAILED,
    HOUR,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    job_id,
    job_of,
    make_engine,
    move,
    pipeline_of,
    running,
    status_of,
    wait,
)
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.deadlines import FAR_MS, LOOK_MS, REMOVED_MAX
from tollgate.broker.core.events import JobTransitioned
from tollgate.broker.core.limits import DUE_MAX
from tollgate.broker.core.state import State
from tollgate.broker.repository.indexes import FinishedJobs
from tollgate.domain.commands import Cancel, Explain, Get, Release
from tollgate.domain.messages import Reply, encode_request
from tollgate.domain.models import JobStatus
from tollgate.domain.results import ExplainedResult, OkResult


def test_an_unpaid_job_fails_after_deadline_and_grace() -> None:
    driver = Driver(payment_grace_ms=5_000)
    job = driver.job(create(pay_by_time=EPOCH + HOUR))
    default = driver.job(create())
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=4_999))
    assert status_of(driver, job) is AWAITING_PAYMENT
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=5_000))
    shown = driver.job(Get(job_id=job.job_id))
    assert (shown.status, shown.version) == (FAILED, 2)
    assert "pay_by_time" in (shown.error or "")
    assert shown.updated_at == EPOCH + HOUR + timedelta(seconds=5)
    driver.set_wall(EPOCH + timedelta(days=1, seconds=5))
    assert status_of(driver, default) is FAILED


@pytest.mark.parametrize("status", [RUNNING, AWAITING_INPUT])
def test_an_unfinished_job_fails_at_its_deadline(status: JobStatus) -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    if status is AWAITING_INPUT:
        driver.job(move(job, AWAITING_INPUT))
    driver.set_wall(EPOCH + HOUR - timedelta(milliseconds=1))
    assert status_of(driver, job) is status
    driver.set_wall(EPOCH + HOUR)
    shown = driver.job(Get(job_id=job.job_id))
    assert shown.status is FAILED
    assert "submit_result_time" in (shown.error or "")


def test_a_past_submit_deadline_counts_from_running_on() -> None:
    driver = Driver()
    job = driver.job(create(submit_result_time=EPOCH - HOUR))
    driver.pass_ms(1)
    assert status_of(driver, job) is AWAITING_PAYMENT  # this deadline is of running jobs
    driver.job(move(job, RUNNING))
    driver.run()
    assert status_of(driver, job) is FAILED


def test_a_job_paid_or_done_in_time_does_not_fail() -> None:
    driver = Driver()
    paid = running(driver, pay_by_time=EPOCH + HOUR)
    done = driver.job(move(running(driver, submit_result_time=EPOCH + HOUR), COMPLETED))
    driver.set_wall(EPOCH + timedelta(days=3))
    assert status_of(driver, paid) is RUNNING
    assert status_of(driver, done) is COMPLETED


def test_deadlines_come_before_the_commands_of_a_batch() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    driver.wall = EPOCH + HOUR
    error = driver.error(move(job, COMPLETED))
    assert (error.code, error.status) == ("illegal_transition", "failed")


def test_a_deadline_ends_a_lease() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    (grant,) = driver.grants_of(claim(lease_ms=DAY_MS))
    driver.set_wall(EPOCH + HOUR)
    assert driver.error(move(job, COMPLETED, lease=grant.lease)).code == "lease_lost"


def test_a_clock_set_back_undoes_nothing() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    (grant,) = driver.grants_of(claim(lease_ms=1_000))
    driver.set_wall(EPOCH - timedelta(days=400))
    driver.mono_ms += 999
    moved = driver.job(move(job, AWAITING_INPUT, lease=grant.lease))
    assert moved.updated_at == EPOCH + timedelta(microseconds=999 * 900)  # a tenth slower
    (event,) = driver.records[-1].events
    assert isinstance(event, JobTransitioned)
    assert event.at == moved.updated_at  # a repeat is told this time
    driver.set_wall(EPOCH + HOUR - timedelta(seconds=1))
    assert status_of(driver, job) is AWAITING_INPUT
    driver.set_wall(EPOCH + HOUR)
    assert status_of(driver, job) is FAILED
    driver.set_wall(EPOCH)
    assert status_of(driver, job) is FAILED


@pytest.mark.parametrize("keep_finished_ms", [0, 1, 5_000])
def test_an_idle_broker_sleeps_however_short_the_retention(
    keep_finished_ms: int,
) -> None:
    driver = Driver(keep_finished_ms=keep_finished_ms)
    driver.run()
    assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS
    driver.ask(create(), move(job_id(1), FAILED))
    assert driver.pipeline.deadlines.due_in_ms(driver.now) <= keep_finished_ms
    driver.pass_ms(keep_finished_ms)
    assert driver.engine.context.state.jobs.count() == 0
    driver.run()
    assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS


@pytest.mark.parametrize("far", [False, True])
def test_due_in_ms_is_the_time_to_the_next_deadline(far: bool) -> None:
    driver = Driver(payment_grace_ms=5_000)

    def due() -> int:
        return driver.pipeline.deadlines.due_in_ms(driver.now)

    assert due() == FAR_MS
    latest = datetime.max.replace(tzinfo=EPOCH.tzinfo)
    job = driver.job(create(pay_by_time=latest if far else EPOCH + HOUR))
    if far:
        assert due() == FAR_MS
        return
    assert due() == 3_605_000
    seq = driver.post(wait(job.job_id, timeout_ms=700))
    assert due() == 700
    driver.grants_of(claim(AWAITING_PAYMENT, lease_ms=300))
    assert due() == 300
    driver.mono_ms += 299
    assert due() == 1
    driver.mono_ms += 2
    assert due() == 0
    driver.run()
    assert due() == 399
    driver.mono_ms += 399
    driver.run()
    assert driver.answer_to(seq) is not None
    driver.wall = EPOCH + HOUR + timedelta(microseconds=4_999_001)
    assert due() == 1  # never too early, but not a moment lost either
    driver.wall = EPOCH + 3 * HOUR
    assert due() == 0
    driver.run()
    assert due() > 0


@pytest.mark.parametrize(
    "time", [datetime.max.replace(tzinfo=EPOCH.tzinfo), datetime.min.replace(tzinfo=EPOCH.tzinfo)]
)
def test_no_date_stops_the_broker(time: datetime) -> None:
    driver = Driver()
    job = driver.job(create(pay_by_time=time, submit_result_time=time))
    driver.pass_ms(1)
    driver.pipeline.deadlines.due_in_ms(driver.now)
    if time.year == 9999:
        driver.job(move(job, RUNNING))
        assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS
        driver.pass_ms(1)
    assert status_of(driver, job) is (RUNNING if time.year == 9999 else FAILED)


def test_a_deadline_in_year_1_stops_no_later_create() -> None:
    driver = Driver()
    first = datetime.min.replace(tzinfo=EPOCH.tzinfo)
    driver.ask(create(submit_result_time=first))
    moved, created = driver.ask(move(job_id(1), RUNNING), create())
    assert (job_of(moved).status, job_of(created).status) == (RUNNING, AWAITING_PAYMENT)
    driver.run()
    assert driver.job(Get(job_id=job_id(1))).status is FAILED


def test_finished_jobs_are_looked_at_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(max_finished=0)
    jobs = driver.engine.context.state.jobs
    looked: list[bool] = []
    oldest = FinishedJobs.oldest

    def look(index: FinishedJobs) -> tuple[datetime, str] | None:
        looked.append(jobs._lock._is_owned())  # type: ignore[attr-defined]
        return oldest(index)

    monkeypatch.setattr(FinishedJobs, "oldest", look)
    driver.pipeline.deadlines.start(driver.now)
    driver.ask(create(), Cancel(job_id=job_id(1)))
    driver.run()
    assert len(looked) > 2
    assert all(looked)


def test_many_deadlines_are_decided_over_several_batches() -> None:
    driver = Driver()
    jobs = 2 * DUE_MAX + DUE_MAX // 2
    for _ in range(5):
        driver.ask(*[create(pay_by_time=EPOCH)] * (DUE_MAX // 2))
    driver.wall = EPOCH + HOUR
    steps = 0
    while driver.pipeline.deadlines.is_due(driver.now):
        driver.run()
        steps += 1
        assert steps < 10
    assert steps == 3
    assert driver.engine.context.state.jobs.count(FAILED) == jobs


def test_no_message_is_decided_while_deadlines_are_overdue() -> None:
    driver = Driver()
    jobs = DUE_MAX + DUE_MAX // 2
    driver.ask(*[create(pay_by_time=EPOCH)] * jobs)
    driver.wall = EPOCH + HOUR
    last = Get(job_id=job_id(jobs))
    batch = [Arrival(PEER, [encode_request(driver.request(last))], ADMIN)]
    first = driver.pipeline.run(batch, driver.now)
    assert (first.taken, first.replies) == (0, [])
    second = driver.pipeline.run(batch, driver.now)
    assert second.taken == 1
    ((_, answer),) = driver.take(second)
    assert isinstance(answer, Reply)
    assert job_of(answer.results[0]).status is FAILED


def test_many_finished_jobs_are_removed_over_several_batches() -> None:
    driver = Driver(keep_finished_ms=1_000)
    stored = [2 * REMOVED_MAX + REMOVED_MAX // 2]
    for number in range(1, stored[0] + 1):
        driver.ask(create(), Cancel(job_id=job_id(number)))
    driver.mono_ms += 1_000
    driver.wall += timedelta(seconds=1)
    jobs = driver.engine.context.state.jobs
    while driver.pipeline.deadlines.is_due(driver.now):
        driver.run()
        stored.append(jobs.count())
    assert [before - after for before, after in pairwise(stored)] == [
        REMOVED_MAX, REMOVED_MAX, REMOVED_MAX // 2,
    ]  # fmt: skip


class Archive:
    """A broker that keeps a finished job for a day, and has one."""

    DAY = 24 * HOUR

    def __init__(self, began: datetime = EPOCH) -> None:
        self.driver = Driver(keep_finished_ms=DAY_MS)
        self.driver.wall = began
        self.finish(1)

    def finish(self, number: int) -> None:
        self.driver.ask(create(job_id=job_id(number)), Cancel(job_id=job_id(number)))

    @property
    def kept(self) -> int:
        return self.driver.engine.context.state.jobs.count()

    def run(self, hours: float) -> int:
        """Let so many hours pass, and return how many jobs are still there."""
        for _ in range(round(hours * 60)):
            self.driver.pass_ms(60_000)
        return self.kept

    def restart(self, wall: datetime) -> None:
        """Start a broker on the same records."""
        state = State()
        for record in self.driver.records:
            state.apply(record, 0)
        engine = make_engine(state, keep_finished_ms=DAY_MS)
        self.driver.pipeline = pipeline_of(engine)
        self.driver.wall, self.driver.mono_ms = wall, 0
        self.driver.pipeline.deadlines.start(self.driver.now)
        self.driver.run()


@pytest.mark.parametrize("step", [timedelta(days=400), timedelta(hours=23), -timedelta(days=400)])
def test_a_result_outlives_a_clock_that_is_set(step: timedelta) -> None:
    archive = Archive()
    archive.run(1)
    archive.driver.set_wall(archive.driver.wall + step)
    assert archive.run(23.9) == 1
    assert archive.run(3) == 0


def test_a_result_of_a_clock_that_was_behind_is_kept() -> None:
    """A machine without a battery for its clock begins in 1970, and is set right later."""
    archive = Archive(began=datetime(1970, 1, 1, tzinfo=EPOCH.tzinfo))
    archive.run(1)
    archive.driver.set_wall(EPOCH)
    archive.run(1)
    archive.restart(EPOCH + HOUR)
    assert archive.run(23.9) == 1
    assert archive.run(0.2) == 0


def test_a_result_of_a_clock_that_was_ahead_is_forgotten() -> None:
    archive = Archive(began=datetime(2050, 1, 1, tzinfo=EPOCH.tzinfo))
    archive.driver.set_wall(EPOCH)
    archive.finish(2)
    assert archive.run(24) == 2  # the time of records goes a tenth slower
    assert archive.run(3) == 0


def test_a_wrong_clock_and_a_restart_lose_no_result() -> None:
    archive = Archive()
    archive.run(1)
    archive.driver.set_wall(EPOCH + timedelta(days=9_000))
    archive.finish(2)
    archive.restart(EPOCH + HOUR)
    assert archive.run(23.9) == 2
    assert archive.run(3) == 0


@pytest.mark.parametrize("down", [timedelta(hours=24.5), timedelta(days=3)])
def test_a_result_of_before_a_long_downtime_can_be_read(down: timedelta) -> None:
    archive = Archive()
    archive.restart(EPOCH + down)
    assert archive.run(23.9) == 1
    assert archive.run(0.2) == 0


def test_restarts_keep_no_result_for_ever() -> None:
    archive = Archive()
    for hour in range(1, 24):
        archive.run(1)
        archive.finish(hour + 1)
        archive.restart(EPOCH + hour * HOUR)
    assert archive.kept == 24
    archive.run(1)
    assert archive.kept == 23


def test_time_goes_on_while_the_clock_is_behind() -> None:
    driver = Driver()
    driver.wall = EPOCH + timedelta(days=9_000)
    driver.job(create(job_id=job_id(7)))
    driver.set_wall(EPOCH)
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    driver.ask(Release(job_id=job.job_id, lease=grant.lease, delay_ms=60_000))
    seq = driver.post(claim(wait_ms=120_000))
    told = driver.ask(Explain(job_id=job.job_id))[0]
    assert isinstance(told, ExplainedResult)
    (delay,) = [each for each in told.coming if each.what == "not_before"]
    assert delay.at - EPOCH == pytest.approx(timedelta(seconds=60 / 0.9), abs=timedelta(seconds=1))
    for _ in range(66):
        driver.pass_ms(1_000)
        assert driver.pipeline.deadlines.due_in_ms(driver.now) <= LOOK_MS
    assert driver.result_of(seq) is None
    due_in_ms = driver.pipeline.deadlines.due_in_ms(driver.now)
    assert 600 < due_in_ms <= 667
    driver.pass_ms(due_in_ms - 1)
    assert driver.result_of(seq) is None
    assert not driver.pipeline.deadlines.is_due(driver.now)
    driver.pass_ms(1)
    assert driver.result_of(seq) is not None


@pytest.mark.parametrize("delay_s", [60, 86_400])
def test_a_delay_is_not_shorter_while_the_clock_is_behind(delay_s: int) -> None:
    driver = Driver()
    driver.wall = EPOCH + timedelta(days=9_000)
    driver.job(create(job_id=job_id(7)))
    driver.set_wall(EPOCH)
    job = driver.job(create(not_before=EPOCH + timedelta(seconds=delay_s)))
    driver.job(move(job, RUNNING))
    driver.pass_ms((delay_s - 1) * 1_000)
    assert driver.grants_of(claim()) == []
    driver.pass_ms(delay_s * 1_000 // 9 + 2_000)
    assert len(driver.grants_of(claim())) == 1


def test_the_clock_reaches_the_time_of_records() -> None:
    driver = Driver()
    driver.wall = EPOCH + HOUR
    driver.job(create())
    driver.set_wall(EPOCH)
    last = EPOCH + HOUR
    for _ in range(10 * 60 + 2):
        driver.pass_ms(60_000)
        at = driver.job(create()).created_at
        assert at >= last
        last = at
    assert last == driver.wall


def test_deadlines_go_by_the_wall_clock_alone() -> None:
    driver = Driver(payment_grace_ms=0)
    driver.wall = EPOCH + timedelta(days=9_000)
    driver.job(create(job_id=job_id(7)))
    driver.set_wall(EPOCH)
    first = driver.job(create())
    job = running(driver, submit_result_time=EPOCH + 2 * HOUR)
    (grant,) = driver.grants_of(claim())
    assert first.pay_by_time == EPOCH + timedelta(days=1)
    late = Release(job_id=job.job_id, lease=grant.lease, delay_ms=7_200_000)
    assert driver.error(late).code == "too_large"
    in_time = Release(job_id=job.job_id, lease=grant.lease, delay_ms=7_199_000)
    assert driver.ask(in_time) == [OkResult()]
    driver.set_wall(EPOCH + 2 * HOUR)
    assert status_of(driver, job) is FAILED
    driver.set_wall(EPOCH + timedelta(days=1, minutes=1))
    assert status_of(driver, first) is FAILED


def test_a_clock_at_the_last_date_stops_nothing() -> None:
    driver = Driver()
    driver.wall = datetime.max.replace(tzinfo=EPOCH.tzinfo) - timedelta(seconds=1)
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    driver.ask(Release(job_id=job.job_id, lease=grant.lease, delay_ms=60_000))
    driver.job(Cancel(job_id=driver.job(create()).job_id))
    driver.run()
    driver.set_wall(EPOCH)
    driver.pass_ms(60_000)
    assert driver.pipeline.deadlines.due_in_ms(driver.now) >= 0


def test_a_deadline_beyond_all_dates_is_never_due() -> None:
    driver = Driver()
    job = driver.job(create(pay_by_time=datetime.max.replace(tzinfo=EPOCH.tzinfo)))
    seq = driver.post(wait(job.job_id, timeout_ms=1))
    driver.pass_ms(1)  # the end of the wait has every deadline looked at
    assert driver.answer_to(seq) is not None
    assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS


def test_a_job_that_goes_to_and_fro_has_one_deadline() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    for _ in range(10):
        driver.ask(*[move(job, AWAITING_INPUT), move(job, RUNNING)] * 400)
    assert len(driver.engine.context.state.unfinished) == 1


def test_a_new_job_does_not_inherit_a_removed_ones_deadline() -> None:
    driver = Driver(payment_grace_ms=0, keep_finished_ms=1_000)
    first = driver.job(create(job_id=job_id(9), pay_by_time=EPOCH + timedelta(minutes=10)))
    driver.job(Cancel(job_id=first.job_id))
    for _ in range(70):
        driver.pass_ms(1_000)
    assert driver.error(Get(job_id=first.job_id)).code == "job_not_found"
    again = driver.job(create(job_id=job_id(9), pay_by_time=EPOCH + timedelta(minutes=20)))
    for _ in range(11):
        driver.pass_ms(60_000)
    assert status_of(driver, again) is AWAITING_PAYMENT
    driver.pass_ms(7 * 60_000)
    assert status_of(driver, again) is AWAITING_PAYMENT
    driver.pass_ms(60_000)
    assert status_of(driver, again) is FAILED
