"""Checks whether a concurrent history is linearizable: a Wing-Gong-Lowe search, job by job.

An operation with an answer took effect once, between call and answer. One without an answer took
effect at any time after its call, or never.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

State = tuple[Any, ...]
Model = Callable[[State, str, Any], tuple[Any, State]]
"""Maps a state, an action and its argument to the outcome and the next state."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a client. Without an answer, `ended` is infinite and `outcome` is None."""

    called: float
    ended: float
    action: str
    argument: Any = None
    outcome: Any = None

    @property
    def is_known(self) -> bool:
        return self.ended < inf

    @property
    def is_read(self) -> bool:
        """Whether an operation with this outcome changes no state: a `get`, or a refusal.

        To put a job on hold that is on hold already is none: it may belong behind a `resume`.
        """
        return self.action == "get" or self.outcome[0] != "job"


def is_linearizable(history: Iterable[Operation], initial: State, model: Model) -> bool:
    """Return whether some order that respects the times gives every known outcome."""
    operations = sorted(history, key=lambda operation: operation.called)
    to_place = sum(1 << place for place, each in enumerate(operations) if each.is_known)
    seen = {(0, initial)}
    stack: list[tuple[int, State]] = [(0, initial)]
    while stack:
        placed, state = stack.pop()
        if placed & to_place == to_place:
            return True
        for step in _steps(operations, placed, state, model):
            if step not in seen:
                seen.add(step)
                stack.append(step)
    return False


def _steps(
    operations: Sequence[Operation], placed: int, state: State, model: Model
) -> list[tuple[int, State]]:
    """Return the search states after one more operation."""
    steps = []
    for place in _next(operations, placed):
        operation = operations[place]
        outcome, then = model(state, operation.action, operation.argument)
        step = (placed | 1 << place, then)
        if not operation.is_known:
            if then != state:  # without effect, it need not be placed
                steps.append(step)
        elif outcome == operation.outcome:
            if then == state and operation.is_read:  # so placing it now is always right
                return [step]
            steps.append(step)
    return steps


def _next(operations: Sequence[Operation], placed: int) -> list[int]:
    """Return the operations that may come next: those called before the first pending answer."""
    candidates, first_end = [], inf
    for place, operation in enumerate(operations):
        if operation.called > first_end:
            break
        if not placed >> place & 1:
            candidates.append(place)
            first_end = min(first_end, operation.ended)
    return candidates


LEGAL = {
    ("awaiting_payment", "running"),
    ("awaiting_payment", "failed"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "awaiting_input"),
    ("awaiting_input", "running"),
    ("awaiting_input", "failed"),
}
CREATED: State = ("awaiting_payment", 1)


def job_model(state: State, action: str, argument: Any) -> tuple[Any, State]:
    """Model of one job: status and version, changed by `transition` and `cancel`, read by `get`.

    Outcomes are ("job", status, version), or (code, status, version) with the job as it is.
    """
    status, version = state
    if action == "get":
        return ("job", status, version), state
    if action == "cancel":
        target, expected_version = "failed", argument
        legal = status == "awaiting_payment"
    else:
        target, expected_version = argument
        legal = (status, target) in LEGAL
    if expected_version not in (None, version):
        return ("version_conflict", status, version), state
    if not legal:
        return ("illegal_transition", status, version), state
    return ("job", target, version + 1), (target, version + 1)
