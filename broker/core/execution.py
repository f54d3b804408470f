"""Decides the commands of a request, and puts its reply together within the room that it has.

A repeat is not decided again: its commands that change something are told their outcome. Its
commands that only read are decided as they are now.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tollgate.broker.core.context import Answer, RequestContext
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.records import (
    JOBS_ALONE,
    AnyOutcome,
    LeasesOutcome,
    RefusedOutcome,
    grants_of,
    outcome_of,
    outcomes_of,
    without_texts,
)
from tollgate.domain.exceptions import NotAuthorizedError, ReplyFullError
from tollgate.domain.messages import (
    REFUSAL_BYTES,
    REPLY_BYTES_MAX,
    Request,
    begin_reply,
    encode_reply,
    encode_result,
    encode_results,
)
from tollgate.domain.results import ErrorResult, LeasesResult, Result

NOTHING_GRANTED: Final = LeasesOutcome([])
"""A claim without a grant has changed nothing: a repeat of it is decided like any claim."""


class Execution(msgspec.Struct, frozen=True, gc=False):
    """What the commands of a request came to: the frame of the reply, and what is remembered."""

    frame: bytes
    outcomes: list[int | AnyOutcome] = []
    """What a repeat is told of the commands that change something."""
    is_kept: bool = False
    """Whether it is written down even if no event happened."""
    refused: Sequence[str] = ()
    """The codes of the refusals among the results."""
    grants: Sequence[tuple[str, int]] = ()
    """Job and token of each lease granted."""


def execute(engine: Engine, request: Request, context: RequestContext) -> Execution:
    """Decide the commands of a new request in order, until the reply is full."""
    commands, events = request.commands, engine.context.events
    is_remembered = request.session > 0 and context.writable
    if is_remembered:
        engine.make_room(request, context.now_ms)
    if not commands:  # it only acknowledges
        requests = engine.context.state.requests
        is_kept = is_remembered and requests.forgets(request.session, request.acked)
        return Execution(encode_reply(request.seq, []), is_kept=is_kept)
    parts: list[bytes] = []
    outcomes: list[int | AnyOutcome] = []
    refused: list[str] = []
    grants: list[tuple[str, int]] = []
    place, left = len(events), len(commands)  # where the run's events begin; commands to decide
    # Each command behind a run takes at least its refusal.
    context.room_bytes -= REPLY_BYTES_MAX + (left - 1) * REFUSAL_BYTES
    for run, results in engine.decide(commands, context):
        left -= len(run)
        if len(run) == len(commands):  # the common case: the whole reply in one call
            part = encode_reply(request.seq, results)
        else:
            parts += [] if parts else [begin_reply(request.seq, len(commands))]
            part = encode_results(results)
            context.room_bytes += len(run) * REFUSAL_BYTES - len(part)
        parts.append(part)
        if is_remembered and run[0].changes:
            outcomes += outcomes_of(results, events, place)
        place = len(events)
        if JOBS_ALONE.issuperset(map(type, results)):  # the common case, at the speed of C
            continue
        refused += _refused(results)
        grants += _granted(results)
        if _is_full(results[-1]):  # and so it is for all commands that are left
            parts += [part] * left
            refused += refused[-1:] * left
            if is_remembered:
                rest = commands[len(commands) - left :]
                outcomes += [outcome_of(results[-1]) for each in rest if each.changes]
            break
    is_kept = is_remembered and any(map(_must_be_told, outcomes))
    return Execution(b"".join(parts), outcomes, is_kept, refused, grants)


def execute_parking(engine: Engine, request: Request, context: RequestContext) -> Answer | None:
    """Decide the only command of a request, which may park; return None if it does."""
    (command,) = request.commands
    if request.session and context.writable and command.changes:
        engine.make_room(request, context.now_ms)
    result = engine.decide_one(command, context)
    return None if result is None else Answer(context.ticket, result)


def execution_of(answer: Answer, *, happened: bool) -> Execution:
    """Return what the command of an answer came to; it stands alone in its request.

    A repeat is told the same only if an event has `happened` by it.
    """
    ticket, results = answer.ticket, [answer.result]
    frame = encode_reply(ticket.seq, results)
    outcomes = [outcome_of(answer.result)] if ticket.session and happened else []
    return Execution(frame, [*outcomes], refused=_refused(results), grants=_granted(results))


def repeat(
    engine: Engine, request: Request, remembered: Sequence[AnyOutcome], context: RequestContext
) -> Execution:
    """Return the reply to a repeat: `remembered` again, and what commands that only read find."""
    commands = request.commands
    head = begin_reply(request.seq, len(commands))
    context.room_bytes -= len(head) + len(commands) * REFUSAL_BYTES  # to each at least its refusal
    changing = [command for command in commands if command.changes]
    again = [
        engine.decide_again(command, outcome, context)
        for command, outcome in zip(changing, remembered, strict=True)
    ]
    # They have the room first: a refusal for lack of room would say that nothing was executed.
    told = _encode_within(context.room_bytes, again)
    context.room_bytes += sum(REFUSAL_BYTES - len(part) for part in told)
    parts, told_parts = [head], iter(told)
    for command in commands:
        if command.changes:
            parts.append(next(told_parts))
            continue
        context.room_bytes += REFUSAL_BYTES
        parts.append(part := encode_result(engine.decide_one(command, context)))
        context.room_bytes -= len(part)
    return Execution(b"".join(parts))


def _encode_within(room_bytes: int, results: Sequence[Any]) -> list[bytes]:
    """Return results encoded; without the texts of jobs if those have grown too large."""
    parts = [*map(encode_result, results)]
    if sum(map(len, parts)) <= room_bytes:
        return parts
    return [encode_result(without_texts(result)) for result in results]


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
    """Return whether a repeat must be told this outcome; other commands are decided again."""
    if isinstance(outcome, RefusedOutcome):
        return outcome.code != NotAuthorizedError.code
    return outcome != NOTHING_GRANTED
