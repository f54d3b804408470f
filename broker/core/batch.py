"""What goes into the core and what comes out of it, a batch at a time."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tollgate.broker.core.records import Record
from tollgate.broker.core.roles import Principal

RECORDS_MAX: Final = 256
"""A batch ends at this number of records, those of the parked claims that it serves included.

To serve a claim takes some 20 us."""
REPLIES_MAX: Final = 1_024
"""A batch ends at this number of replies: waits that end at once are answered over several."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message from a socket: its connection, its frames, and its sender."""

    peer: bytes
    frames: Sequence[bytes]
    principal: Principal


class ReplyFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame for a peer. If it cannot be sent, the leases in `grants` (job and token) must end."""

    peer: bytes
    frame: bytes
    grants: Sequence[tuple[str, int]] = ()


class Output(msgspec.Struct, gc=False):
    """The result of a batch: write and sync the records, then send the replies."""

    records: list[Record]
    replies: list[ReplyFrame]
    taken: int = 0
    """How many messages of the batch were decided; pass the others again with the next batch."""
    room_bytes: int = 0
    """How much room for replies is left."""
