"""What a peer may do: the four roles, and the commands that each of them takes in."""

from enum import StrEnum
from typing import Final

from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Command,
    Count,
    Create,
    Get,
    Hello,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)


class Role(StrEnum):
    """A role; who has none may do nothing at all."""

    OBSERVER = "observer"
    PRODUCER = "producer"
    WORKER = "worker"
    ADMIN = "admin"


_READS: Final = frozenset[type[Command]]({Hello, Get, Count, List, Wait})

MAY: Final[dict[Role | None, frozenset[type[Command]]]] = {
    None: frozenset(),
    Role.OBSERVER: _READS,
    Role.PRODUCER: _READS | {Create, ProvideInput, Cancel},
    Role.WORKER: _READS | {Claim, Touch, Release, Transition},
    Role.ADMIN: frozenset(AnyCommand.__args__),
}
"""The commands that each role may send; None is nobody's."""


def roles_for(command: type[Command]) -> list[Role]:
    """Return the roles that may send a command."""
    return [role for role in Role if command in MAY[role]]
