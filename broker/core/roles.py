"""Roles and principals: what a peer may do, and who it has proved to be.

A principal has a set of roles; its rights are the union. The tables here are the only place that
says which role may send a command, make a move of a job or a settlement, or claim.
"""

from enum import StrEnum
from functools import cache
from typing import Final

import msgspec

from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Command,
    Count,
    Create,
    Events,
    Explain,
    Get,
    Hello,
    History,
    Hold,
    List,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    Settle,
    Stats,
    StopWaiting,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.settlement import CLAIMABLE, LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    LEGAL_TRANSITIONS,
    RUNNING,
    JobStatus,
)


class Role(StrEnum):
    """A role. A peer without one may do nothing."""

    OBSERVER = "observer"
    PRODUCER = "producer"
    WORKER = "worker"
    PAYMENTS = "payments"
    ADMIN = "admin"


Move = tuple[JobStatus, JobStatus]
SettlementMove = tuple[SettlementState, SettlementState]
Claimed = JobStatus | SettlementState


class Rights(msgspec.Struct, frozen=True):
    """What a set of roles allows: commands, moves of jobs and settlements, and claims by state."""

    commands: frozenset[type[Command]] = frozenset()
    moves: frozenset[Move] = frozenset()
    settles: frozenset[SettlementMove] = frozenset()
    claims: frozenset[Claimed] = frozenset()
    force: bool = False
    """Whether a transition may end the lease of another."""


def _moves_from(*sources: JobStatus) -> frozenset[Move]:
    """Return all moves from these statuses, illegal ones included: the state machine judges."""
    return frozenset((source, target) for source in sources for target in JobStatus)


def _settles(*sources: SettlementState) -> frozenset[SettlementMove]:
    return frozenset((source, target) for source in sources for target in SettlementState)


_READS: Final = frozenset[type[Command]](
    {Hello, Get, Count, List, Wait, History, Events, StopWaiting, Stats, Explain}
)
_WORKED_ON: Final = frozenset({RUNNING, AWAITING_INPUT})

RIGHTS: Final[dict[Role, Rights]] = {
    Role.OBSERVER: Rights(_READS),
    Role.PRODUCER: Rights(_READS | {Create, ProvideInput, Cancel, Annotate, RequestStop}),
    Role.WORKER: Rights(
        _READS | {Claim, Touch, Release, Hold, Resume, Transition},
        moves=_moves_from(*_WORKED_ON) | _moves_from(JobStatus.COMPLETED, JobStatus.FAILED),
        claims=frozenset[Claimed](_WORKED_ON),
    ),
    Role.PAYMENTS: Rights(
        _READS | {Claim, Touch, Release, Transition, Settle, RequestStop},
        moves=_moves_from(AWAITING_PAYMENT) | _moves_from(JobStatus.COMPLETED, JobStatus.FAILED),
        settles=_settles(*set(SettlementState) - {SettlementState.MANUAL}),
        claims=frozenset[Claimed]({AWAITING_PAYMENT, *CLAIMABLE}),
    ),
    Role.ADMIN: Rights(
        frozenset(AnyCommand.__args__),
        moves=_moves_from(*LEGAL_TRANSITIONS),
        settles=_settles(*LEGAL_SETTLEMENTS),
        claims=frozenset[Claimed]({*_WORKED_ON, AWAITING_PAYMENT, *CLAIMABLE}),
        force=True,
    ),
}
"""What each role allows. A move out of a final state is everybody's: it is illegal anyway."""


@cache
def rights_of(roles: frozenset[Role]) -> Rights:
    """Return what a set of roles allows: the union of what each allows."""
    given = [RIGHTS[role] for role in roles]
    return Rights(
        frozenset().union(*[each.commands for each in given]),
        frozenset().union(*[each.moves for each in given]),
        frozenset().union(*[each.settles for each in given]),
        frozenset().union(*[each.claims for each in given]),
        any(each.force for each in given),
    )


def roles_for(command: type[Command]) -> list[Role]:
    """Return the roles that may send a command."""
    return [role for role in Role if command in RIGHTS[role].commands]


class Principal(msgspec.Struct, frozen=True):
    """Who a peer is, proved by the kernel (`uid:1000`) or by its key (`key:alice`), and its roles.

    The journal keeps the name with everything that the principal changes.
    """

    name: str
    roles: frozenset[Role] = frozenset()
    key: str = ""
    """The public key that it was proved by, of those that the principal has."""
    rights: Rights = Rights()
    """What the roles allow; it follows from them."""

    def __post_init__(self) -> None:
        """Look the rights up once, for all messages."""
        msgspec.structs.force_setattr(self, "rights", rights_of(self.roles))

    @property
    def roles_text(self) -> str:
        """The roles in one text, in the order of `Role`."""
        return ",".join(role for role in Role if role in self.roles) or "none"


NOBODY: Final = Principal("nobody")
"""A peer that has proved nothing."""
