"""A disk in memory that loses power, and a simulation of a journal on it.

The disk remembers, for every sector of 512 bytes, each state since the last sync of its file, and
for the directory each change of a name since its last sync. At a power loss, each sector and each
size takes one of its states, and each change of a name is kept or lost, independently of the
others. A failed sync behaves as on Linux: the data stays readable, and is never written.
"""

from __future__ import annotations

import errno
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from tollgate.broker.compaction import compact, delete
from tollgate.broker.journal import SNAPSHOT_CHUNK, JournalError, JournalFailedError
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.format import listing, segment_name
from tollgate.broker.journal.segment import SegmentReader, read_header

from .helpers import knowing_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from random import Random

    from tollgate.broker.journal import Entry

SECTOR = 512


class PowerLossError(Exception):
    """The power was lost before this call did anything."""


class LossError(AssertionError):
    """The journal broke its guarantee."""


@dataclass
class Inode:
    """A file: what a reader sees, what is on the disk, and what may be on the disk."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if end > len(self.live):
            self.resize(end)
        self.live[offset:end] = data
        for start in range(offset - offset % SECTOR, end, SECTOR):
            version = bytes(self.live[start : start + SECTOR]).ljust(SECTOR, b"\0")
            self.versions.setdefault(start, []).append(version)

    def resize(self, size: int) -> None:
        self.live.extend(bytes(size - len(self.live)))
        self.sizes.append(size)

    def sync(self) -> None:
        self.durable.extend(bytes(len(self.live) - len(self.durable)))
        for start, versions in self.versions.items():
            self._put(start, versions[-1])
        self.forget()

    def forget(self) -> None:
        """Treat unsynced data as written, as the kernel does after a failed sync."""
        self.versions.clear()
        self.sizes.clear()

    def after_loss(self, random: Random) -> Inode:
        size = random.choice([len(self.durable), *self.sizes])
        kept = Inode(durable=bytearray(self.durable))
        kept.durable.extend(bytes(max(0, size - len(kept.durable))))
        luck = random.choice([0.0, 0.5, 0.9, 1.0])
        for start, versions in self.versions.items():
            if random.random() < luck:
                kept._put(start, versions[-1])
            elif random.random() < luck:
                kept._put(start, random.choice(versions))
        kept.live = bytearray(kept.durable)
        return kept

    def _put(self, start: int, version: bytes) -> None:
        length = max(0, min(SECTOR, len(self.durable) - start))
        self.durable[start : start + length] = version[:length]


class Disk(Files):
    """One directory on a disk that can lose power; every path is a name in it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.names_now: dict[str, Inode] = {}
        self.names_durable: dict[str, Inode] = {}
        self.changes: list[tuple[str | None, str | None, Inode]] = []
        self.descriptors: dict[int, Inode] = {}
        self.calls = 0
        self.power_goes_at: int | None = None
        self.syncs_until_failure: int | None = None
        self._next_descriptor = count(3)

    # Events.

    def after_loss(self) -> Disk:
        """Return the disk as it is when the power is back."""
        disk = type(self)(self.random)
        names = dict(self.names_durable)
        luck = self.random.choice([0.0, 0.5, 1.0])
        for source, target, inode in self.changes:
            if self.random.random() < luck:
                if source is not None and names.get(source) is inode:
                    del names[source]
                if target is not None:
                    names[target] = inode
        found = {id(inode): inode.after_loss(self.random) for inode in names.values()}
        disk.names_now = {name: found[id(inode)] for name, inode in names.items()}
        disk.names_durable = dict(disk.names_now)
        return disk

    def kill_process(self) -> None:
        """End the process without a power loss: what it wrote is readable, synced or not."""
        self.descriptors.clear()

    def total_bytes(self) -> int:
        return sum(len(inode.live) for inode in self.names_now.values())

    # The seam.

    def _call(self) -> None:
        self.calls += 1
        if self.power_goes_at is not None and self.calls >= self.power_goes_at:
            raise PowerLossError

    def lock(self, directory: Path) -> tuple[int, ...]:
        return (self._describe(Inode()),)

    def is_named(self, path: Path, descriptor: int) -> bool:
        return self.names_now.get(path.name) is self.descriptors[descriptor]

    def is_whole(self, descriptor: int, size: int) -> bool:
        inode = self.descriptors[descriptor]
        is_named = any(each is inode for each in self.names_now.values())
        return is_named and len(inode.live) >= size

    def names(self, directory: Path) -> list[str]:
        return list(self.names_now)

    def size(self, path: Path) -> int:
        return len(self.names_now[path.name].live)

    def open(self, path: Path, *, create: bool = False) -> int:
        if create:
            self._call()
            if path.name in self.names_now:
                self.unlink(path)
            self._rename(None, path.name, Inode())
        return self._describe(self.names_now[path.name])

    def open_to_read(self, path: Path) -> int:
        return self._describe(self.names_now[path.name])

    def close(self, descriptor: int) -> None:
        self.descriptors.pop(descriptor, None)

    def read(self, path: Path, length: int | None = None) -> bytes:
        return bytes(self.names_now[path.name].live[:length])

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        return bytes(self.descriptors[descriptor].live[offset : offset + length])

    def write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Take everything, or sometimes only the bytes before some sector's end."""
        self._call()
        part = bytes(data)
        if self.random.random() < 0.2:
            edges = range(SECTOR - offset % SECTOR, len(part), SECTOR)
            part = part[: self.random.choice(edges)] if edges else part
        self.descriptors[descriptor].write(part, offset)
        return len(part)

    def allocate(self, descriptor: int, size: int) -> None:
        self._call()
        inode = self.descriptors[descriptor]
        if size > len(inode.live):
            inode.resize(size)

    def sync_data(self, descriptor: int) -> None:
        self._sync(self.descriptors[descriptor])

    def sync_file(self, descriptor: int) -> None:
        self._sync(self.descriptors[descriptor])

    def sync_directory(self, directory: Path) -> None:
        self._call()
        self.names_durable = dict(self.names_now)
        self.changes.clear()

    def rename(self, source: Path, target: Path) -> None:
        self._call()
        self._rename(source.name, target.name, self.names_now[source.name])

    def unlink(self, path: Path) -> None:
        self._call()
        self._rename(path.name, None, self.names_now[path.name])

    def _rename(self, source: str | None, target: str | None, inode: Inode) -> None:
        self.changes.append((source, target, inode))
        if source is not None:
            del self.names_now[source]
        if target is not None:
            self.names_now[target] = inode

    def _describe(self, inode: Inode) -> int:
        descriptor = next(self._next_descriptor)
        self.descriptors[descriptor] = inode
        return descriptor

    def _sync(self, inode: Inode) -> None:
        self._call()
        if self.syncs_until_failure is not None:
            self.syncs_until_failure -= 1
            if self.syncs_until_failure < 0:
                self.syncs_until_failure = None
                inode.forget()
                raise OSError(errno.EIO, "Input/output error")
        inode.sync()


class Simulation:
    """Lives of one journal, each ended by a power loss, a kill, a failed sync or a close.

    `appended` are all payloads in order, `acknowledged` is how many of them were synced or, after a
    start, replayed: these must come back, and what comes back must be a prefix. The first
    `old_lives` are those of a tollgate of format 1: what these have not written must be in
    segments that it refuses.
    """

    def __init__(
        self,
        directory: Path,
        disk: Disk,
        policy: str = "always",
        segment_bytes: int = 2048,
        old_lives: int = 0,
    ) -> None:
        self.directory = directory
        self.disk = disk
        self.policy = policy
        self.segment_bytes = segment_bytes
        self.appended: list[bytes] = []
        self.acknowledged = 0
        self.recoveries = 0
        self.old_lives = old_lives
        self.upgrades = 0
        self._old_end: int | None = None
        self._time = 0.0

    def run(self, lives: int) -> None:
        """Run so many lives; LossError at the first broken guarantee."""
        for life in range(lives):
            if life == self.old_lives:
                self._old_end = len(self.appended)
            self.disk.power_goes_at = self.disk.calls + self.disk.random.randint(1, 80)
            if self.disk.random.random() < 0.1:
                self.disk.syncs_until_failure = self.disk.random.randint(0, 8)
            try:
                with knowing_format(1) if life < self.old_lives else nullcontext():
                    self._live()
            except PowerLossError:
                self.disk = self.disk.after_loss()
            except JournalFailedError:
                self.disk.kill_process()
            self.disk.power_goes_at = self.disk.syncs_until_failure = None
        self._start()

    def _live(self) -> None:
        random = self.disk.random
        journal = self._start()
        for _ in range(random.randint(1, 40)):
            random.choices([self._append, self._sync, self._compact], [5, 5, 1])[0](journal)
        if random.random() < 0.5:
            self.disk.kill_process()
        else:
            journal.close()
            self.acknowledged = max(self.acknowledged, journal.durable)

    def _start(self) -> FileJournal:
        journal = FileJournal(
            self.directory,
            self.policy,
            self.segment_bytes,
            files=self.disk,
            clock=lambda: self._time,
        )
        try:
            found = [entry.payload for entry in journal.replay()]
        except JournalFailedError:
            raise
        except JournalError as error:
            raise LossError(f"refused: {error}") from error
        if found != self.appended[: len(found)]:
            raise LossError("what came back was never written")
        if len(found) < self.acknowledged:
            raise LossError(f"lost: {len(found)} of {self.acknowledged} acknowledged came back")
        self.appended = found
        self.acknowledged = len(found)
        self.recoveries += 1
        if self._old_end is not None:
            self._old_end = min(self._old_end, len(found))
            self._look_at_old_segments(self._old_end)
        return journal

    def _look_at_old_segments(self, old_end: int) -> None:
        """Check that they hold only what was written in the old lives."""
        for number in listing(self.disk.names(self.directory)).segments:
            path = self.directory / segment_name(number)
            if read_header(self.disk, path).version == 1:
                reader = SegmentReader(path, self.disk.read(path))
                for _ in reader:
                    pass
                if reader.sequence > old_end:
                    raise LossError(f"misread: record {reader.sequence} is in an old segment")
                self.upgrades += len(self.appended) > old_end

    def _append(self, journal: FileJournal) -> None:
        random = self.disk.random
        batch = [self._payload() for _ in range(random.choice([1, 1, 2, 5]))]
        if random.random() < 0.5:
            assert journal.room(sum(map(len, batch)), len(batch))
        # Before the call: if the power is lost during it, the batch may still be stored.
        self.appended += batch
        journal.append(batch)

    def _payload(self) -> bytes:
        random = self.disk.random
        size = random.choice([0, 1, 20, 200, 600, 1500])
        zeroes = random.choice([0, size // 2, size])
        return bytes(zeroes) + random.randbytes(size - zeroes)

    def _sync(self, journal: FileJournal) -> None:
        self._time += self.disk.random.choice([0.0, 0.1])
        journal.sync()
        if self.policy == "always":
            assert journal.durable == len(self.appended)
        self.acknowledged = max(self.acknowledged, journal.durable)

    def _compact(self, journal: FileJournal) -> None:
        closed = journal.closed_segments()
        if not closed:
            return
        try:
            names = compact(self.directory, closed[-1], unchanged, self.disk)
        except OSError:
            return  # the compacting process has failed, and the journal continues without it
        delete(self.directory, names, self.disk)


def unchanged(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Return a snapshot of the records themselves, one chunk each."""
    for entry in entries:
        assert entry.kind == SNAPSHOT_CHUNK or entry.sequence > 0
        yield entry.payload


def first_loss(
    make: Callable[[int], Simulation], seeds: int, lives: int, outcome: str = ""
) -> str | None:
    """Run a simulation per seed until one fails in this way, and return how."""
    for seed in range(seeds):
        try:
            make(seed).run(lives)
        except LossError as loss:
            if outcome in str(loss):
                return f"seed {seed}: {loss}"
    return None
