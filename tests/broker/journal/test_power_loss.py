"""Acknowledged is durable, whatever the power does; and each protection is needed for that."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import segment, writer
from tollgate.broker.journal.segment import SegmentReader
from tollgate.broker.journal.writer import Writer

from .power_loss import Disk, Ordeal, first_loss

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = Path("data")
LIVES = 12


def make(policy: str = "always", disk: Callable[[Random], Disk] = Disk) -> Callable[[int], Ordeal]:
    return lambda seed: Ordeal(DIRECTORY, disk(Random(seed)), policy)


@pytest.mark.parametrize("policy", ["always", "interval:250", "never"])
def test_every_recovery_keeps_what_was_acknowledged_and_invents_nothing(policy: str) -> None:
    recoveries = 0
    for seed in range(200):
        ordeal = make(policy)(seed)
        ordeal.run(LIVES)
        recoveries += ordeal.recoveries
    assert recoveries >= 1500  # a life that ends during its own start counts for none


class NoDataSync(Disk):
    def sync_data(self, descriptor: int) -> None:
        self._call()


class NoFileSync(Disk):
    def sync_file(self, descriptor: int) -> None:
        self._call()


class NoDirectorySync(Disk):
    def sync_directory(self, directory: Path) -> None:
        self._call()


@pytest.mark.parametrize(
    ("disk", "outcome"),
    [(NoDataSync, "lost"), (NoDirectorySync, "lost"), (NoFileSync, "refused")],
)
def test_without_one_kind_of_sync_the_ordeal_goes_wrong(disk: type[Disk], outcome: str) -> None:
    assert first_loss(make(disk=disk), seeds=50, lives=LIVES, outcome=outcome)


def test_without_the_sync_before_a_new_segment_the_ordeal_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_segment = Writer.begin_segment

    def begin_unsynced(self: Writer, stored_bytes: int = 0) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(self, "sync", lambda: None)
            begin_segment(self, stored_bytes)

    monkeypatch.setattr(Writer, "begin_segment", begin_unsynced)
    assert first_loss(make("never"), seeds=50, lives=LIVES, outcome="refused")


def test_without_the_second_writing_at_start_a_failed_sync_loses_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SegmentReader, "unproven", property(lambda self: self.end))
    assert first_loss(make(), seeds=200, lives=LIVES)


def test_without_zeroes_over_a_torn_write_the_ordeal_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "bytes", lambda _: b"", raising=False)
    assert first_loss(make("never"), seeds=200, lives=LIVES)


def test_without_the_look_for_missing_sectors_a_torn_write_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segment, "_is_part_missing", lambda *_: False)
    assert first_loss(make(), seeds=50, lives=LIVES, outcome="refused")
