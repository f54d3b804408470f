"""The loop sleeps only when nothing is left to do: random messages with the smallest budgets.

Each script goes through the loop's own code, on a disk that is full now and then. Before each sleep
nothing may be parked that could be answered; at the end a replay must give the same state.
"""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import TypeVar

import pytest

from tests.broker.core.restarts import live_chunks, live_state, replayed_chunks
from tests.broker.core.test_server import Tight, server_of
from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    OTHER,
    PEER,
    RUNNING,
    Driver,
    create,
    move,
)
from tests.core import job_id as numbered
from tests.sizes import sample
from tollgate.broker.core import context, deadlines, engine, pipeline, stats_commands
from tollgate.broker.core.batch import Arrival, Output, ReplyFrame
from tollgate.broker.core.event_commands import SERVE_EVERY_MS
from tollgate.broker.core.event_rows import HIDDEN
from tollgate.broker.core.feed import Place
from tollgate.broker.core.waiters import names_of, state_of
from tollgate.broker.repository import queues
from tollgate.broker.repository.job import Slot, claimed_for
from tollgate.domain.commands import (
    ALL_QUEUES,
    AnyCommand,
    Claim,
    Count,
    Events,
    Hello,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    Resume,
    ResumeQueue,
    Settle,
    Stats,
    StopWaiting,
    Wait,
)
from tollgate.domain.messages import Request, encode_request
from tollgate.domain.settlement import LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import LEGAL_TRANSITIONS

T = TypeVar("T")
IDS = [numbered(number) for number in range(1, 9)]
NAMES = ["default", "a", "b"]
LOTS = sample(4, 16)
SCRIPTS = sample(100, 2_000)
STEPS = 100
BUDGETS = (
    (pipeline, "RECORDS_MAX", 3), (pipeline, "REPLIES_MAX", 3), (pipeline, "LONG_BYTES", 150),
    (pipeline, "SCANS_KEPT", 12), (context, "SCAN_JOBS_MAX", 24), (context, "DROPS_MAX", 3),
    (queues, "DROPS_MAX", 3), (queues, "TIDY_MIN", 0), (engine, "RUNS_MAX", 2),
    (deadlines, "DUE_MAX", 2), (stats_commands, "STEP_SCANS", 6),
)  # fmt: skip


class Loop:
    """A server without sockets, and the author of what it is sent."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.driver = Driver(lapses=3, keep_finished_ms=50_000, max_finished=5)
        self.server = server_of(self.driver.pipeline, Tight(1))
        self.server._commit._send = self.send
        self.server._commit.put = self.put  # type: ignore[method-assign]
        self.sent: list[Arrival] = []
        self.seqs = {0: 0}
        self.serve(self.arrival(0, Hello(open_session=True)))
        self.session = live_state(self.driver).requests.last_session
        self.seqs[self.session] = 0

    def put(self, output: Output, *, more: Callable[[], bool]) -> None:
        self.driver.records += output.records
        for reply in output.replies:
            self.send(reply)

    def send(self, reply: ReplyFrame) -> None:
        if self.random.random() < 0.05:  # it could not be sent
            self.server._undelivered += reply.grants

    def serve(self, *batch: Arrival) -> None:
        """Serve messages until the loop would sleep."""
        server, now = self.server, self.driver.now
        server._left = [*batch]
        for _ in range(3_000):
            full = self.random.random() < 0.02
            server._journal = Tight(1 if full else 10_000)
            server._serve(server._left, now)
            while server._feed.loose:
                server._feed.pack()
            if server._patience_ms(now) and server._writable:
                break
        assert not server._left, "it never sleeps"
        self.check()

    def check(self) -> None:
        """No claim is parked for a job that is free, no wait for a job that has ended.

        A reader that has not seen all events is served soon.
        """
        state, waiters = live_state(self.driver), self.driver.engine.context.waiters
        for parked in waiters.parked.values():
            command = parked.command
            if isinstance(command, Claim):
                for slot in state.jobs.slots():
                    assert not self.fits(slot, command), (command, slot.job)
            elif isinstance(command, Wait):
                ended = [slot for slot in state.jobs.get_all(command.job_ids) if slot is not None]
                assert {slot.job.status for slot in ended}.isdisjoint(command.awaited)
            elif self.is_behind(parked.place or (0, 0)):
                assert self.server._patience_ms(self.driver.now) <= SERVE_EVERY_MS

    def is_behind(self, place: Place) -> bool:
        """Return whether there are events that a reader at this place would be shown."""
        return any(
            type(event) not in HIDDEN
            for stretch in live_state(self.driver).feed.after(place)
            for event in stretch.events[stretch.begin : stretch.end]
        )

    def fits(self, slot: Slot, claim: Claim) -> bool:
        job, names, state = slot.job, names_of(claim), live_state(self.driver)
        if claimed_for(job) is not state_of(claim) or slot.lease is not None or job.on_hold:
            return False
        not_before = job.settlement.not_before if claim.settlement and job.settlement else None
        if claim.status is RUNNING:
            not_before = job.not_before
        is_due = not_before is None or not_before <= state.at
        is_named = ALL_QUEUES in names or job.queue in names
        return is_due and is_named and not state.jobs.queues.is_paused(job.queue)

    # --- what happens ---------------------------------------------------------------------------

    def one(self, *choices: T) -> T:
        return self.random.choice(choices)

    def step(self) -> None:
        kind = self.random.random()
        if kind < 0.3:
            span_ms = self.one(1, 20, 200, 1_000, 2_500)
            self.driver.mono_ms += span_ms
            self.driver.wall += timedelta(milliseconds=span_ms)
            if self.random.random() < 0.1:
                self.driver.wall += timedelta(milliseconds=self.one(-70_000, -500, 700, 90_000))
            self.serve()
        elif kind < 0.33:
            self.put(self.driver.pipeline.expel(ADMIN), more=lambda: False)
            self.serve()
        else:
            self.serve(*[self.message() for _ in range(self.one(1, 1, 2, 4))])

    def arrival(self, session: int, *commands: AnyCommand) -> Arrival:
        self.seqs[session] += 1
        seq = self.seqs[session]
        request = Request(1, session, seq, max(0, seq - 40) if session else 0, [*commands])
        peer = PEER if session else self.one(PEER, OTHER)
        self.sent.append(Arrival(peer, [encode_request(request)], ADMIN))
        return self.sent[-1]

    def message(self) -> Arrival:
        kind, session = self.random.random(), self.one(0, 0, self.session)
        if kind < 0.12:
            return self.one(*self.sent[-6:])  # again
        if kind < 0.35:
            return self.arrival(session, self.claim(self.one(500, 30_000, 60_000)))
        if kind < 0.4:
            waiting = Wait(job_ids=[self.one(*IDS)], timeout_ms=self.one(500, 60_000))
            return self.arrival(session, waiting)
        if kind < 0.45:
            return self.arrival(session, Events(wait_ms=self.one(0, 5_000)))
        number = self.one(1, 1, 2, 3, 6, 14)
        return self.arrival(session, *[self.command() for _ in range(number)])

    def command(self) -> AnyCommand:
        slots = [*live_state(self.driver).jobs.slots()]
        made = create(
            job_id=self.one(*IDS), queue=self.one(*NAMES), priority=self.one(0, 0, 1),
            settle=self.one(True, False),
            not_before=self.one(None, self.driver.wall + timedelta(milliseconds=700)),
        )  # fmt: skip
        if not slots:
            return made
        slot, queue = self.one(*slots), self.one(*NAMES)
        job_id = slot.job.job_id
        return self.random.choices(
            [
                made, self.move(slot), self.release(slot), self.settle(slot), Hold(job_id=job_id),
                Resume(job_id=job_id), PauseQueue(queue=queue), ResumeQueue(queue=queue),
                self.claim(0), List(limit=self.one(1, 9)), Count(), Stats(),
                StopWaiting(seqs=[*range(1, 50, self.one(7, 9))]),
            ],
            [12, 22, 10, 12, 5, 8, 3, 6, 5, 3, 3, 2, 2],
        )[0]  # fmt: skip

    def move(self, slot: Slot) -> AnyCommand:
        job, token = slot.job, None if slot.lease is None else slot.lease.token
        if job.status is AWAITING_INPUT:
            return ProvideInput(job_id=job.job_id, input="x", expected_version=job.version)
        target = self.one(*(sorted(LEGAL_TRANSITIONS[job.status]) or [COMPLETED]))
        if job.status is AWAITING_PAYMENT:
            target = RUNNING
        keep = target is AWAITING_INPUT and token is not None and self.one(True, False)
        return move(job.job_id, target, lease=token, keep_lease=keep)

    def release(self, slot: Slot) -> AnyCommand:
        if slot.lease is None:
            return Count(queue=slot.job.queue)
        delay_ms = self.one(None, 0, 500, 3_000) if slot.job.status is RUNNING else None
        hold = self.random.random() < 0.1
        return Release(job_id=slot.job.job_id, lease=slot.lease.token, delay_ms=delay_ms, hold=hold)

    def settle(self, slot: Slot) -> AnyCommand:
        settlement, lease = slot.job.settlement, slot.lease
        if settlement is None:
            return Count(settlement=SettlementState.WANTED)
        to = self.one(None, *sorted(LEGAL_SETTLEMENTS[settlement.state]))
        token, again_ms = None if lease is None else lease.token, self.one(None, 0, 700)
        return Settle(job_id=slot.job.job_id, lease=token, to=to, retry_after_ms=again_ms)

    def claim(self, wait_ms: int) -> Claim:
        names = self.one(None, [ALL_QUEUES], [self.one(*NAMES)], ["b", "a"])
        lease_ms, limit = self.one(200, 1_000, 60_000), self.one(1, 2, 3)
        if self.random.random() < 0.25:
            state = self.one(SettlementState.WANTED, SettlementState.SUBMITTED)
            return Claim(
                settlement=state, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit, queues=names
            )
        status = self.one(RUNNING, RUNNING, AWAITING_PAYMENT, AWAITING_INPUT)
        return Claim(status=status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit, queues=names)


@pytest.mark.parametrize("lot", range(LOTS))
def test_nothing_is_parked_that_could_be_answered(
    lot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, budget in BUDGETS:
        monkeypatch.setattr(module, name, budget)
    for seed in range(lot * SCRIPTS, lot * SCRIPTS + SCRIPTS // LOTS):
        loop = Loop(seed)
        try:
            for _ in range(STEPS):
                loop.step()
            assert replayed_chunks(loop.driver.records) == live_chunks(loop.driver)
        except Exception as fault:
            raise AssertionError(f"seed {seed} after {len(loop.sent)} messages") from fault
        finally:
            loop.server._commit.close()
