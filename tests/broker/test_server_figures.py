"""What the server knows: its loop, the files of the journal, its connections, earlier starts."""

from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tollgate.broker import figures
from tollgate.broker.clock import STEP_MS_MAX, LoopClock
from tollgate.broker.figures import SESSIONS_PER_MS, STARTS_MAX, ServerFigures, starts_of
from tollgate.broker.journal.format import segment_name, snapshot_name

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Synced:
    def __init__(self) -> None:
        self.sync_times_s: deque[float] = deque()


class Socket(NamedTuple):
    connections: int
    unread_bytes: int


class Ticking(LoopClock):
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 5_000
        super().__init__(lambda: self.now_ms * 1_000_000, lambda: START)

    def step(self, span_ms: int) -> None:
        self.now_ms += span_ms
        self.read()


def test_steps_of_the_loop_are_counted_by_their_length() -> None:
    clock = Ticking()
    known = ServerFigures(clock)
    for span_ms in (0, 1, 3, 3, 40, STEP_MS_MAX * 3):
        clock.step(span_ms)
    known.batches = {1: 5, 40: 5}
    loop = known()["loop"]
    assert loop.step_s.counts == [6, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert loop.step_s.total == 0.047 + STEP_MS_MAX / 1_000
    assert loop.batch_messages.counts == [5, 0, 0, 0, 0, 0, 5, 0, 0, 0]
    assert loop.batch_messages.total == 205
    assert len(clock.long_steps) <= STEP_MS_MAX


def test_a_sleep_is_no_step() -> None:
    clock = Ticking()
    clock.now_ms += 900
    clock.read(1_000)
    assert clock.long_steps == {}
    clock.now_ms += 1_400
    clock.read(1_000)  # it slept 400 ms too long, which is not yet a pause
    assert (clock.long_steps, clock.pauses) == ({}, 0)


def test_times_of_syncs_are_added_up() -> None:
    journal = Synced()
    known = ServerFigures(LoopClock(), journal=journal)
    for _ in range(2):
        journal.sync_times_s += [0.0003, 0.3]
        known.fold()
        assert not journal.sync_times_s
    journal.sync_times_s.append(9.0)
    sync_s = known()["loop"].sync_s
    assert (sync_s.count, sync_s.counts[-1], sync_s.counts[2]) == (5, 1, 2)


def test_files_of_the_journal_are_measured(tmp_path: Path) -> None:
    known = ServerFigures(LoopClock(), journal=Synced(), directory=tmp_path, fsync="interval:9")
    for name, size in ((segment_name(1), 10), (segment_name(2), 5), (snapshot_name(7), 3)):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "lock").write_bytes(b"1")
    journal = known()["journal"]
    assert (journal.bytes, journal.segments, journal.snapshots) == (18, 2, 1)
    assert datetime.now(UTC) - journal.snapshot_at < timedelta(hours=1)
    assert (journal.free_bytes > 0, journal.fsync) == (True, "interval:9")


def test_a_directory_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    known = ServerFigures(LoopClock(), journal=Synced(), directory=tmp_path / "gone")
    assert known()["journal"] is None
    assert ServerFigures(LoopClock())()["journal"] is None


def test_connections_of_all_sockets_are_added() -> None:
    known = ServerFigures(LoopClock())
    known.serve([Socket(2, 10), Socket(3, 5)], {"reply_not_read": 4})
    told = known()
    assert (told["connections"], told["unread_bytes"]) == (5, 15)
    assert told["dropped"] == {"reply_not_read": 4}


def first_session(start: datetime) -> int:
    return int(start.timestamp() * 1_000) * SESSIONS_PER_MS + 1


def test_sessions_tell_when_the_broker_started() -> None:
    starts = [START, START + timedelta(seconds=7), START + timedelta(days=9)]
    sessions = [first_session(start) + more for start in starts for more in (0, 1, 60_000)]
    assert starts_of(reversed(sessions)) == starts
    assert starts_of([1, 2, 3]) == []  # of a journal that is older than that
    many = [first_session(START + timedelta(seconds=number)) for number in range(99)]
    assert len(starts_of(many)) == STARTS_MAX


def test_two_starts_at_once_are_taken_for_one() -> None:
    apart_ms = figures.START_APART // SESSIONS_PER_MS
    close = [START, START + timedelta(milliseconds=apart_ms)]
    assert starts_of(map(first_session, close)) == [START]
