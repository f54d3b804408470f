"""The contract of the port `Journal`, for every backend: a new one is a new parameter here."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tollgate.broker.journal import RECORD, Journal, JournalError, NoJournal
from tollgate.broker.journal.file import FileJournal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Backend(NamedTuple):
    make: Callable[[], Journal]
    keeps: bool


@pytest.fixture(params=["none", "file", "file, interval", "file, never"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "none":
        return Backend(NoJournal, keeps=False)
    _, _, fsync = request.param.partition(", ")
    policy = {"": "always", "interval": "interval:50", "never": "never"}[fsync]
    return Backend(lambda: FileJournal(tmp_path / "data", policy, 4096), keeps=True)


@pytest.fixture
def journal(backend: Backend) -> Journal:
    journal = backend.make()
    assert list(journal.replay()) == []
    return journal


def test_what_was_appended_comes_back_in_order(backend: Backend, journal: Journal) -> None:
    batches = [[b"one"], [], [b"two", b"", bytes(300), b"\xff" * 5000], [b"five"]]
    for batch in batches:
        assert journal.room(sum(map(len, batch)), len(batch))
        journal.append(batch)
        journal.sync()
    journal.close()

    again = backend.make()
    entries = list(again.replay())
    payloads = [payload for batch in batches for payload in batch]
    assert [entry.payload for entry in entries] == (payloads if backend.keeps else [])
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert all(entry.kind == RECORD for entry in entries)
    again.append([b"six"])
    again.close()

    third = backend.make()
    kept = [entry.payload for entry in third.replay()]
    assert kept == ([*payloads, b"six"] if backend.keeps else [])
    third.close()


def test_every_call_before_the_replay_is_refused(backend: Backend) -> None:
    journal = backend.make()
    replay = journal.replay()
    for call in (lambda: journal.append([b"x"]), journal.sync, lambda: journal.room(1)):
        with pytest.raises(JournalError, match="replay"):
            call()
    assert list(replay) == []
    journal.append([b"x"])
    journal.close()


def test_a_journal_is_replayed_once(journal: Journal) -> None:
    with pytest.raises(JournalError, match="once"):
        list(journal.replay())
    journal.append([b"x"])
    journal.close()


def test_every_call_after_close_is_refused_but_close(journal: Journal) -> None:
    journal.close()
    journal.close()
    for call in (lambda: journal.append([b"x"]), journal.sync, lambda: journal.room(1)):
        with pytest.raises(JournalError, match="closed"):
            call()
    with pytest.raises(JournalError):
        list(journal.replay())


def test_a_sync_with_nothing_to_do_is_harmless(journal: Journal) -> None:
    journal.sync()
    journal.append([])
    journal.sync()
    journal.close()


def test_a_journal_can_be_closed_before_its_replay(backend: Backend) -> None:
    backend.make().close()
    journal = backend.make()
    assert list(journal.replay()) == []
    journal.close()


def test_a_sync_may_run_on_another_thread(backend: Backend, journal: Journal) -> None:
    is_done = False

    def keep_syncing() -> None:
        while not is_done:
            journal.sync()

    thread = Thread(target=keep_syncing)
    thread.start()
    payloads = [b"%d" % number * 100 for number in range(100)]
    for payload in payloads:
        journal.append([payload])
    is_done = True
    thread.join()
    journal.close()

    again = backend.make()
    assert [entry.payload for entry in again.replay()] == (payloads if backend.keeps else [])
    again.close()
