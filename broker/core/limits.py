"""How much of everything the broker takes; `hello` tells all of it to every client."""

from typing import Final

import msgspec

KIB: Final = 1_024
MIB: Final = 1_024 * KIB
MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds that a command can run into. Bytes are of UTF-8 for texts, of the frame otherwise."""

    request_bytes: int = 256 * KIB
    """A request's frame."""
    commands: int = 1_000
    """Commands in one request."""
    reply_bytes: int = 4 * MIB
    """A reply's frame."""
    text_bytes: int = 64 * KIB
    """An input, a result, an error, a schema."""
    blockchain_identifier_bytes: int = 4 * KIB
    """A blockchain identifier."""
    identifier_from_purchaser_bytes: int = 256
    """A purchaser's identifier."""
    jobs: int = 1_000_000
    """Jobs stored."""
    stored_bytes: int = 1_024 * MIB
    """Texts of all jobs stored, above which none is created."""
    parked: int = 10_000
    """Commands that wait for their answer."""
    parked_share: int = 5_000
    """Of those, commands of one connection."""
    watched: int = 1_000_000
    """Jobs that all parked waits together name."""
    pay_within_ms: int = DAY_MS
    """From a job's creation to its `pay_by_time`, unless its creator sets one."""
    payment_grace_ms: int = 5 * MINUTE_MS
    """From `pay_by_time` to failure: a payment locked in time is confirmed later."""
    sessions: int = 100_000
    """Sessions remembered."""
    outcomes: int = 1_000_000
    """Outcomes of requests remembered, of all sessions together."""
    keep_finished_ms: int = 7 * DAY_MS
    """From a job's end until it is forgotten."""
    max_finished: int = 500_000
    """Finished jobs kept, whatever their age."""
    lapses: int = 5
    """How often the lease of a running job may lapse before the job fails."""
