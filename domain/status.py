"""The state machine of a job: its statuses, and the function that checks every transition."""

from enum import StrEnum
from typing import Final

from tollgate.domain.exceptions import InvalidStateTransitionError


class JobStatus(StrEnum):
    """The five job statuses of MIP-003."""

    AWAITING_PAYMENT = "awaiting_payment"
    AWAITING_INPUT = "awaiting_input"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


# Module constants: up to Python 3.11, looking up a member of an enum takes several calls.
AWAITING_PAYMENT: Final = JobStatus.AWAITING_PAYMENT
AWAITING_INPUT: Final = JobStatus.AWAITING_INPUT
RUNNING: Final = JobStatus.RUNNING
COMPLETED: Final = JobStatus.COMPLETED
FAILED: Final = JobStatus.FAILED

LEGAL_TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.AWAITING_PAYMENT: frozenset({JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.AWAITING_INPUT: frozenset({JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.AWAITING_INPUT}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
}

TERMINAL: Final = frozenset(status for status, targets in LEGAL_TRANSITIONS.items() if not targets)


def validate_transition(current: JobStatus, target: JobStatus) -> None:
    """Raise InvalidStateTransitionError unless a job may go from `current` to `target`."""
    legal = LEGAL_TRANSITIONS[current]
    if target not in legal:
        raise InvalidStateTransitionError(
            current.value, target.value, allowed=sorted(status.value for status in legal)
        )
