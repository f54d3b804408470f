"""Replay: the journal's entries build the state again, through the same effects as live events."""

from collections.abc import Iterable

import msgspec

from tollgate.broker.core.records import decode_record
from tollgate.broker.core.snapshot import Restorer
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
    records, sequence = 0, 0
    restorer = Restorer(state)
    try:
        for entry in entries:
            sequence = entry.sequence
            if entry.kind == SNAPSHOT_CHUNK:
                restorer.restore(entry.payload)
                state.feed.begin(sequence + 1)
                continue
            if not records:
                restorer.finish()
            record = decode_record(entry.payload)
            if sequence != state.records + 1:
                state.feed.begin(sequence)
            state.apply(record, 0, len(entry.payload))
            record.check()
            state.requests.remember(record)
            state.requests.forgotten.clear()  # a replay has no steps that could be long
            records += 1
        if not records:
            restorer.finish()
    except (
        Refusal,
        msgspec.MsgspecError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as fault:
        raise ReplayError(
            f"entry {sequence} of the journal cannot be applied: {fault}. Start the"
            " version of tollgate that wrote it, or restore a backup"
        ) from fault
    state.jobs.queues.changed.clear()
    return records
