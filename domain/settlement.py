"""The state machine of a settlement: how the result of a paid job gets on chain."""

from enum import StrEnum
from typing import Final

from tollgate.domain.exceptions import InvalidStateTransitionError


class SettlementState(StrEnum):
    """The states of a settlement. A job without one has nothing to settle."""

    PENDING = "pending"
    WANTED = "wanted"
    SUBMITTED = "submitted"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    MANUAL = "manual"
    CLOSED = "closed"


LEGAL_SETTLEMENTS: Final[dict[SettlementState, frozenset[SettlementState]]] = {
    SettlementState.PENDING: frozenset({SettlementState.WANTED, SettlementState.CLOSED}),
    SettlementState.WANTED: frozenset(
        {SettlementState.SUBMITTED, SettlementState.REFUSED, SettlementState.MANUAL}
    ),
    SettlementState.SUBMITTED: frozenset(
        {SettlementState.CONFIRMED, SettlementState.REFUSED, SettlementState.MANUAL}
    ),
    SettlementState.MANUAL: frozenset({SettlementState.WANTED}),
    SettlementState.CONFIRMED: frozenset(),
    SettlementState.REFUSED: frozenset(),
    SettlementState.CLOSED: frozenset(),
}
"""The job itself makes the moves from `pending`; every other one is made by `settle`."""

OPEN: Final = frozenset(state for state, targets in LEGAL_SETTLEMENTS.items() if targets)
"""A job counts as finished when its settlement has left these."""
CLAIMABLE: Final = frozenset({SettlementState.WANTED, SettlementState.SUBMITTED})
"""The states in which a settlement has work that a claim can get."""


def validate_settlement(current: SettlementState, target: SettlementState) -> None:
    """Raise InvalidStateTransitionError unless a settlement may go from `current` to `target`."""
    legal = LEGAL_SETTLEMENTS[current]
    if target not in legal:
        raise InvalidStateTransitionError(
            current.value, target.value, allowed=sorted(state.value for state in legal)
        )
