"""Random sequences of steps for a broker core, and a bench that runs them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from tests.core import ADMIN, HASH, OTHER, PEER, Driver, job_id, pipeline_of
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Create,
    Get,
    Hello,
    History,
    Hold,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    StopWaiting,
    Touch,
    Transition,
)
from tollgate.domain.messages import Request, encode_request
from tollgate.domain.results import HelloResult, JobResult, LeasesResult, Progress
from tollgate.domain.settlement import CLAIMABLE, SettlementState
from tollgate.domain.status import JobStatus

LIMITS = {
    "sessions": 3,
    "outcomes": 12,
    "max_finished": 4,
    "keep_finished_ms": 100_000,
    "lapses": 2,
    "pay_within_ms": 20_000,
    "payment_grace_ms": 1_000,
}
JOBS = 12
NEVER_GIVEN = 99

Step = tuple[Any, ...]
"""The name of a step, and its arguments."""

QUEUES = (None, "a", "b")
_status = st.sampled_from(JobStatus)
_state = st.sampled_from([JobStatus.RUNNING, JobStatus.AWAITING_PAYMENT, *sorted(CLAIMABLE)])
_delay = st.sampled_from([None, 0, 5, 700])
_place = st.integers(0, 7)
_command = st.one_of(
    st.tuples(st.just("create"), st.none() | st.integers(1, JOBS), st.booleans()),
    st.tuples(st.just("move"), _place, _status, st.none() | st.integers(1, 4), st.booleans()),
    st.tuples(st.just("move"), _place, _status, st.none(), st.booleans()),
    st.tuples(st.just("input"), _place, st.integers(1, 5)),
    st.tuples(st.just("cancel"), _place),
    st.tuples(st.just("claim"), st.integers(1, 3), st.sampled_from([10, 3_000])),
    st.tuples(st.just("release"), _place),
    st.tuples(st.just("touch"), _place),
    st.tuples(st.just("get"), _place),
    st.tuples(st.just("hello")),
    st.tuples(st.just("paid"), st.sampled_from(QUEUES), st.sampled_from([0, 9]), _delay),
    st.tuples(st.just("take"), st.sampled_from([("*",), ("a", "b"), ("default",)]), _state),
    st.tuples(st.just("name"), _place, _place),
    st.tuples(st.just("back"), _place, _delay, st.booleans()),
    st.tuples(st.just("ask"), _place),
    st.tuples(st.just("force"), _place, _status, st.integers(1, 4)),
    st.tuples(st.just("settle"), _place, st.none() | st.sampled_from(SettlementState), _delay),
    st.tuples(st.just("order"), _place, st.sampled_from([Hold, Resume, RequestStop])),
    st.tuples(st.just("annotate"), _place, st.sampled_from([None, "", "one", "two"])),
    st.tuples(st.just("queue"), st.sampled_from([PauseQueue, ResumeQueue])),
    st.tuples(st.just("history"), _place),
    st.tuples(st.just("stop"), st.integers(1, 5)),
)
_session = st.integers(0, 3)
_step = st.one_of(
    st.tuples(st.just("send"), _session, st.lists(_command, max_size=4), st.integers(0, 3)),
    st.tuples(st.just("send"), _session, st.lists(_command, max_size=4), st.integers(0, 3)),
    st.tuples(st.just("again"), st.integers(0, 9)),
    st.tuples(st.just("park"), _session, st.integers(1, 2)),
    st.tuples(st.just("pass"), st.sampled_from([5, 700, 9_000, 70_000])),
    st.tuples(st.just("set"), st.sampled_from([-90_000, -2_000, 500, 90_000])),
    st.tuples(st.just("undelivered")),
    st.tuples(st.just("full"), st.booleans()),
)
_runs = ("move", 0, JobStatus.RUNNING, None, False)
_ends = ("move", 0, JobStatus.COMPLETED, None, False)
_PRELUDE: list[Step] = [
    ("send", 0, [("hello",)], 0),
    ("send", 0, [("create", 1, True), _runs, ("create", 2, False), _runs], 3),
    ("send", 0, [("create", 3, False), _runs, ("create", 4, False)], 3),
    ("send", 0, [("claim", 2, 3_000)], 3),
    ("send", 0, [("paid", "a", 0, 700), _runs, ("paid", "b", 9, None), _runs, _ends], 3),
]
step_lists = st.lists(_step, min_size=5, max_size=40)
first_steps = step_lists.map(lambda steps: _PRELUDE + steps)
"""Steps from an empty broker: a session, running jobs, leases on two of them, then random steps."""


class Bench:
    """Runs steps on a core. The same steps on the same state give the same bytes."""

    def __init__(self, state: State | None = None, first_id: int = 1_000) -> None:
        ids = iter(range(first_id, first_id + 10_000))
        self.state = state or State()
        self._began_at = self.state.at
        engine = Engine(
            Limits(**LIMITS),
            new_id=lambda: job_id(next(ids)),
            server="tollgate test",
            boot_id="boot",
            state=self.state,
        )
        self.driver = Driver()
        self.driver.pipeline = pipeline_of(engine)
        self.driver.pipeline.deadlines.start(self.driver.now)
        self.frames: list[bytes] = []
        """All reply frames."""
        self._sessions: list[int] = [0]
        self._seqs: dict[int, int] = {}
        self._sent: list[Request] = []
        self._jobs: list[str] = [job_id(1)]
        self._leases: list[tuple[str, int]] = [(job_id(1), 1)]

    def follow(self, other: "Bench") -> None:
        """Copy the clock of another bench, and the ids it knows."""
        self._sessions, self._seqs = list(other._sessions), dict(other._seqs)
        self._sent, self._jobs = list(other._sent), list(other._jobs)
        self._leases = list(other._leases)
        self.driver.wall, self.driver.mono_ms = other.driver.wall, other.driver.mono_ms
        self.driver.pipeline.deadlines.start(self.driver.now)

    def take(self, step: Step) -> None:
        kind, *details = step
        getattr(self, f"_{kind}")(*details)

    def snapshot_chunks(self) -> list[bytes]:
        """Return what a replay must make. It knows no time after that of the last record."""
        now, times = self.state.at, [record.at for record in self.driver.records if record.at]
        self.state.at = times[-1] if times else self._began_at
        try:
            return list(snapshot_chunks(self.state))
        finally:
            self.state.at = now

    def _send(self, place: int, commands: Sequence[Step], lag: int) -> None:
        session = self._sessions[-1 - place % len(self._sessions)]
        made = [getattr(self, f"_make_{kind}")(*details) for kind, *details in commands]
        self._request(session, made, lag)

    def _park(self, place: int, limit: int) -> None:
        session = self._sessions[-1 - place % len(self._sessions)]
        claim = Claim(status=JobStatus.RUNNING, lease_ms=3_000, wait_ms=5_000, limit=limit)
        self._request(session, [claim], 3)

    def _request(self, session: int, commands: list[AnyCommand], lag: int) -> None:
        seq = self._seqs[session] = self._seqs.get(session, 0) + 1
        self._sent.append(Request(1, session, seq, max(0, seq - 1 - lag), commands))
        self._arrive(self._sent[-1], PEER)

    def _again(self, place: int) -> None:
        if self._sent:
            self._arrive(self._sent[-1 - place % len(self._sent)], OTHER)

    def _arrive(self, request: Request, peer: bytes) -> None:
        driver = self.driver
        outcome = driver.pipeline.run(
            [Arrival(peer, [encode_request(request)], ADMIN)], driver.now, writable=driver.writable
        )
        self.frames += [reply.frame for reply in outcome.replies]
        for _, answer in driver.take(outcome):
            for result in getattr(answer, "results", []):
                self._observe(result)

    def _observe(self, result: object) -> None:
        if isinstance(result, HelloResult) and result.session:
            self._sessions.append(result.session)
        elif isinstance(result, JobResult):
            self._jobs.append(result.job.job_id)
        elif isinstance(result, LeasesResult):
            self._leases += [(grant.job.job_id, grant.lease) for grant in result.leases]

    def _pass(self, span_ms: int) -> None:
        self.driver.mono_ms += span_ms
        self._set(span_ms)

    def _set(self, span_ms: int) -> None:
        self.driver.wall += timedelta(milliseconds=span_ms)
        self._tick()

    def _tick(self, undelivered: Sequence[tuple[str, int]] = ()) -> None:
        driver = self.driver
        outcome = driver.pipeline.run([], driver.now, undelivered, writable=driver.writable)
        self.frames += [reply.frame for reply in outcome.replies]
        driver.take(outcome)

    def _undelivered(self) -> None:
        self._tick(self.driver.grants[-1] if self.driver.grants else ())

    def _full(self, full: bool) -> None:
        self.driver.writable = not full
        self._tick()

    def _job(self, place: int) -> str:
        return self._jobs[-1 - place % len(self._jobs)]

    def _make_create(self, number: int | None, paid: bool) -> AnyCommand:
        soon = self.driver.wall + timedelta(seconds=15)
        return Create(
            input_hash=HASH,
            job_id=job_id(number) if number else None,
            blockchain_identifier=f"paid {number}" if paid else None,
            submit_result_time=soon if paid else None,
        )

    def _make_move(
        self, place: int, target: JobStatus, version: int | None, leased: bool
    ) -> AnyCommand:
        job, lease = (self._job(place), None)
        if leased:
            job, lease = self._leases[-1 - place % len(self._leases)]
        result = "done" if target is JobStatus.COMPLETED else None
        return Transition(
            job_id=job, target=target, result=result, expected_version=version, lease=lease
        )

    def _make_input(self, place: int, version: int) -> AnyCommand:
        return ProvideInput(
            job_id=self._job(place), input="yes", expected_version=version, input_hash=HASH
        )

    def _make_cancel(self, place: int) -> AnyCommand:
        return Cancel(job_id=self._job(place))

    def _make_claim(self, limit: int, lease_ms: int) -> AnyCommand:
        return Claim(status=JobStatus.RUNNING, lease_ms=lease_ms, wait_ms=0, limit=limit)

    def _make_release(self, place: int) -> AnyCommand:
        job, lease = self._leases[-1 - place % len(self._leases)]
        return Release(job_id=job, lease=lease)

    def _make_touch(self, place: int) -> AnyCommand:
        job, lease = self._leases[-1 - place % len(self._leases)]
        progress = Progress(f"part {place}") if place % 2 else None
        return Touch(job_id=job, lease=lease, lease_ms=50, progress=progress)

    def _make_paid(self, queue: str | None, priority: int, delay_ms: int | None) -> AnyCommand:
        due = None if delay_ms is None else self.driver.wall + timedelta(milliseconds=delay_ms)
        return Create(
            input_hash=HASH, queue=queue, priority=priority, not_before=due, settle=True, meta="new"
        )

    def _make_take(self, queues: Sequence[str], state: JobStatus | SettlementState) -> AnyCommand:
        is_status = isinstance(state, JobStatus)
        return Claim(
            status=state if isinstance(state, JobStatus) else None,
            settlement=None if is_status else SettlementState(state),
            queues=list(queues),
            lease_ms=3_000,
            wait_ms=0,
            limit=2,
        )

    def _make_name(self, place: int, other: int) -> AnyCommand:
        jobs = [self._job(place), self._job(other)]
        return Claim(status=JobStatus.RUNNING, lease_ms=3_000, wait_ms=0, limit=2, job_ids=jobs)

    def _make_back(self, place: int, delay_ms: int | None, hold: bool) -> AnyCommand:
        job, lease = self._leases[-1 - place % len(self._leases)]
        return Release(job_id=job, lease=lease, delay_ms=delay_ms, reason="later", hold=hold)

    def _make_ask(self, place: int) -> AnyCommand:
        job, lease = self._leases[-1 - place % len(self._leases)]
        return Transition(
            job_id=job, target=JobStatus.AWAITING_INPUT, input_schema="?", lease=lease,
            keep_lease=True,
        )  # fmt: skip

    def _make_force(self, place: int, target: JobStatus, version: int) -> AnyCommand:
        job = self._leases[-1 - place % len(self._leases)][0]
        return Transition(job_id=job, target=target, expected_version=version, force=True)

    def _make_settle(
        self, place: int, to: SettlementState | None, retry_after_ms: int | None
    ) -> AnyCommand:
        job, lease = self._leases[-1 - place % len(self._leases)]
        if place % 2:
            return Settle(job_id=self._job(place), to=to, on_chain_state=f"seen {place}")
        return Settle(job_id=job, lease=lease, to=to, retry_after_ms=retry_after_ms)

    def _make_order(
        self, place: int, kind: type[Hold] | type[Resume] | type[RequestStop]
    ) -> AnyCommand:
        return kind(job_id=self._job(place))

    def _make_annotate(self, place: int, meta: str | None) -> AnyCommand:
        return Annotate(job_id=self._job(place), meta=meta)

    def _make_queue(self, kind: type[PauseQueue] | type[ResumeQueue]) -> AnyCommand:
        return kind(queue="a")

    def _make_history(self, place: int) -> AnyCommand:
        return History(job_id=self._job(place))

    def _make_stop(self, back: int) -> AnyCommand:
        return StopWaiting(seqs=[max(0, max(self._seqs.values(), default=0) - back)])

    def _make_get(self, place: int) -> AnyCommand:
        return Get(job_id=self._job(place))

    def _make_hello(self) -> AnyCommand:
        return Hello(open_session=True)
