"""A power loss loses nothing acknowledged; and each protection is needed for that."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import file, segment
from tollgate.broker.journal.file import Writer
from tollgate.broker.journal.format import FileHeader
from tollgate.broker.journal.segment import SegmentReader

from .helpers import FULL, knowing_format, opened, stored, written
from .power_loss import Disk, PowerLossError, Simulation, first_loss

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = Path("data")
LIVES = 12


def make(
    policy: str = "always", disk: Callable[[Random], Disk] = Disk, old_lives: int = 0
) -> Callable[[int], Simulation]:
    return lambda seed: Simulation(DIRECTORY, disk(Random(seed)), policy, old_lives=old_lives)


@pytest.mark.parametrize("policy", ["always", "interval:250", "never"])
def test_recovery_keeps_all_acknowledged_and_invents_nothing(policy: str) -> None:
    seeds = 200 if FULL else 60
    recoveries = 0
    for seed in range(seeds):
        simulation = make(policy)(seed)
        simulation.run(LIVES)
        recoveries += simulation.recoveries
    assert recoveries >= 7.5 * seeds  # a life that ends during its own start does not count


@pytest.mark.parametrize("policy", ["always", "interval:250", "never"])
def test_recovery_after_an_upgrade_from_format_1(policy: str) -> None:
    """The power may be lost at any call of the first start, and while the next segment is begun."""
    seeds = 200 if FULL else 60
    upgrades = 0
    for seed in range(seeds):
        simulation = make(policy, old_lives=1 + seed % 4)(seed)
        simulation.run(LIVES)
        upgrades += simulation.upgrades
    assert upgrades >= seeds  # how often old segments were found beside newer records


def test_without_a_new_segment_format_1_would_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileHeader, "is_current", True)
    assert first_loss(make(old_lives=2), seeds=50, lives=LIVES, outcome="misread")


def test_a_power_loss_at_each_call_after_an_upgrade() -> None:
    """From the first start on a segment of format 1 to the second sync in the one after it."""
    for seed, call in product(range(20), range(1, 24)):
        disk = Disk(Random(seed))
        with knowing_format(1):
            written(DIRECTORY, [[b"one"], [b"two"]], files=disk)
            journal = opened(DIRECTORY, files=disk)
            journal.append([b"torn" * 200])
        disk = disk.after_loss()
        found = stored(DIRECTORY, disk)
        acknowledged = [b"one", b"two"]
        disk.power_goes_at = disk.calls + call
        with suppress(PowerLossError):
            journal = opened(DIRECTORY, files=disk)
            acknowledged = found
            for payload in (b"three", b"four"):
                journal.append([payload])
                journal.sync()
                acknowledged = [*acknowledged, payload]
        after = stored(DIRECTORY, disk.after_loss())
        assert after[: len(acknowledged)] == acknowledged
        assert [*found, b"three", b"four"][: len(after)] == after


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_at_any_call_and_then_a_power_loss(version: int) -> None:
    """A killed process can leave a name that is not on the disk yet: the next start syncs it."""
    for seed, call in product(range(20), range(1, 12)):
        disk = Disk(Random(seed))
        if version == 1:
            with knowing_format(1):
                written(DIRECTORY, [[b"from before"]], files=disk)
        disk.power_goes_at = disk.calls + call
        with suppress(PowerLossError):
            opened(DIRECTORY, files=disk).append([b"from the killed process"])
        disk.kill_process()
        disk.power_goes_at = None
        journal = opened(DIRECTORY, files=disk)
        journal.append([b"acknowledged"])
        journal.sync()
        assert stored(DIRECTORY, disk.after_loss())[-1:] == [b"acknowledged"]


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
def test_without_one_kind_of_sync_records_are_lost(disk: type[Disk], outcome: str) -> None:
    assert first_loss(make(disk=disk), seeds=50, lives=LIVES, outcome=outcome)


def test_without_sync_before_a_new_segment_records_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_segment = Writer.begin_segment

    def begin_unsynced(self: Writer, stored_bytes: int = 0) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(self, "sync", lambda: None)
            begin_segment(self, stored_bytes)

    monkeypatch.setattr(Writer, "begin_segment", begin_unsynced)
    assert first_loss(make("never"), seeds=50, lives=LIVES, outcome="refused")


def test_without_rewriting_at_start_a_failed_sync_loses_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SegmentReader, "unproven", property(lambda self: self.end))
    assert first_loss(make(), seeds=200, lives=LIVES)


def test_without_zeroes_over_a_torn_write_records_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file, "bytes", lambda _: b"", raising=False)
    assert first_loss(make("never"), seeds=200, lives=LIVES)


def test_without_the_missing_sector_check_torn_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segment, "_is_part_missing", lambda *_: False)
    assert first_loss(make(), seeds=50, lives=LIVES, outcome="refused")
