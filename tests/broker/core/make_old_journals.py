"""How data/journal-1, data/compacted-1 and data/said.json were made, once.

They are of commit 65f3868, the last one that wrote journal format 1: this file was put into its
tree, and run there as a module with tests/broker/core/data as the argument. They are never made
again, only read. data/format-1 is of an older commit.

So this module speaks TG/1 in frames, and uses only constructors that later trees have too: `said`
asks today's core what that one was asked.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.core import ADMIN, EPOCH, HASH, PEER, job_id, make_engine, pipeline_of
from tollgate.broker.compaction import compact_directory
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.roles import Principal
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Instant
from tollgate.broker.journal.file import FileJournal

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = {"keep_finished_ms": 7_200_000, "lapses": 2, "sessions": 3}
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
ROBOT = Principal("key:robot", ADMIN.roles)  # `ADMIN.role` in that tree
ROBOTS_SESSION = 2
OWN_ID = "aaaaaaaa-0000-4000-8000-000000000001"
HELLO = {"type": "hello", "open_session": True}


class Talk:
    """Frames to a core and back, with clocks that move when told to."""

    def __init__(self, state: State | None = None, wall: datetime = EPOCH) -> None:
        self.wall, self.mono_ms, self.seq = wall, 0, 0
        self.records: list[Record] = []
        self.frames: list[bytes] = []
        """The frames of the requests under a session."""
        self._pipeline = pipeline_of(make_engine(state, **LIMITS))
        # It advances by hours at once, and no clock was set: finished jobs are as old as they look.
        self._pipeline.deadlines.start(self._now, clocks_agree=False)

    @property
    def _now(self) -> Instant:
        return Instant(self.wall, self.mono_ms)

    def pass_ms(self, span_ms: int) -> None:
        """Advance both clocks, and have due items decided."""
        self.mono_ms += span_ms
        self.wall += timedelta(milliseconds=span_ms)
        self._run([])

    def ask(self, *commands: dict[str, Any], by: Principal = ADMIN) -> list[Any]:
        """Send commands without a session, and return their results, or the refusal."""
        self.seq += 1
        return self.send(_frame(0, self.seq, 0, commands), by)

    def ask_in(
        self, session: int, seq: int, *commands: dict[str, Any], acked: int = 0
    ) -> list[Any]:
        """Send commands in a session, and keep the frame."""
        frame = _frame(session, seq, acked, commands)
        if frame not in self.frames:
            self.frames.append(frame)
        return self.send(frame, owner_of(frame))

    def send(self, frame: bytes, by: Principal) -> list[Any]:
        """Return the results of the first answer, [] if there is none yet."""
        answers = self._run([Arrival(PEER, [frame], by)])
        if not answers:
            return []
        answer = msgspec.msgpack.decode(answers[0])
        return [_plain(result) for result in answer.get("results", [answer.get("error")])]

    def withdraw(self, *grants: tuple[str, int]) -> None:
        """Tell that these grants could not be delivered."""
        self._run([], grants)

    def _run(self, arrivals: list[Arrival], undelivered: Any = ()) -> list[bytes]:
        output = self._pipeline.run(arrivals, self._now, undelivered)
        self.records += output.records
        return [reply.frame for reply in output.replies]


def owner_of(frame: bytes) -> Principal:
    """Return who sends this request of a session: session 2 is the robot's."""
    return ROBOT if msgspec.msgpack.decode(frame)["session"] == ROBOTS_SESSION else ADMIN


def _frame(session: int, seq: int, acked: int, commands: Sequence[dict[str, Any]]) -> bytes:
    return msgspec.msgpack.encode(
        {"v": 1, "session": session, "seq": seq, "acked": acked, "commands": commands}
    )


def _plain(result: Any) -> Any:
    """Return a result without its message, which is for people, and with times as text."""
    if isinstance(result, dict):
        return {key: _plain(value) for key, value in result.items() if key != "message"}
    if isinstance(result, list):
        return [_plain(each) for each in result]
    return result.isoformat() if isinstance(result, datetime) else result


# --- what happened --------------------------------------------------------------------------------


FORMAT_1_FRAME: Final = _frame(1, 20, 0, [
    {"type": "create", "input_hash": HASH},
    {"type": "transition", "job_id": job_id(4), "target": "awaiting_payment"},
])  # fmt: skip
"""The only request under a session in data/format-1."""


def create(**fields: Any) -> dict[str, Any]:
    return {"type": "create", "input_hash": HASH, **fields}


def move(number: int, target: str, **fields: Any) -> dict[str, Any]:
    return {"type": "transition", "job_id": job_id(number), "target": target, **fields}


def claim(status: str = "running", *, lease_ms: int = 1_000, limit: int = 1) -> dict[str, Any]:
    return {
        "type": "claim", "status": status, "lease_ms": lease_ms, "wait_ms": 0, "limit": limit,
    }  # fmt: skip


def answer(number: int, text: str, version: int) -> dict[str, Any]:
    return {
        "type": "provide_input", "job_id": job_id(number), "input": text,
        "expected_version": version,
    }  # fmt: skip


def touch(number: int, lease: int, lease_ms: int = 1_000) -> dict[str, Any]:
    return {"type": "touch", "job_id": job_id(number), "lease": lease, "lease_ms": lease_ms}


def release(number: int, lease: int) -> dict[str, Any]:
    return {"type": "release", "job_id": job_id(number), "lease": lease}


def cancel(number: int) -> dict[str, Any]:
    return {"type": "cancel", "job_id": job_id(number)}


def live() -> tuple[Talk, int]:
    """Let something of every kind happen to a core; return also where to cut the journal."""
    talk = Talk()
    talk.ask(HELLO)
    talk.ask(HELLO, by=ROBOT)
    _create_and_move(talk)
    _ask_for_input(talk)
    _hold_leases(talk)
    _finish_and_forget(talk)
    _be_refused(talk)
    _leave_leases(talk)
    cut = len(talk.records)
    _go_on(talk)
    return talk, cut


def _create_and_move(talk: Talk) -> None:
    first = [
        create(input="eins ä \N{SNOWMAN}", identifier_from_purchaser="aa11"),
        create(input='{"zwei": 2}'),
        *[create() for _ in range(6)],
    ]
    talk.ask_in(1, 1, *first)  # jobs 1 to 8
    talk.ask_in(1, 1, *first)  # a retry
    talk.pass_ms(10)
    soon, later = EPOCH + timedelta(hours=1), EPOCH + timedelta(hours=30)
    talk.ask_in(
        2, 1,
        create(job_id=OWN_ID, blockchain_identifier="payment 9", submit_result_time=later),
        create(pay_by_time=soon, input="never paid"),  # job 9
        create(submit_result_time=soon, input="too late"),  # job 10
    )  # fmt: skip
    talk.pass_ms(10)
    talk.ask_in(1, 2, *[move(number, "running") for number in (1, 2, 3, 4, 5, 6, 10)])
    talk.ask_in(2, 2, {"type": "transition", "job_id": OWN_ID, "target": "running"}, acked=1)


def _ask_for_input(talk: Talk) -> None:
    """Job 1 is asked twice and answers twice, job 2 has the second question open, job 3 one."""
    for seq, number in enumerate((1, 2, 3), 3):
        talk.pass_ms(7)
        asked = move(number, "awaiting_input", input_schema=f"schema {number}", expected_version=2)
        talk.ask_in(1, seq, asked)
    talk.ask_in(2, 3, answer(1, "first answer", 3), answer(2, "answer of two", 3))
    talk.pass_ms(7)
    talk.ask_in(1, 6, *[move(n, "awaiting_input", input_schema=f"second {n}") for n in (1, 2)])
    talk.ask_in(2, 4, answer(1, "second answer", 5))


def _hold_leases(talk: Talk) -> None:
    """Leases that lapse, are released, cannot be delivered, are touched, and end with a move."""
    talk.ask_in(1, 7, claim(limit=2, lease_ms=100))  # jobs 4 and 5
    talk.pass_ms(100)
    talk.ask_in(1, 8, claim(lease_ms=MINUTE_MS))
    talk.ask_in(2, 5, release(4, 3))
    (granted,) = talk.ask(claim())
    talk.withdraw(*[(each["job"]["job_id"], each["lease"]) for each in granted["leases"]])
    talk.ask_in(1, 9, claim(limit=3, lease_ms=100))  # jobs 4 to 6, tokens 5 to 7
    talk.ask_in(1, 10, move(5, "completed", lease=6, result="done \N{SNOWMAN}"), touch(6, 7, 300))
    talk.pass_ms(150)  # job 4 fails: its lease lapsed twice
    talk.ask(claim("awaiting_payment", lease_ms=HOUR_MS * 4))  # job 7, token 8
    talk.ask(claim("awaiting_input", lease_ms=200))  # job 3, token 9


def _finish_and_forget(talk: Talk) -> None:
    """Job 6 lapses once; jobs 9 and 10 fail by their deadlines; jobs 4 and 5 are pruned."""
    talk.pass_ms(500)
    talk.ask_in(1, 11, *[create(input=f"later {number}") for number in range(4)])  # 11 to 14
    talk.pass_ms(HOUR_MS + 6 * MINUTE_MS)
    talk.ask_in(2, 6, cancel(8), move(11, "failed", error="no such thing"))
    talk.pass_ms(HOUR_MS - MINUTE_MS)
    talk.ask_in(1, 12, move(12, "running"), move(13, "running"), acked=4)
    talk.ask_in(1, 13, move(13, "completed", result="r" * 300))


def _be_refused(talk: Talk) -> None:
    """Refusals that are remembered with the request, beside commands that are carried out."""
    talk.ask_in(
        1, 14,
        move(4, "running"),  # pruned
        move(1, "completed", expected_version=2),
        move(13, "running"),
        move(7, "running", lease=3),
        cancel(7),
        create(input="carried out"),  # job 15
        create(job_id=OWN_ID, input="other"),
        release(6, 7),
    )  # fmt: skip
    talk.ask_in(1, 15, answer(3, "too early", 2))
    talk.ask_in(1, 14, move(1, "completed"))  # another request under a number that was given
    talk.ask_in(1, 16, claim("awaiting_input", limit=9))
    talk.pass_ms(1_000)


def _leave_leases(talk: Talk) -> None:
    """Leases that stand at the end, and five jobs to claim in another order than their ids'."""
    talk.ask(HELLO)  # session 3
    talk.ask_in(3, 1, create(input="by the evicted session"))  # job 16
    talk.ask_in(1, 17, claim(limit=2, lease_ms=5_000))  # job 6, and the one of its own id
    talk.pass_ms(1)
    talk.ask_in(2, 7, claim("awaiting_payment", limit=2, lease_ms=3_000), acked=5)
    talk.ask_in(1, 18, *[create(input=f"in line {number}") for number in range(5)])  # 17 to 21
    talk.ask_in(1, 19, *[move(number, "running") for number in (19, 17, 21, 18, 20)])
    talk.ask(claim("awaiting_input", lease_ms=HOUR_MS, limit=2))  # jobs 2 and 3


def _go_on(talk: Talk) -> None:
    """More claims, a release, an answer, and an evicted session."""
    claimed = talk.ask_in(1, 20, claim(limit=3, lease_ms=2_000))[0]["leases"]  # jobs 12, 17, 18
    talk.ask_in(1, 21, release(12, claimed[0]["lease"]))
    talk.ask_in(1, 22, move(17, "completed", lease=claimed[1]["lease"], result="17"))
    talk.ask_in(2, 8, answer(2, "at last", 5))
    talk.ask(HELLO)  # session 4: the admin has the most, and session 3 was used before session 1
    talk.pass_ms(3)


# --- what a broker says ---------------------------------------------------------------------------


def started(directory: Path, wall: datetime) -> Talk:
    """Start a core on a copy of the journal at the time `wall`."""
    state = State()
    journal = FileJournal(directory)
    try:
        replay(journal.replay(), state)
    finally:
        journal.close()
    state.leases.restart(0)
    return Talk(state, wall)


def said(directory: Path, wall: datetime, frames: Sequence[bytes]) -> dict[str, Any]:
    """Return what a core says that is started on a copy of the journal at the time `wall`."""
    talk = started(directory, wall)
    listed = {"type": "list", "limit": 1_000}
    facts = {
        "jobs": talk.ask(listed)[0]["jobs"],
        "counts": talk.ask({"type": "count"}),
        "payment": talk.ask({"type": "get", "blockchain_identifier": "payment 9"}),
        "repeats": [[frame.hex(), talk.send(frame, owner_of(frame))] for frame in frames],
    }
    facts["standing"] = [
        [number, token]
        for number, token in product(range(1, 22), range(1, 25))
        if talk.ask(touch(number, token, 10_000))[0]["type"] != "error"
    ]
    facts["claims"] = {
        status: [
            [each["job"]["job_id"], each["lease"]]
            for each in talk.ask(claim(status, limit=100))[0]["leases"]
        ]
        for status in ("awaiting_payment", "running", "awaiting_input")
    }
    facts["session"] = talk.ask(HELLO)[0]["session"]
    talk.ask(create(job_id=OWN_ID[:-1] + "2"))
    facts["last"] = talk.ask(listed)[0]["jobs"][-1]["job_id"]
    facts["later"] = []
    for span_ms in (1_000, 9_000, HOUR_MS, 25 * HOUR_MS, 25 * HOUR_MS):
        talk.pass_ms(span_ms)
        jobs = talk.ask(listed)[0]["jobs"]
        facts["later"].append({job["job_id"]: job["status"] for job in jobs})
    return facts


# --- files ----------------------------------------------------------------------------------------


def write(directory: Path, records: Sequence[Record], cut: int = 0) -> None:
    """Write the records, the first `cut` as a snapshot."""
    journal = FileJournal(directory, segment_bytes=4_096)
    replay(journal.replay(), State())
    for place, record in enumerate(records):
        if place == cut > 0:
            journal.close_segment()
            journal.append(encode_records([record]))
            for name in compact_directory(directory):
                (directory / name).unlink()
        else:
            journal.append(encode_records([record]))
    journal.sync()
    journal.close()
    (directory / "lock").unlink()


def main(data: Path) -> None:
    """Write both journals, and what this tree says about them (the same) and about format-1."""
    talk, cut = live()
    write(data / "journal-1", talk.records)
    write(data / "compacted-1", talk.records, cut)
    facts = {}
    for name, wall, frames in (
        ("format-1", EPOCH + timedelta(milliseconds=HOUR_MS + 100), [FORMAT_1_FRAME]),
        ("journal-1", talk.wall, talk.frames),
        ("compacted-1", talk.wall, talk.frames),
    ):
        copy = data / "copy"
        shutil.copytree(data / name, copy)
        facts[name] = {"wall": wall.isoformat(), **said(copy, wall, frames)}
        shutil.rmtree(copy)
    assert facts["journal-1"] == facts.pop("compacted-1")
    text = json.dumps(facts, ensure_ascii=False, indent=1, sort_keys=True)
    (data / "said.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
