"""What stands before each handler: who may ask, how large texts are, whether there is room."""

from collections.abc import Sequence
from typing import Any, Final

from tollgate.broker.core.context import Desk, Handler, Handlers, Turn
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.roles import MAY, Role, roles_for
from tollgate.broker.core.sizes import (
    RESULT_BYTES,
    Check,
    check_texts,
    command_bytes,
    job_bytes_max,
    text_checks,
)
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.commands import Claim, Command, Get, List
from tollgate.domain.exceptions import (
    JobNotFoundError,
    NotAuthorizedError,
    ReplyFullError,
    StorageFullError,
)
from tollgate.domain.results import error_of

FIT_TO_ROOM: Final = frozenset[type[Command]]({Claim, List})
"""The commands that give as many jobs as there is room for in the reply."""


class Gates:
    """The handlers as the commands of a message find them, each behind what it has to pass.

    What has to be passed is known before the first command is looked at: one that may pass all of
    it costs one look-up in a table.
    """

    def __init__(self, limits: Limits, handlers: Handlers) -> None:
        self._handlers = handlers
        self._checks = text_checks(limits)
        self._checks_of_short = text_checks(limits, below_bytes=limits.text_bytes)
        """What is left of them in a message that is no longer than most of its texts may be."""
        self._tables: dict[tuple[Role | None, bool, bool], tuple[Handlers, Handlers]] = {}

    def tables(self, role: Role | None, is_long: bool, writable: bool) -> tuple[Handlers, Handlers]:  # noqa: FBT001 - the key of a table
        """Return a handler for every kind of command in a message from a `role`.

        In a long one texts may be too long; not `writable`, nothing may change. The second ones are
        for where a result might not fit in the reply.
        """
        key = (role, is_long, writable)
        tables = self._tables.get(key)
        if tables is None:
            tables = self._build(*key, tight=False), self._build(*key, tight=True)
            self._tables[key] = tables
        return tables

    def _build(self, role: Role | None, is_long: bool, writable: bool, *, tight: bool) -> Handlers:  # noqa: FBT001 - the same
        checks = self._checks if is_long else self._checks_of_short
        table: Handlers = {}
        for kind, handler in self._handlers.items():
            if kind not in MAY[role]:
                table[kind] = not_authorized
                continue
            behind = handler
            if not writable and kind.changes:
                behind = _storage_full
            elif tight:
                behind = _where_it_fits(handler)
            table[kind] = _checked(behind, checks[kind]) if kind in checks else behind
        return table


def not_authorized(_: Desk, commands: Sequence[Command], turn: Turn) -> list[Any]:
    """Refuse what the one who asks may not ask."""
    kind, role = type(commands[0]), turn.ticket.principal.role
    refusal = NotAuthorizedError(
        f"{kind.__struct_config__.tag} takes the role {' or '.join(roles_for(kind))};"
        f" this peer has {role or 'none'}"
    )
    return [error_of(refusal)] * len(commands)


def _storage_full(_: Desk, commands: Sequence[Command], __: Turn) -> list[Any]:
    refusal = StorageFullError("the disk has no room for what this command would change")
    return [error_of(refusal)] * len(commands)


def _checked(handler: Handler, checks: list[Check]) -> Handler:
    """Let a command through whose texts are no longer than they may be."""
    texts_of = [text_of for text_of, _, _ in checks]

    def checked(desk: Desk, commands: Sequence[Command], turn: Turn) -> list[Any]:
        for text_of in texts_of:
            if any(map(text_of, commands)):
                for command in commands:
                    check_texts(command, checks)
                break
        return handler(desk, commands, turn)

    return checked


def _where_it_fits(handler: Handler) -> Handler:
    """Let a command through whose result fits in the reply, while it has not been executed."""

    def fitting(desk: Desk, commands: Sequence[Command], turn: Turn) -> list[Any]:
        (command,) = commands  # where it is tight, no run has more
        if _result_bytes_max(desk, command) > turn.room_bytes:
            raise ReplyFullError("the result would not fit in this reply")
        return handler(desk, commands, turn)

    return fitting


def _result_bytes_max(desk: Desk, command: Command) -> int:
    if type(command) in FIT_TO_ROOM:
        return RESULT_BYTES
    job = _job_of(desk, command)
    return (job_bytes_max(job) if job else RESULT_BYTES) + command_bytes(command)


def _job_of(desk: Desk, command: Command) -> StoredJob | None:
    jobs = desk.state.jobs
    try:
        if isinstance(command, Get) and command.blockchain_identifier is not None:
            return jobs.get_by_payment(command.blockchain_identifier)
    except JobNotFoundError:
        return None
    job_id = getattr(command, "job_id", None)
    return jobs.find(job_id) if job_id else None
