"""No reply leaves before what it tells of is safe, though a sync goes on beside the next batch."""

import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tollgate.broker import commit as module
from tollgate.broker.commit import Outbox
from tollgate.broker.core.events import SessionEvicted
from tollgate.broker.core.pipeline import Outcome, Reply
from tollgate.broker.core.records import Record
from tollgate.broker.journal import JournalFailedError
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files

PATIENCE_S = 10.0


class Gate(Files):
    """Files whose syncs wait to be let through, and fail if they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = threading.Semaphore(0)
        self.is_open = True
        self.fails = False
        self.once = False
        """Whether a sync after one that has failed succeeds, as the kernel has it."""
        self.tries = 0

    def sync_data(self, descriptor: int) -> None:
        if not self.is_open:
            assert self.open_gate.acquire(timeout=PATIENCE_S)
        self.tries += 1
        if self.fails:
            self.fails = not self.once
            raise OSError(5, "no such luck")
        super().sync_data(descriptor)


class Office:
    """An outbox over a real journal."""

    def __init__(self, directory: Path) -> None:
        self.files = Gate()
        self.journal = FileJournal(directory, files=self.files)
        list(self.journal.replay())
        self.journal.room(1_000_000, 1_000)
        self.sent: list[bytes] = []
        self.safe_when_sent: list[int] = []
        self.outbox = Outbox(self.journal, self._send, beside=True)

    def _send(self, reply: Reply) -> None:
        self.sent.append(reply.frame)
        self.safe_when_sent.append(self.journal.durable)

    def put(self, name: bytes, records: int = 1, *, more: bool = True) -> None:
        written = [Record([SessionEvicted(1)]) for _ in range(records)]
        self.outbox.put(Outcome(written, [Reply(b"p", name)]), more=lambda: more)

    def has_ended(self, timeout_s: float = PATIENCE_S) -> bool:
        return bool(select.select([self.outbox.fd], [], [], timeout_s)[0])


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path / "data")
    office.put(b"first", more=False)  # it begins the first segment
    office.sent.clear()
    office.safe_when_sent.clear()
    office.files.is_open = False
    yield office
    office.files.is_open, office.files.fails = True, False
    office.files.open_gate.release(100)
    office.outbox.close()
    if office.journal._failure is None:
        office.journal.close()


def test_a_batch_is_sent_when_its_sync_has_ended_and_not_before(office: Office) -> None:
    office.put(b"a")
    assert not office.has_ended(0.05)
    assert office.sent == []
    office.files.open_gate.release()
    assert office.has_ended()
    assert office.sent == []  # that is for the loop to do
    office.outbox.finish()
    assert office.sent == [b"a"]
    assert office.safe_when_sent == [office.journal.sequence]


def test_what_comes_while_a_sync_goes_on_waits_for_the_next_one(office: Office) -> None:
    office.put(b"a")
    office.put(b"b")
    office.put(b"a read, of what b has made", records=0)
    office.files.open_gate.release()
    assert office.has_ended()
    office.outbox.finish()
    assert office.sent == [b"a"]
    office.files.open_gate.release()
    assert office.has_ended()
    office.outbox.finish()
    assert office.sent == [b"a", b"b", b"a read, of what b has made"]
    assert office.safe_when_sent[1:] == [office.journal.sequence] * 2


def test_who_waits_for_nobody_is_answered_at_once(office: Office) -> None:
    office.files.open_gate.release()
    office.put(b"a", more=False)
    assert office.sent == [b"a"]
    assert office.safe_when_sent == [office.journal.sequence]


def test_flushing_waits_for_all(office: Office) -> None:
    office.put(b"a")
    office.put(b"b")
    office.files.open_gate.release(3)
    office.outbox.flush()
    assert office.sent == [b"a", b"b"]
    assert office.safe_when_sent[-1] == office.journal.sequence


@pytest.mark.parametrize("bound", ["HELD_MAX", "HELD_BYTES_MAX"])
def test_no_more_is_held_than_there_is_room_for(
    office: Office, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(module, bound, 1)
    office.put(b"aa")
    office.files.open_gate.release(2)
    office.put(b"bb")
    office.put(b"cc")
    assert office.sent[:1] == [b"aa"]  # it was waited for


def test_after_a_sync_that_failed_nothing_is_sent_or_written(office: Office) -> None:
    office.put(b"a")
    office.put(b"b")
    office.files.fails = True
    office.files.open_gate.release()
    assert office.has_ended()
    with pytest.raises(JournalFailedError):
        office.outbox.finish()
    with pytest.raises(JournalFailedError):
        office.put(b"c")
    assert office.sent == []


def test_a_failure_is_noticed_by_whoever_writes_next(office: Office) -> None:
    office.put(b"a")
    office.files.fails = True
    office.files.open_gate.release()
    assert office.has_ended()
    with pytest.raises(JournalFailedError):
        office.put(b"b")
    assert office.sent == []


def test_a_sync_that_failed_is_not_tried_again_by_who_waited_for_it(office: Office) -> None:
    """A new segment waits for the sync of the one before, and must not try it again."""
    office.put(b"a")
    waiting = threading.Thread(target=lambda: raised.append(catch(office.journal.close_segment)))
    raised: list[BaseException | None] = []
    waiting.start()
    office.files.fails = True
    office.files.once = True
    office.files.open_gate.release(2)
    waiting.join(PATIENCE_S)
    assert isinstance(raised[0], JournalFailedError)
    assert office.journal.durable == 1
    assert office.files.tries == 2  # the first batch, and this


def catch(call: Callable[[], None]) -> BaseException | None:
    try:
        call()
    except JournalFailedError as fault:
        return fault
    return None


def test_the_thread_ends_when_it_is_let_go(office: Office) -> None:
    office.outbox.close()
    office.outbox.thread.join(PATIENCE_S)
    assert not office.outbox.thread.is_alive()
    os.fstat(office.outbox.fd)  # the descriptors stay for who polls them
