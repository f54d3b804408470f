"""Replay: the journal's entries build the state again, through the same effects as live events."""

from collections.abc import Iterable

import msgspec

from tollgate.broker.core.records import decode_record
from tollgate.broker.core.snapshot import restore
from tollgate.broker.core.state import State
from tollgate.broker.journal import SNAPSHOT_CHUNK, Entry, JournalError
from tollgate.domain.exceptions import Refusal


class ReplayError(JournalError):
    """A record is sound as bytes but contradicts those before it: the broker must not start."""


def replay(entries: Iterable[Entry], state: State) -> int:
    """Apply entries to an empty state; return how many records there were.

    Each event is checked as strictly as the command that caused it was. Leases begin at zero on the
    monotonic clock; `state.leases.restart` starts them. Raises ReplayError.
    """
    records = 0
    for entry in entries:
        try:
            if entry.kind == SNAPSHOT_CHUNK:
                restore(state, entry.payload)
                continue
            record = decode_record(entry.payload)
            state.apply(record.events, 0)
            record.check()
            state.requests.remember(record)
            records += 1
        except (
            Refusal,
            msgspec.MsgspecError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as fault:
            raise ReplayError(
                f"entry {entry.sequence} of the journal cannot be applied: {fault}. Start the"
                " version of tollgate that wrote it, or restore a backup"
            ) from fault
    return records
