"""The judgement on bytes that are no sound record: a write that a power loss tore, or damage?

The question arises only at the end of the last segment. A segment is synced to its end before the
next one gets its name, so whatever is wrong in an earlier one is damage.

What a power loss leaves. Nothing that was synced changes. Of what was not, each sector of 512 bytes
may hold any state that it went through: in a preallocated file, zeroes from the end of the synced
bytes on, or these and a part of what was appended since, always from the front, never with a hole.
Sectors reach the disk in any order, so later records can be whole where an earlier one is not.
A process that is killed, or a write that fails half-way, leaves a front part and then zeroes.
In either case a torn record misses the end of its part of some sector: there are zeroes instead.

What damage leaves. A flipped bit, a foreign or a stale sector: bytes that are wrong, not missing.

So a record that is not sound is taken for torn only if something is missing, which is to say
 - its last byte, or the last byte of its head, is zero: neither ever is, nor becomes so by one
   flipped bit, since both belong to a mark; or
 - it crosses a sector's end, and its last 64 bytes before that end (or all of them, if fewer) are
   zero: no written record has such a run, nor gets it by one flipped bit (see `record`); or
 - the file ends before the record does, which is how a file system without preallocation, or a copy
   that broke off, shows the same thing.
If the head is not sound the length cannot be trusted, and only the head itself is looked at.

And even then it is damage if a sound record further on says that this one was synced before
that one was written: each record carries the sequence up to which the journal was on the disk.

What is left undecided: the records of the last sync before the end, with nothing written after
them, in which a whole sector has turned to zeroes. That looks like a write that never came to its
end, and is cut off as one. One disk and one copy can't do better.
"""

from __future__ import annotations

from tollgate.broker.journal.format import HEAD_BYTES, OPENING, decode_head

_SECTOR_BYTES = 512
_MISSING_BYTES = 64


def why_damaged(data: bytes, offset: int, seed: int, sequence: int, chain: int) -> str | None:
    """Say why the bytes at `offset` cannot be a torn record; None if they can.

    `data` is the whole segment, `seed` its seed. There must be no sound record at `offset`, where
    the one with this sequence should be, after one with the checksum `chain`.
    """
    head = decode_head(data, offset, seed)
    if head is not None and (head.sequence, head.previous) != (sequence, chain):
        return f"record {head.sequence} stands where record {sequence} should"
    stop = offset + (HEAD_BYTES if head is None else head.size)
    if stop <= len(data) and not _is_part_missing(data, offset, stop):
        return f"the checksum of record {sequence} does not match"
    witness = _later_witness(data, offset + 1, seed, sequence)
    if witness is not None:
        return (
            f"record {sequence} is gone, though it was synced before record {witness} was written"
        )
    return None


def _is_part_missing(data: bytes, start: int, stop: int) -> bool:
    """Say whether these bytes, the last of which is of a mark, lack the end of a sector's part."""
    if data[stop - 1] == 0:
        return True
    first_edge = start - start % _SECTOR_BYTES + _SECTOR_BYTES
    return any(
        not any(data[max(start, edge - _MISSING_BYTES) : edge])
        for edge in range(first_edge, stop, _SECTOR_BYTES)
    )


def _later_witness(data: bytes, offset: int, seed: int, sequence: int) -> int | None:
    """Find a record from `offset` on that was written after record `sequence` was synced."""
    while (offset := data.find(OPENING, offset)) >= 0:
        head = decode_head(data, offset, seed)
        if head is not None and head.durable >= sequence:
            return head.sequence
        offset += 1
    return None
