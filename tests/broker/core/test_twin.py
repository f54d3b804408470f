"""The pipeline against its naive twin: both answer each sequence of messages alike."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.broker.core.twin import Twin, Wire
from tests.core import ADMIN, EPOCH, HASH, OTHER, PEER, Driver, job_id
from tests.sizes import sample
from tollgate.broker.core.batch import Arrival, Output

STATUSES = ("awaiting_payment", "awaiting_input", "running", "completed", "failed")
PEERS = (PEER, OTHER, b"\x00third")
TEXTS = ("", "x", "ten bytes!", "eleven byte", "éééééé")
BOUNDS = {"jobs": 8, "parked": 4, "watched": 7}
FAR_MS = 10**12

# Numbers that become ids, tokens and versions when it is known what there is.
numbers = st.integers(0, 99)
moments = st.sampled_from([-1_000, 0, 500, 1_500, 3_000, 60_000])
spans = st.sampled_from([1, 200, 1_000, 5_000])
texts = st.sampled_from(TEXTS)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Wire]:
    return st.fixed_dictionaries({}, optional=fields)


def command(kind: str, **fields: Any) -> st.SearchStrategy[Wire]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


def joined(a: st.SearchStrategy[Wire], b: st.SearchStrategy[Wire]) -> st.SearchStrategy[Wire]:
    return st.tuples(a, b).map(lambda pair: {**pair[0], **pair[1]})


creates = joined(
    command("create", input_hash=st.just(HASH)),
    optional(
        input=texts,
        job_id=st.sampled_from([job_id(900), job_id(901), job_id(902)]),
        blockchain_identifier=st.sampled_from(["p", "q"]),
        identifier_from_purchaser=st.just("aa"),
        pay_by_time=moments,
        submit_result_time=moments,
    ),
)
transitions = joined(
    st.one_of(
        joined(command("transition", job_id=numbers, target=st.just("running")), st.just({})),
        joined(
            command("transition", job_id=numbers, target=st.just("awaiting_input")),
            optional(input_schema=texts),
        ),
        joined(
            command("transition", job_id=numbers, target=st.just("completed")),
            optional(result=texts),
        ),
        joined(
            command("transition", job_id=numbers, target=st.just("failed")), optional(error=texts)
        ),
        command("transition", job_id=numbers, target=st.just("awaiting_payment")),
    ),
    optional(expected_version=numbers, lease=numbers),
)
claims = command(
    "claim",
    status=st.sampled_from(STATUSES[:3]),
    lease_ms=spans,
    limit=st.integers(1, 4),
    wait_ms=st.just(0),
)
simple = st.one_of(
    creates,
    transitions,
    transitions,
    claims,
    command("get", job_id=numbers),
    command("get", blockchain_identifier=st.sampled_from(["p", "q"])),
    joined(
        command("provide_input", job_id=numbers, input=texts, expected_version=numbers),
        st.just({}),
    ),
    joined(command("cancel", job_id=numbers), optional(expected_version=numbers)),
    joined(command("count"), optional(status=st.sampled_from(STATUSES))),
    command("touch", job_id=numbers, lease=numbers, lease_ms=spans),
    command("release", job_id=numbers, lease=numbers),
)
waits = joined(
    command(
        "wait", job_ids=st.lists(numbers, min_size=1, max_size=3), timeout_ms=spans | st.just(0)
    ),
    optional(statuses=st.lists(st.sampled_from(STATUSES), max_size=2)),
)


class PipelineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(
            **BOUNDS,
            text_bytes=10,
            lapses=2,
            payment_grace_ms=1_000,
            pay_within_ms=10_000,
            keep_finished_ms=FAR_MS,
        )
        self.twin = Twin(EPOCH, **BOUNDS, text=10, lapses=2, grace_ms=1_000, pay_within_ms=10_000)
        self.wall: datetime = EPOCH
        self.seq = 0
        self.session_seqs = [0, 0, 0]  # a session takes 64 requests without an acknowledgement
        self.ids: list[str] = []
        self.tokens: list[int] = [1]
        self.grants: list[tuple[str, int]] = []
        self.last: tuple[int, int, Wire] | None = None
        self.sessions = [0]

    @initialize()
    def open_sessions(self) -> None:
        for _ in range(2):
            (answer,) = self.send(PEER, 0, [{"type": "hello", "open_session": True}])
            self.sessions.append(answer[2]["results"][0]["session"])

    # --- both, side by side -------------------------------------------------------------------

    def send(self, peer: bytes, session: int, commands: list[Wire]) -> list[Any]:
        self.seq += 1
        return self.send_as(self.seq, peer, session, commands)

    def send_as(self, seq: int, peer: bytes, session: int, commands: list[Wire]) -> list[Any]:
        frame = msgspec.msgpack.encode(
            {"v": 1, "session": session, "seq": seq, "acked": 0, "commands": commands}
        )
        return self.take(self.driver.pipeline.run([Arrival(peer, [frame], ADMIN)], self.driver.now))

    def take(self, outcome: Output) -> list[tuple[bytes, int, Wire]]:
        answers = []
        for reply in outcome.replies:
            wire = msgspec.msgpack.decode(reply.frame)
            answers.append((reply.peer, wire["seq"], wire))
            self.grants += reply.grants
            for result in wire.get("results", ()):
                self.learn(result)
        return answers

    def learn(self, result: Wire) -> None:
        for job in [result.get("job"), *(grant["job"] for grant in result.get("leases", ()))]:
            if isinstance(job, dict) and job["job_id"] not in self.ids:
                self.ids.append(job["job_id"])
        self.tokens += [grant["lease"] for grant in result.get("leases", ())]

    def compare(self, real: list[Any]) -> None:
        twin, self.twin.out = self.twin.out, []
        expected = sorted(twin, key=lambda answer: answer[:2])
        got = sorted(real, key=lambda answer: answer[:2])
        assert [answer[:2] for answer in got] == [answer[:2] for answer in expected]
        for (_, _, shown), (_, _, wanted) in zip(got, expected, strict=True):
            assert shown["type"] == wanted["type"]
            if shown["type"] == "refused":
                same(shown["error"], wanted["error"])
                continue
            assert len(shown["results"]) == len(wanted["results"])
            for result, wish in zip(shown["results"], wanted["results"], strict=True):
                same(result, wish)

    def exchange(self, peer: bytes, session: int, commands: list[Wire], seq: int = 0) -> None:
        if not seq:
            self.seq += 1
        real = self.send_as(seq or self.seq, peer, session, commands)
        self.twin.message(
            peer, session, seq or self.seq, commands, made_by(real, seq or self.seq, commands)
        )
        self.compare(real)

    def filled(self, command: Wire) -> Wire:
        """Return the command with ids, tokens, versions and times in place of its numbers."""
        command = dict(command)
        pool = [*self.ids, "nobody"]
        if isinstance(command.get("job_id"), int):
            command["job_id"] = pool[command["job_id"] % len(pool)]
        if "job_ids" in command:
            command["job_ids"] = [pool[number % len(pool)] for number in command["job_ids"]]
        if "lease" in command:
            recent = self.tokens[-4:]
            command["lease"] = recent[command["lease"] % len(recent)]
        if "expected_version" in command:
            versions = [job["version"] for job in self.twin.jobs] or [1]
            known = [j["version"] for j in self.twin.jobs if j["job_id"] == command.get("job_id")]
            pick = command["expected_version"]
            command["expected_version"] = (known or versions)[0] if pick % 3 else 1 + pick % 5
        for name in ("pay_by_time", "submit_result_time"):
            if name in command:
                command[name] = self.wall + timedelta(milliseconds=command[name])
        return command

    # --- what may happen ----------------------------------------------------------------------

    @rule(peer=st.sampled_from(PEERS), commands=st.lists(simple, min_size=1, max_size=4))
    def message(self, peer: bytes, commands: list[Wire]) -> None:
        self.exchange(peer, 0, [self.filled(command) for command in commands])

    @rule(command=creates)
    def create(self, command: Wire) -> None:
        self.exchange(PEER, 0, [self.filled(command)])

    @precondition(lambda self: self.twin.jobs)
    @rule(number=numbers, step=numbers)
    def go_on(self, number: int, step: int) -> None:
        """Make a legal move, so that jobs reach every status."""
        job = self.twin.jobs[number % len(self.twin.jobs)]
        lease = self.twin.lease_on(job["job_id"])
        targets = {
            "awaiting_payment": ["running"],
            "running": ["awaiting_input", "running", "completed"],
            "awaiting_input": ["running", "failed"],
        }.get(job["status"], ["running"])
        command = {
            "type": "transition", "job_id": job["job_id"], "target": targets[step % len(targets)],
        }  # fmt: skip
        if lease is not None:
            command["lease"] = lease["token"]
        self.exchange(PEER, 0, [command])

    @rule(peer=st.sampled_from(PEERS), session=st.integers(0, 2), command=waits)
    def wait(self, peer: bytes, session: int, command: Wire) -> None:
        command = self.filled(command)
        seq = 0
        if session:
            seq = self.session_seqs[session] = self.session_seqs[session] + 1
        self.exchange(peer, self.sessions[session], [command], seq)
        self.last = (self.sessions[session], seq or self.seq, command)

    @rule(
        peer=st.sampled_from(PEERS),
        status=st.sampled_from(STATUSES[:3]),
        lease_ms=spans,
        wait_ms=spans,
        limit=st.integers(1, 3),
    )
    def claim(self, peer: bytes, status: str, lease_ms: int, wait_ms: int, limit: int) -> None:
        command = {
            "type": "claim", "status": status, "lease_ms": lease_ms, "wait_ms": wait_ms,
            "limit": limit,
        }  # fmt: skip
        self.exchange(peer, 0, [command])

    @precondition(lambda self: self.last is not None)
    @rule(peer=st.sampled_from(PEERS))
    def repeat_a_wait(self, peer: bytes) -> None:
        assert self.last is not None
        session, seq, command = self.last
        self.exchange(peer, session, [command], seq)

    @rule(span_ms=st.sampled_from([0, 1, 199, 200, 999, 1_000, 2_500, 11_000]))
    def time_passes(self, span_ms: int) -> None:
        self.move_clocks(timedelta(milliseconds=span_ms), span_ms)

    @rule(seconds=st.sampled_from([-100, -1, 1, 100]))
    def clock_is_set(self, seconds: int) -> None:
        self.move_clocks(timedelta(seconds=seconds), 0)

    def move_clocks(self, wall: timedelta, mono_ms: int) -> None:
        self.wall += wall
        self.driver.wall = self.wall
        self.driver.mono_ms += mono_ms
        real = self.take(self.driver.pipeline.run([], self.driver.now))
        self.twin.clock(self.wall, self.driver.mono_ms)
        self.compare(real)
        assert self.driver.pipeline.deadlines.due_in_ms(self.driver.now) > 0

    @precondition(lambda self: self.grants)
    @rule(count=st.integers(1, 3))
    def grants_cannot_be_sent(self, count: int) -> None:
        lost, self.grants = self.grants[-count:], self.grants[:-count]
        real = self.take(self.driver.pipeline.run([], self.driver.now, lost))
        self.twin.undelivered(lost)
        self.twin.clock(self.wall, self.driver.mono_ms)
        self.compare(real)

    @rule(limit=st.integers(1, 4), status=st.none() | st.sampled_from(STATUSES))
    def list_all(self, limit: int, status: str | None) -> None:
        self.move_clocks(timedelta(0), 0)
        ask: Wire = {"type": "list", "limit": limit}
        if status is not None:
            ask["status"] = status
        shown: list[Wire] = []
        after = None
        for _ in range(BOUNDS["jobs"] + 1):
            (answer,) = self.send(PEER, 0, [{**ask, **({"after": after} if after else {})}])
            page = answer[2]["results"][0]
            assert len(page["jobs"]) <= limit
            shown += page["jobs"]
            after = page["next"]
            if after is None:
                break
        assert after is None
        same({"type": "jobs", "jobs": shown}, self.twin.do_list(ask))

    def teardown(self) -> None:
        self.exchange(PEER, 0, [{"type": "count"}])
        real = self.take(self.driver.pipeline.drain())
        self.twin.drain()
        self.compare(real)


def made_by(answers: list[Any], seq: int, commands: list[Wire]) -> list[str]:
    """Return the ids of jobs that the broker was free to choose."""
    made = []
    for _, _, wire in [answer for answer in answers if answer[1] == seq]:
        for command, result in zip(commands, wire.get("results", ()), strict=False):
            if command["type"] == "create" and "job_id" not in command and "job" in result:
                made.append(result["job"]["job_id"])
    return made


def same(shown: Wire, wanted: Wire) -> None:
    """Compare two results, but not the wording of messages."""
    assert shown["type"] == wanted["type"], (shown, wanted)
    if shown["type"] == "error":
        assert {name: shown.get(name) for name in wanted} == wanted
        return
    assert plain(shown) == plain(wanted), (plain(shown), plain(wanted))


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: plain(item) for name, item in value.items()}
    error = value.get("error")
    if isinstance(error, str):
        for reason in ("lapsed", "pay_by_time", "submit_result_time"):
            if reason in error:
                value["error"] = "~" + reason
    return value


TestPipeline = PipelineMachine.TestCase
TestPipeline.settings = settings(
    max_examples=sample(40, 150), stateful_step_count=40, deadline=None
)
