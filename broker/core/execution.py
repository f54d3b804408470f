"""Decides the commands of a message, and puts its reply together within the room that it has."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tollgate.broker.core.context import Answer, Turn
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.outcomes import (
    JOBS_ALONE,
    AnyOutcome,
    LeasesOutcome,
    RefusedOutcome,
    grants_of,
    outcome_of,
    outcomes_of,
)
from tollgate.domain.exceptions import NotAuthorizedError, ReplyFullError
from tollgate.domain.messages import (
    REFUSAL_BYTES,
    REPLY_BYTES_MAX,
    Request,
    begin_reply,
    encode_reply,
    encode_results,
)
from tollgate.domain.results import ErrorResult, LeasesResult, Result

NOTHING_GRANTED: Final = LeasesOutcome([])
"""A claim that got nothing has changed nothing: a repeat of it is a claim like any other."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What the commands of a message came to: the frame of its reply, and what else it leaves."""

    frame: bytes
    outcomes: list[int | AnyOutcome] = []
    """What a repeat is to be told of the commands that change something."""
    is_kept: bool = False
    """Whether it is to be written down even if nothing has happened."""
    refused: Sequence[str] = ()
    """The codes of the refusals among the results."""
    grants: Sequence[tuple[str, int]] = ()
    """Job and token of each lease granted."""


def execute(engine: Engine, request: Request, turn: Turn) -> Verdict:
    """Decide the commands of a new request in order, until the reply is full."""
    commands, events = request.commands, engine.events
    is_remembered = request.session > 0 and turn.writable
    if is_remembered:
        engine.make_room(request, turn.now_ms)
    if not commands:  # it only acknowledges
        is_kept = turn.writable and engine.forgets(request)
        return Verdict(encode_reply(request.seq, []), is_kept=is_kept)
    parts: list[bytes] = []
    outcomes: list[int | AnyOutcome] = []
    refused: list[str] = []
    grants: list[tuple[str, int]] = []
    place, left = len(events), len(commands)  # where the run's events begin, and what is behind it
    # The commands behind each are to be refused at least.
    turn.room_bytes -= REPLY_BYTES_MAX + (left - 1) * REFUSAL_BYTES
    for run, results in engine.decide(commands, turn):
        left -= len(run)
        if len(run) == len(commands):  # as most often: all of the reply in one go
            part = encode_reply(request.seq, results)
        else:
            parts += [] if parts else [begin_reply(request.seq, len(commands))]
            part = encode_results(results)
            turn.room_bytes += len(run) * REFUSAL_BYTES - len(part)
        parts.append(part)
        if is_remembered and run[0].changes:
            outcomes += outcomes_of(results, events, place)
        place = len(events)
        if JOBS_ALONE.issuperset(map(type, results)):  # the common case, at the speed of C
            continue
        refused += _refused(results)
        grants += _granted(results)
        if _is_full(results[-1]):  # and so it is for all that are left
            parts += [part] * left
            refused += refused[-1:] * left
            if is_remembered:
                rest = commands[len(commands) - left :]
                outcomes += [outcome_of(results[-1]) for each in rest if each.changes]
            break
    is_kept = is_remembered and any(map(_must_be_told, outcomes))
    return Verdict(b"".join(parts), outcomes, is_kept, refused, grants)


def execute_parking(engine: Engine, request: Request, turn: Turn) -> Answer | None:
    """Decide the one command of a message that may be parked; return None if it is."""
    (command,) = request.commands
    if request.session and turn.writable and command.changes:
        engine.make_room(request, turn.now_ms)
    ((_, (result,)),) = engine.decide([command], turn)
    return None if result is None else Answer(turn.ticket, result)


def verdict_of(answer: Answer, *, happened: bool) -> Verdict:
    """Return what a command came to that may be parked, and so stands alone in its message.

    A repeat is told the same only if anything has `happened` by it.
    """
    ticket, results = answer.ticket, [answer.result]
    frame = encode_reply(ticket.seq, results)
    outcomes = [outcome_of(answer.result)] if ticket.session and happened else []
    return Verdict(frame, [*outcomes], refused=_refused(results), grants=_granted(results))


def _refused(results: Sequence[Result]) -> list[str]:
    return [result.code for result in results if isinstance(result, ErrorResult)]


def _granted(results: Sequence[Result]) -> list[tuple[str, int]]:
    return [
        grant
        for result in results
        if isinstance(result, LeasesResult)
        for grant in grants_of(result)
    ]


def _is_full(result: Result) -> bool:
    return isinstance(result, ErrorResult) and result.code == ReplyFullError.code


def _must_be_told(outcome: int | AnyOutcome) -> bool:
    """Return whether a repeat must be told this outcome: it is not decided anew, as others are."""
    if isinstance(outcome, RefusedOutcome):
        return outcome.code != NotAuthorizedError.code
    return outcome != NOTHING_GRANTED
