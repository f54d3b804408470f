"""What a request is answered that was answered before, as far as it changed something."""

from collections.abc import Sequence

from tollgate.broker.core.context import Turn
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.outcomes import AnyOutcome, without_texts
from tollgate.domain.messages import REFUSAL_BYTES, Request, begin_reply, encode_result
from tollgate.domain.results import Result


def repeat(engine: Engine, request: Request, remembered: Sequence[AnyOutcome], turn: Turn) -> bytes:
    """Return the reply that tells `remembered` again, and what commands that only read find now."""
    commands = request.commands
    head = begin_reply(request.seq, len(commands))
    turn.room_bytes -= len(head) + len(commands) * REFUSAL_BYTES  # to each at least its refusal
    changing = [command for command in commands if command.changes]
    again = [
        engine.decide_again(command, outcome, turn)
        for command, outcome in zip(changing, remembered, strict=True)
    ]
    # Their room comes first: to say of what was executed that it did not fit would be a lie.
    told = _encode_within(turn.room_bytes, again)
    turn.room_bytes += sum(REFUSAL_BYTES - len(part) for part in told)
    parts, told_parts = [head], iter(told)
    for command in commands:
        if command.changes:
            parts.append(next(told_parts))
            continue
        turn.room_bytes += REFUSAL_BYTES
        ((_, (result,)),) = engine.decide([command], turn)
        parts.append(part := encode_result(result))
        turn.room_bytes -= len(part)
    return b"".join(parts)


def _encode_within(room_bytes: int, results: Sequence[Result]) -> list[bytes]:
    """Return the shares of results; without the texts of jobs if those have grown too large."""
    parts = [*map(encode_result, results)]
    if sum(map(len, parts)) <= room_bytes:
        return parts
    return [encode_result(without_texts(result)) for result in results]
