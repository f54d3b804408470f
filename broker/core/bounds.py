"""How much a batch can come to write, told before it is decided: what there must be room for."""

from collections.abc import Iterable, Sequence
from typing import Final

from tollgate.broker.core.limits import Limits
from tollgate.broker.core.sizes import GRANTS_MAX

TICK_BYTES_MAX: Final = 2 * 1024 * 1024
"""More than the records of what time brings at once take: a few thousand short events."""
COMMAND_BYTES_MIN: Final = 13
"""The shortest command, a map with its type, takes this much of a frame."""
CLAIM_TAG: Final = b"claim"
"""Stands in a frame at least once for each claim in it."""
EVENT_BYTES_MAX: Final = 512
"""More than an event and its outcome take beside the texts that came in."""
GRANT_BYTES_MAX: Final = 128
"""More than a granted lease takes, as an event and in an outcome."""
RELEASE_BYTES_MAX: Final = 64
"""More than a lease takes that is given back."""
SHOWN_BYTES_MIN: Final = 208
"""Less than a granted lease takes of a reply: its job has an id, a hash and times at least."""


def records_max(
    messages: Iterable[Sequence[bytes]], undelivered: int, parked: int, limits: Limits
) -> tuple[int, int]:
    """Return bounds on the records of a batch of messages, given as frames: bytes and number.

    They hold whatever the messages say: a frame has only so many commands and claims, a reply only
    so many grants. Each message makes two records at most, and each `parked` claim that is served
    one of its own. Each of the leases that were `undelivered` is given back, and may be granted to
    who waits.
    """
    size, number = TICK_BYTES_MAX, 2 + parked
    size += undelivered * (RELEASE_BYTES_MAX + GRANT_BYTES_MAX)
    for frames in messages:
        number += 2
        if len(frames) == 1:  # others are refused
            size += _record_bytes_max(frames[0], limits)
    return size, number


def _record_bytes_max(frame: bytes, limits: Limits) -> int:
    commands = min(limits.commands, 1 + len(frame) // COMMAND_BYTES_MIN)
    size = 2 * len(frame) + commands * EVENT_BYTES_MAX
    if claims := frame.count(CLAIM_TAG):
        grants = min(limits.reply_bytes // SHOWN_BYTES_MIN, claims * GRANTS_MAX)
        size += grants * GRANT_BYTES_MAX
    return size
