"""What one message, or the clock, has made happen, in one piece: what the journal holds."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tollgate.broker.core.events import AnyEvent, JobCreated, JobTransitioned
from tollgate.broker.core.outcomes import AnyOutcome, Digest, written_out


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The events of a message, its identity, and the outcomes of its commands, errors included.

    `session` is 0 where nothing is remembered; `digest` tells the commands from others. An outcome
    that is a number is that of the command which created or moved a job by the event of that
    place, so that most cost one byte. `by` is the principal that sent the message; what the broker
    has done by itself is nobody's.
    """

    events: list[AnyEvent]
    session: int = 0
    seq: int = 0
    acked: int = 0
    digest: Digest = b""
    outcomes: list[int | AnyOutcome] = []
    by: str = ""

    def check(self) -> None:
        """Raise what `full_outcomes` would; it is called later, or never."""
        is_plain = _MOVES.issuperset(map(type, self.events))
        if not is_plain or self.outcomes != [*range(len(self.events))]:
            self.full_outcomes()

    def full_outcomes(self) -> list[AnyOutcome]:
        """Return the outcomes, those given by their place written out."""
        return written_out(self.outcomes, self.events)


_MOVES: Final = frozenset({JobCreated, JobTransitioned})
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_records(records: Sequence[Record]) -> list[bytes]:
    """Return the payloads of records."""
    return [_encoder.encode(record) for record in records]


def decode_record(payload: bytes | memoryview) -> Record:
    """Read a record's payload. Raises msgspec.ValidationError or DecodeError."""
    return _decoder.decode(payload)
