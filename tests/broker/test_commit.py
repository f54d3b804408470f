"""No reply is sent before its records are durable, also while a sync runs beside the next batch."""

import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tollgate.broker import commit as module
from tollgate.broker.commit import GroupCommit
from tollgate.broker.core.batch import Output, ReplyFrame
from tollgate.broker.core.events import SessionEvicted
from tollgate.broker.core.records import Record
from tollgate.broker.journal import JournalFailedError
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files

PATIENCE_S = 10.0


class Gate(Files):
    """Files whose syncs wait until they are released, and fail if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = threading.Semaphore(0)
        self.is_open = True
        self.fails = False
        self.once = False
        """Whether a sync after a failed one succeeds, as the kernel does it."""
        self.tries = 0

    def sync_data(self, descriptor: int) -> None:
        if not self.is_open:
            assert self.open_gate.acquire(timeout=PATIENCE_S)
        self.tries += 1
        if self.fails:
            self.fails = not self.once
            raise OSError(5, "no such luck")
        super().sync_data(descriptor)


class Committer:
    """A group commit over a real journal."""

    def __init__(self, directory: Path, *, beside: bool = True) -> None:
        self.files = Gate()
        self.journal = FileJournal(directory, files=self.files)
        list(self.journal.replay())
        self.journal.room(1_000_000, 1_000)
        self.sent: list[bytes] = []
        self.safe_when_sent: list[int] = []
        self.commit = GroupCommit(self.journal, self._send, beside=beside)

    def _send(self, reply: ReplyFrame) -> None:
        self.sent.append(reply.frame)
        self.safe_when_sent.append(self.journal.durable)

    def put(self, name: bytes, records: int = 1, *, more: bool = True) -> None:
        written = [Record([SessionEvicted(1)]) for _ in range(records)]
        self.commit.put(Output(written, [ReplyFrame(b"p", name)]), more=lambda: more)

    def has_ended(self, timeout_s: float = PATIENCE_S) -> bool:
        poller = select.poll()  # a run of all tests may have many files open
        poller.register(self.commit.fd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1_000))


@pytest.fixture
def committer(tmp_path: Path) -> Iterator[Committer]:
    committer = Committer(tmp_path / "data")
    committer.put(b"first", more=False)  # it begins the first segment
    committer.sent.clear()
    committer.safe_when_sent.clear()
    committer.files.is_open = False
    yield committer
    committer.files.is_open, committer.files.fails = True, False
    committer.files.open_gate.release(100)
    committer.commit.close()
    if committer.journal._refusal is None:
        committer.journal.close()


def test_replies_are_sent_only_after_their_sync(committer: Committer) -> None:
    committer.put(b"a")
    assert not committer.has_ended(0.05)
    assert committer.sent == []
    committer.files.open_gate.release()
    assert committer.has_ended()
    assert committer.sent == []  # that is for the loop to do
    committer.commit.finish()
    assert committer.sent == [b"a"]
    assert committer.safe_when_sent == [committer.journal.sequence]


def test_replies_put_during_a_sync_wait_for_the_next(committer: Committer) -> None:
    committer.put(b"a")
    committer.put(b"b")
    committer.put(b"a read, of what b has made", records=0)
    committer.files.open_gate.release()
    assert committer.has_ended()
    committer.commit.finish()
    assert committer.sent == [b"a"]
    committer.files.open_gate.release()
    assert committer.has_ended()
    committer.commit.finish()
    assert committer.sent == [b"a", b"b", b"a read, of what b has made"]
    assert committer.safe_when_sent[1:] == [committer.journal.sequence] * 2


def test_a_lone_batch_is_synced_and_sent_at_once(committer: Committer) -> None:
    committer.files.open_gate.release()
    committer.put(b"a", more=False)
    assert committer.sent == [b"a"]
    assert committer.safe_when_sent == [committer.journal.sequence]


def test_flush_waits_for_every_sync(committer: Committer) -> None:
    committer.put(b"a")
    committer.put(b"b")
    committer.files.open_gate.release(3)
    committer.commit.flush()
    assert committer.sent == [b"a", b"b"]
    assert committer.safe_when_sent[-1] == committer.journal.sequence


@pytest.mark.parametrize("bound", ["HELD_MAX", "HELD_BYTES_MAX"])
def test_held_replies_have_a_limit(
    committer: Committer, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(module, bound, 1)
    committer.put(b"aa")
    committer.files.open_gate.release(2)
    committer.put(b"bb")
    committer.put(b"cc")
    assert committer.sent[:1] == [b"aa"]  # it was waited for


def test_after_a_failed_sync_nothing_is_sent_or_written(committer: Committer) -> None:
    committer.put(b"a")
    committer.put(b"b")
    committer.files.fails = True
    committer.files.open_gate.release()
    assert committer.has_ended()
    with pytest.raises(JournalFailedError):
        committer.commit.finish()
    with pytest.raises(JournalFailedError):
        committer.put(b"c")
    assert committer.sent == []


def test_a_failed_sync_is_raised_by_the_next_append(committer: Committer) -> None:
    committer.put(b"a")
    committer.files.fails = True
    committer.files.open_gate.release()
    assert committer.has_ended()
    with pytest.raises(JournalFailedError):
        committer.put(b"b")
    assert committer.sent == []


def test_a_failed_sync_is_not_retried(committer: Committer) -> None:
    """A new segment waits for the sync of the one before, and must not retry it."""
    committer.put(b"a")
    waiting = threading.Thread(target=lambda: raised.append(catch(committer.journal.close_segment)))
    raised: list[BaseException | None] = []
    waiting.start()
    committer.files.fails = True
    committer.files.once = True
    committer.files.open_gate.release(2)
    waiting.join(PATIENCE_S)
    assert isinstance(raised[0], JournalFailedError)
    assert committer.journal.durable == 1
    assert committer.files.tries == 2  # the first batch, and this


def catch(call: Callable[[], None]) -> BaseException | None:
    try:
        call()
    except JournalFailedError as fault:
        return fault
    return None


def test_the_sync_thread_ends_on_close(committer: Committer) -> None:
    fd = committer.commit.fd
    committer.commit.close()
    committer.commit.thread.join(PATIENCE_S)
    assert not committer.commit.thread.is_alive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_without_a_thread_each_batch_is_synced_first(tmp_path: Path) -> None:
    committer = Committer(tmp_path / "data", beside=False)
    for number in range(3):
        committer.put(b"%d" % number, records=2, more=True)
    assert committer.sent == [b"0", b"1", b"2"]
    assert committer.safe_when_sent == [2, 4, 6]
    committer.files.fails = True
    with pytest.raises(JournalFailedError):
        committer.put(b"3")
    assert committer.sent == [b"0", b"1", b"2"]
    committer.commit.close()
