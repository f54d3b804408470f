"""The limits of a broker, and the sizes that follow from them: of texts, results and batches."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from tollgate.broker.core.batch import RECORDS_MAX
from tollgate.broker.repository.indexes import TextTotals
from tollgate.broker.repository.job import (
    PART_BYTES,
    ROUND_BYTES,
    TEXT_FIELDS,
    Slot,
    job_text_bytes,
    parts_bytes,
    rounds_bytes,
    text_bytes,
)
from tollgate.domain.commands import (
    Annotate,
    Command,
    Create,
    Hold,
    ProvideInput,
    Release,
    RequestStop,
    Settle,
    Touch,
    Transition,
)
from tollgate.domain.exceptions import TooLargeError

KIB: Final = 1_024
MIB: Final = 1_024 * KIB
MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS
SPAN_MS_MAX: Final = 36_500 * DAY_MS
"""A hundred years: a time plus such a span is still a valid time."""
NUMBER_MAX: Final = 2**53 - 1
"""`hello` tells limits, and clients in other languages read no larger whole numbers."""
MESSAGE_BYTES_MAX: Final = 1_024 * MIB
BATCH_MESSAGES: Final = 256
"""Messages of a batch."""
BATCH_BYTES: Final = 4 * KIB
"""Bytes after which a batch takes no other message: a large message is a batch of its own."""
BATCH_REPLY_BYTES: Final = 8 * MIB
"""Bytes of replies that end a batch."""


def _limit(description: str, least: int = 0, most: int = NUMBER_MAX) -> Meta:
    """Describe a limit that is a setting too: its help text and its bounds."""
    return Meta(ge=least, le=most, description=description)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds that a command can run into; `hello` tells all of them to every client.

    Bytes are of UTF-8 for texts, and of the frame otherwise.

    Every field with a `_limit` is a setting of the same name, with this default (`Settings`).
    """

    request_bytes: Annotated[int, _limit("bytes of a request", 1_024, MESSAGE_BYTES_MAX)] = (
        256 * KIB
    )
    commands: Annotated[int, _limit("commands in a request", 1, 65_535)] = 1_000
    reply_bytes: Annotated[int, _limit("bytes of a reply", 64 * KIB, MESSAGE_BYTES_MAX)] = 4 * MIB
    text_bytes: Annotated[int, _limit("bytes of a text in a command", 1)] = 64 * KIB
    blockchain_identifier_bytes: Annotated[int, _limit("bytes of that field", 1)] = 8_000
    identifier_from_purchaser_bytes: int = 256
    jobs: Annotated[int, _limit("jobs stored", 1)] = 1_000_000
    stored_bytes: Annotated[
        int, _limit("bytes of the texts of all jobs; above that, no job is created", 1)
    ] = 1_024 * MIB
    parked: Annotated[int, _limit("commands that wait for their answer")] = 10_000
    parked_share: Annotated[int, _limit("of these, commands of one connection")] = 5_000
    watched: int = 1_000_000
    """Jobs that all parked waits together name."""
    pay_within_ms: Annotated[
        int, _limit("time from creation to pay_by_time, unless the creator sets it", 1, SPAN_MS_MAX)
    ] = DAY_MS
    payment_grace_ms: Annotated[
        int, _limit("time from pay_by_time until an unpaid job fails", 0, SPAN_MS_MAX)
    ] = 5 * MINUTE_MS
    """A payment that was locked in time is confirmed later."""
    sessions: Annotated[int, _limit("sessions remembered", 1)] = 100_000
    outcomes: Annotated[
        int, _limit("outcomes of requests remembered, for all sessions", 64_000)
    ] = 1_000_000
    keep_finished_ms: Annotated[int, _limit("time that a finished job is kept", 0, SPAN_MS_MAX)] = (
        7 * DAY_MS
    )
    max_finished: Annotated[int, _limit("finished jobs kept, of any age")] = 500_000
    lapses: Annotated[int, _limit("lapsed leases after which a running job fails", 1)] = 5
    queues: int = 1_000
    """Queues that have jobs or are paused."""
    input_rounds: int = 32
    """Questions that one job may ask."""
    inputs_bytes: int = 256 * KIB
    """Bytes of all questions and answers of one job."""
    meta_bytes: int = 4 * KIB
    progress_bytes: int = KIB
    reason_bytes: int = KIB
    """Bytes of a reason, and of the state that a payment service reports."""


# --- texts of commands ----------------------------------------------------------------------------

_TEXTS: Final[dict[type[Command], tuple[tuple[str, str], ...]]] = {
    Create: (
        ("input", "text_bytes"),
        ("identifier_from_purchaser", "identifier_from_purchaser_bytes"),
        ("blockchain_identifier", "blockchain_identifier_bytes"),
        ("meta", "meta_bytes"),
    ),
    Transition: (
        ("result", "text_bytes"),
        ("error", "text_bytes"),
        ("input_schema", "text_bytes"),
    ),
    ProvideInput: (("input", "text_bytes"),),
    Annotate: (("meta", "meta_bytes"),),
    Hold: (("reason", "reason_bytes"),),
    RequestStop: (("reason", "reason_bytes"),),
    Release: (("reason", "reason_bytes"),),
    Settle: (("reason", "reason_bytes"), ("on_chain_state", "reason_bytes")),
    Touch: (("progress", "progress_bytes"),),
}
"""The texts of each kind of command: the field, and the limit on it."""
_UTF8_BYTES_MAX: Final = 4

_READERS: Final[dict[str, Callable[[Sequence[Any]], list[str | None]]]] = {
    "input": lambda run: [each.input for each in run],
    "identifier_from_purchaser": lambda run: [each.identifier_from_purchaser for each in run],
    "blockchain_identifier": lambda run: [each.blockchain_identifier for each in run],
    "meta": lambda run: [each.meta for each in run],
    "result": lambda run: [each.result for each in run],
    "error": lambda run: [each.error for each in run],
    "input_schema": lambda run: [each.input_schema for each in run],
    "reason": lambda run: [each.reason for each in run],
    "on_chain_state": lambda run: [each.on_chain_state for each in run],
    "progress": lambda run: [each.progress.text if each.progress else None for each in run],
}
"""What reads a text off each command of a run. An `attrgetter` takes twice as long."""

Check = tuple[Callable[[Sequence[Any]], list[str | None]], str, int]
"""A function that reads a text off each command, the text's name, and its limit in bytes."""
Checks = dict[type[Command], list[Check]]


def text_checks(limits: Limits, below_bytes: int | None = None) -> Checks:
    """Return the limits on the texts of each kind of command; only those below `below_bytes`."""
    checks: Checks = {}
    for kind, texts in _TEXTS.items():
        for field, name in texts:
            limit = getattr(limits, name)
            if below_bytes is None or limit < below_bytes:
                checks.setdefault(kind, []).append((_READERS[field], field, limit))
    return checks


def check_texts(commands: Sequence[Command], checks: list[Check], frame_bytes: int) -> None:
    """Raise TooLargeError if a text of a command is over its limit; they came in `frame_bytes`."""
    for texts_of, field, limit in checks:
        if frame_bytes <= limit:
            continue  # and so is every text in the frame
        for text in filter(None, texts_of(commands)):
            if len(text) * _UTF8_BYTES_MAX > limit and text_bytes(text) > limit:
                raise TooLargeError(f"{field} holds more than {limit} bytes", limit=limit)


# --- results --------------------------------------------------------------------------------------

GRANTS_MAX: Final = 1_000
"""How many leases one claim can be granted: TG/1's bound on its `limit`."""
RESULT_BYTES: Final = 1_024
"""More than any result takes without the texts in it: names, times, hash, ids, limits."""
PARTS_ADDED: Final = ROUND_BYTES + PART_BYTES
"""More than a command adds to the parts of a job, without its texts."""


def job_bytes_max(slot: Slot | None) -> int:
    """Return a bound on what a job takes in a page or a grant, without its rounds of input."""
    if slot is None:
        return RESULT_BYTES
    return RESULT_BYTES + job_text_bytes(slot.job) + parts_bytes(slot.job)


def whole_job_bytes_max(slot: Slot | None) -> int:
    """Return a bound on a result that shows the texts of all rounds of input, too."""
    return job_bytes_max(slot) + (0 if slot is None else rounds_bytes(slot.rounds))


def command_text_bytes(command: Command) -> int:
    """Return a bound on what a command can add to the result that shows its job."""
    if isinstance(command, Touch):
        return 0  # its result shows no job
    size = sum(text_bytes(getattr(command, field)) for field, _ in _TEXTS.get(type(command), ()))
    if isinstance(command, Transition):  # a question is also shown as a round of input
        size += text_bytes(command.input_schema)
    elif isinstance(command, ProvideInput):  # and so is its answer
        size += text_bytes(command.input)
    return size + PARTS_ADDED


def result_bytes_with(texts: TextTotals) -> int:
    """Return a bound on a result that shows a job, if no job ever had longer texts than these."""
    return RESULT_BYTES + len(TEXT_FIELDS) * texts.longest_bytes + texts.longest_parts


def result_bytes_max(limits: Limits) -> int:
    """Return a bound on the result of any command about one job."""
    return (
        RESULT_BYTES
        + (len(TEXT_FIELDS) - 3) * limits.text_bytes
        + limits.blockchain_identifier_bytes
        + limits.identifier_from_purchaser_bytes
        + limits.meta_bytes
        + limits.progress_bytes
        + 2 * limits.reason_bytes
        + limits.inputs_bytes
        + (limits.input_rounds + 4) * ROUND_BYTES
    )


CLAIMANTS_SHOWN: Final = 16
"""How many clients that claim such jobs an explanation shows."""


def explained_bytes_max(slot: Slot | None) -> int:
    """Return a bound on what an explanation takes, without the history of the job."""
    return job_bytes_max(slot) + (CLAIMANTS_SHOWN + 8) * RESULT_BYTES


STATS_BYTES: Final = 32 * RESULT_BYTES
"""More than the figures take in a reply without queues and clients."""

# --- what a batch writes --------------------------------------------------------------------------

DUE_MAX: Final = 120
"""How many leases, deadlines or waits of a kind one batch ends: a batch may not take long."""
DUE_BYTES_MAX: Final = 1_024
"""More than ending one of each kind writes: seven events, and what they did to parked claims."""
COMMAND_BYTES_MIN: Final = 12
"""The shortest command, a `count` without a field, takes this much of a frame."""
EVENT_BYTES_MAX: Final = 512
"""More than an event and its outcome take without the texts that came in."""
GRANT_BYTES_MAX: Final = 128
"""More than a granted lease takes, as an event and in an outcome."""
SHOWN_BYTES_MIN: Final = 208
"""Less than a granted lease takes of a reply: its job has at least an id, a hash and times."""
RECORD_BYTES_MAX: Final = 384
"""More than a record takes without its events and outcomes: session, digest, principal, time."""


def batch_records_max(
    limits: Limits,
    *,
    batch_messages: int = BATCH_MESSAGES,
    batch_bytes: int = BATCH_BYTES,
    batch_reply_bytes: int = BATCH_REPLY_BYTES,
    sockets: int = 1,
) -> tuple[int, int]:
    """Return bounds on the records of any batch: bytes and number.

    A batch takes from each socket messages up to `batch_bytes`, and then one more of
    `request_bytes`; it grants leases until its replies have `batch_reply_bytes`, and then one more
    of `reply_bytes`.
    """
    frames = sockets * (batch_bytes + limits.request_bytes)
    commands = batch_messages + sockets * (batch_bytes // COMMAND_BYTES_MIN + limits.commands)
    grants = (batch_reply_bytes + limits.reply_bytes) // SHOWN_BYTES_MIN
    number = RECORDS_MAX + 2  # the last message, and the claims behind it, come on top
    size = (
        DUE_MAX * DUE_BYTES_MAX
        + 2 * frames
        + commands * EVENT_BYTES_MAX
        + grants * GRANT_BYTES_MAX
        + number * RECORD_BYTES_MAX
    )
    return size, number
