"""The names of the files in a data directory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCK = "lock"
SPARE = "next.tmp"
TEMPORARY = ".tmp"

_SEGMENT = re.compile(r"segment-([0-9]{10})")
_SNAPSHOT = re.compile(r"snapshot-([0-9]{20})")


class Listing(NamedTuple):
    """What a data directory holds: segment numbers and snapshot sequences, both ascending."""

    segments: list[int]
    snapshots: list[int]


def segment_name(number: int) -> str:
    """Name the segment with this number."""
    return f"segment-{number:010d}"


def snapshot_name(sequence: int) -> str:
    """Name the snapshot that covers the records up to this sequence."""
    return f"snapshot-{sequence:020d}"


def listing(names: Iterable[str]) -> Listing:
    """Pick the segments and snapshots out of the names in a directory; others are not ours."""
    names = list(names)
    return Listing(
        sorted(int(found[1]) for name in names if (found := _SEGMENT.fullmatch(name))),
        sorted(int(found[1]) for name in names if (found := _SNAPSHOT.fullmatch(name))),
    )
