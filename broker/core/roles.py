"""Roles and principals: what a peer may do, and who it has proved to be."""

from enum import StrEnum
from typing import Final, NamedTuple

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
    """A role. A peer without one may do nothing."""

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
"""The commands that each role may send; None is a peer without a role."""


def roles_for(command: type[Command]) -> list[Role]:
    """Return the roles that may send a command."""
    return [role for role in Role if command in MAY[role]]


class Principal(NamedTuple):
    """Who a peer is, proved by the kernel (`uid:1000`) or by its key (`key:alice`), and its role.

    The journal keeps the name with everything that the principal changes.
    """

    name: str
    role: Role | None


NOBODY: Final = Principal("nobody", None)
"""A peer that has proved nothing."""
