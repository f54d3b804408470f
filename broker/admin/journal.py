"""`tollgate journal`: check, print, back up, restore, compact and repair a data directory."""

if __name__ == "__main__":
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate journal")

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import click
import msgspec

from tollgate.broker.access.permissions import UnsafeError, check_private, use_private_umask
from tollgate.broker.admin.cli import complaining, directory_option, example
from tollgate.broker.compaction import compact_directory, delete
from tollgate.broker.core.events import LogBegan
from tollgate.broker.core.records import Record, decode_record, encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import ChunkReader
from tollgate.broker.core.state import State, restored_number
from tollgate.broker.journal import RECORD, Entry, JournalError, inspect, repair
from tollgate.broker.journal.backup import backup, restore
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import FILES
from tollgate.broker.journal.format import listing
from tollgate.broker.journal.recovery import Observer, Replay
from tollgate.terminal.output import stderr_is_terminal
from tollgate.terminal.program import run

if TYPE_CHECKING:
    from rich.progress import Progress

PROGRAM: Final = "tollgate journal"


def _with_journal(directory: Path) -> None:
    """Refuse a directory without a journal: nothing in it could be checked, or is to be changed."""
    found = listing(FILES.names(directory))
    if not (found.segments or found.snapshots):
        raise click.BadParameter(
            f"there is no journal in {directory}: no segment and no snapshot."
            " A broker writes the first segment at its first start"
        )


DIRECTORY: Final = directory_option("the broker's data directory", _with_journal)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("tollgate journal verify --data-dir /var/lib/tollgate"),
)
def main() -> None:
    """Check, print, back up, restore, compact and repair a broker's data directory."""
    use_private_umask()


@main.command(epilog=example("tollgate journal verify"))
@DIRECTORY
def verify(directory: Path) -> None:
    """Check every file, and that a broker could start; may run beside a broker."""
    with complaining(PROGRAM, JournalError, OSError):
        found = inspect.verify(directory)
        for report in found.files:
            state = report.problem or "sound"
            if report.torn_bytes:
                state = f"sound, followed by {report.torn_bytes} bytes of a torn write"
            records = f"records {report.first} to {report.last}"
            if report.last < report.first:
                records = "no records"
            click.echo(f"{report.file.name}  {records}  {state}")
        if found.refusal is not None:
            raise JournalError(found.refusal)
        restored = State()
        replayed = replay(inspect.dump(directory), restored)
        click.echo(f"a broker would start: {replayed} records, {restored.jobs.count()} jobs")


@main.command(epilog=example("tollgate journal dump | jq -c 'select(.kind == \"record\")'"))
@DIRECTORY
def dump(directory: Path) -> None:
    """Print what a start would replay, one JSON document per line; may run beside a broker."""
    with complaining(PROGRAM, JournalError, OSError):
        chunks = ChunkReader()
        for entry in inspect.dump(directory):
            for shown in _shown(entry, chunks):
                click.echo(json.dumps(shown, ensure_ascii=False, default=_as_text))


@main.command(name="backup", epilog=example("tollgate journal backup /backup/tollgate-$(date +%F)"))
@DIRECTORY
@click.argument("destination", type=click.Path(path_type=Path))
def backup_(directory: Path, destination: Path) -> None:
    """Copy the journal to DESTINATION, a new directory, and verify the copy.

    The broker may run, and is not stopped. The copy has every change that was acknowledged before.
    """
    with complaining(PROGRAM, JournalError, OSError):
        jobs, sequence = backup(directory, destination, _replay_copy)
        click.echo(f"{destination}: {jobs} jobs, up to record {sequence}")


def _replay_copy(copy: Path) -> tuple[int, int]:
    """Replay a copy as a start would; return its number of jobs and its last record."""
    entries, restored = Replay(copy), State()
    replay(entries, restored)
    return restored.jobs.count(), entries.sequence


@main.command(
    name="restore",
    epilog=example(
        "tollgate journal restore /backup/tollgate-2026-11-28 --data-dir /var/lib/tollgate"
    ),
)
@directory_option(
    "where the broker is to start: empty, or missing", lambda _: None, must_exist=False
)
@click.argument("backup", type=click.Path(exists=True, file_okay=False, path_type=Path))
def restore_(directory: Path, backup: Path) -> None:
    """Put BACKUP into an empty directory, verify it, and begin a new log there.

    No lease and no session of the time before stands after that, so clients and workers may go on:
    nothing that they hold from then is taken for something newer. Run it as the broker's user.
    """
    with complaining(PROGRAM, JournalError, UnsafeError, OSError):
        if directory.exists():
            check_private(directory)
        with _Bar() as bar:
            jobs, sequence = restore(backup, directory, lambda copy: _begin_log(copy, bar))
        click.echo(f"{directory}: {jobs} jobs, up to record {sequence}; leases and sessions ended")


class _Bar(Observer):
    """Shows on a terminal how much of a journal has been read."""

    def __enter__(self) -> Self:
        self._bar: Progress | None = None
        if stderr_is_terminal():
            from tollgate.terminal.style import bytes_bar  # noqa: PLC0415 - needs rich

            self._bar = bytes_bar()
            self._task = self._bar.add_task("verifying", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done_bytes, total=total_bytes)


def _begin_log(copy: Path, observer: Observer) -> tuple[int, int]:
    """Replay a backup as a start would, and add the record that ends its leases and sessions.

    Return its number of jobs and its last record before that.
    """
    journal, restored = FileJournal(copy, segment_bytes=1, observer=observer), State()
    try:
        replay(journal.replay(), restored)
        sequence = journal.sequence
        at = max(datetime.now(UTC), restored.at)
        last = max(restored.leases.last_token, restored.requests.last_session)
        event = LogBegan(uuid4().hex, is_restore=True, number=restored_number(last, at))
        began = Record([event], by=f"uid:{os.geteuid()}", at=at)
        restored.apply(began, 0)  # it must be possible after what was read
        (payload,) = encode_records([began])
        if not journal.room(len(payload)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        journal.append([payload])
        journal.sync()
    finally:
        journal.close()
    return restored.jobs.count(), sequence


@main.command(epilog=example("tollgate journal compact --data-dir /var/lib/tollgate"))
@DIRECTORY
def compact(directory: Path) -> None:
    """Replace all segments by one snapshot. A running broker does this by itself."""
    with complaining(PROGRAM, JournalError, OSError):
        journal = FileJournal(directory)
        try:
            replay(journal.replay(), State())
            journal.close_segment()
            names = compact_directory(directory)
            delete(directory, names)
        finally:
            journal.close()
        click.echo(f"deleted: {', '.join(names) or 'nothing'}")


@main.command(
    name="repair", epilog=example("tollgate journal repair --data-dir /var/lib/tollgate --yes")
)
@DIRECTORY
@click.confirmation_option(
    prompt="The broker loses all records after the damage (a copy is kept). Cut them off?"
)
def repair_(directory: Path) -> None:
    """Cut a damaged journal at the first damage, and keep a copy of what is cut off."""
    with complaining(PROGRAM, JournalError, OSError):
        done = repair.repair(directory)
        for damage in done.found:
            click.echo(f"cut: {damage.file.name} at byte {damage.offset}: {damage.reason}")
        for path in done.kept + done.moved:
            click.echo(f"kept: {path}")
        click.echo(f"the journal ends with record {done.sequence}" if done.found else "sound")


def _shown(entry: Entry, chunks: ChunkReader) -> Iterator[dict[str, Any]]:
    """Yield what an entry holds: of a snapshot, each job with its history."""
    if entry.kind != RECORD:
        for part in chunks.read(entry.payload):
            yield {"kind": "snapshot", "covers": entry.sequence, **part}
        return
    record = decode_record(entry.payload)
    events = [_named("event", event) for event in record.events]
    shown: dict[str, Any] = {"kind": "record", "sequence": entry.sequence, "events": events}
    if record.at is not None:
        shown["at"] = record.at
    shown |= {name: value for name in ("by", "client") if (value := getattr(record, name))}
    if record.session:
        outcomes = [_named("outcome", outcome) for outcome in record.full_outcomes()]
        shown |= {
            "session": record.session, "seq": record.seq, "acked": record.acked,
            "outcomes": outcomes,
        }  # fmt: skip
    yield shown


def _named(key: str, value: msgspec.Struct) -> dict[str, Any]:
    return {key: type(value).__name__, **msgspec.structs.asdict(value)}


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


if __name__ == "__main__":
    run(main, PROGRAM)
