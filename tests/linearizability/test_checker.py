"""The checker itself: it finds every planted fault, and accepts every correct history."""

from itertools import combinations, permutations
from math import inf
from random import Random

import pytest

from tests.linearizability.checker import (
    CREATED,
    Operation,
    State,
    is_linearizable,
    job_model,
)
from tests.linearizability.model import NEW, work_model


def check(*history: Operation) -> bool:
    return is_linearizable(history, CREATED, job_model)


def op(called: float, ended: float, action: str, argument: object, *outcome: object) -> Operation:
    return Operation(called, ended, action, argument, outcome or None)


def run(version: int | None = None) -> tuple[str, int | None]:
    return ("running", version)


WON = ("job", "running", 2)
LOST = ("illegal_transition", "running", 2)


def test_correct_histories_are_accepted() -> None:
    assert check()
    assert check(op(0, 1, "get", None, "job", "awaiting_payment", 1))
    assert check(op(0, 1, "transition", run(), *WON), op(2, 3, "get", None, *WON))
    # Concurrent: either order is correct.
    for seen in (WON, ("job", "awaiting_payment", 1)):
        assert check(op(0, 9, "transition", run(), *WON), op(1, 2, "get", None, *seen))
    assert check(op(0, 9, "transition", run(), *LOST), op(1, 8, "transition", run(), *WON))
    # No answer: it took effect, or did not, or did later.
    for seen in (WON, ("job", "awaiting_payment", 1)):
        assert check(op(0, inf, "transition", run()), op(5, 6, "get", None, *seen))
    assert check(
        op(0, inf, "transition", run()),
        op(5, 6, "get", None, "job", "awaiting_payment", 1),
        op(7, 8, "get", None, *WON),
    )


PLANTED = {
    "a stale read": [
        op(0, 1, "transition", run(), *WON),
        op(2, 3, "get", None, "job", "awaiting_payment", 1),
    ],
    "two winners": [
        op(0, 9, "transition", run(1), *WON),
        op(1, 8, "transition", run(1), *WON),
    ],
    "no winner": [
        op(0, 9, "transition", run(), *LOST),
        op(1, 8, "transition", run(), *LOST),
    ],
    "a lost update": [
        op(0, 1, "transition", run(), *WON),
        op(2, 3, "transition", ("completed", None), "job", "completed", 3),
        op(4, 5, "get", None, *WON),
    ],
    "a version that is skipped": [op(0, 1, "transition", run(), "job", "running", 3)],
    "a version that is given twice": [
        op(0, 1, "transition", run(), *WON),
        op(2, 3, "transition", ("awaiting_input", None), "job", "awaiting_input", 2),
    ],
    "an illegal transition": [
        op(0, 1, "transition", ("completed", None), "job", "completed", 2),
    ],
    "a refusal without a reason": [
        op(0, 1, "transition", run(1), "version_conflict", "awaiting_payment", 1),
    ],
    "a read from the future": [
        op(0, 1, "get", None, *WON),
        op(2, 3, "transition", run(), *WON),
    ],
    "a read that goes back": [
        op(0, 9, "transition", run(), *WON),
        op(1, 2, "get", None, *WON),
        op(3, 4, "get", None, "job", "awaiting_payment", 1),
    ],
    "a change without an operation": [op(0, 1, "get", None, *WON)],
    "a change before its call": [
        op(0, 1, "get", None, *WON),
        op(2, inf, "transition", run()),
    ],
    "an unanswered change that happened twice": [
        op(0, inf, "transition", run()),
        op(1, 2, "transition", ("awaiting_input", None), "job", "awaiting_input", 3),
        op(3, 4, "get", None, "job", "running", 4),
    ],
    "a cancelled job that runs": [
        op(0, 1, "cancel", None, "job", "failed", 2),
        op(2, 3, "transition", run(), "job", "running", 3),
    ],
    "a refusal that still took effect": [
        op(0, 1, "transition", run(5), "version_conflict", "awaiting_payment", 1),
        op(2, 3, "get", None, *WON),
    ],
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(name: str) -> None:
    assert not check(*PLANTED[name])


def brute(history: list[Operation]) -> bool:
    """Try every order of every subset of the unanswered operations."""
    known = [each for each in history if each.is_known]
    unknown = [each for each in history if not each.is_known]
    return any(
        fits(order)
        for count in range(len(unknown) + 1)
        for some in combinations(unknown, count)
        for order in permutations([*known, *some])
    )


def fits(order: tuple[Operation, ...]) -> bool:
    state: State = CREATED
    for place, each in enumerate(order):
        if any(later.ended < each.called for later in order[place + 1 :]):
            return False
        outcome, state = job_model(state, each.action, each.argument)
        if each.is_known and outcome != each.outcome:
            return False
    return True


def simulate(random: Random, count: int) -> list[Operation]:
    """Return a correct history: each operation takes effect at a moment between call and end."""
    moments = sorted(random.random() * max(10, count) for _ in range(count))
    state: State = CREATED
    history = []
    for moment in moments:
        action = random.choice(["get", "get", "transition", "transition", "transition", "cancel"])
        version = random.choice([None, None, state[1], state[1] - 1])
        argument: object = None
        if action == "transition":
            targets = ["running", "running", "completed", "awaiting_input", "failed"]
            argument = (random.choice(targets), version)
        elif action == "cancel":
            argument = version
        called, ended = moment - random.random() * 4, moment + random.random() * 4
        if random.random() < 0.15:
            if random.random() < 0.5:  # it took effect without an answer
                _, state = job_model(state, action, argument)
            history.append(Operation(called, inf, action, argument))
            continue
        outcome, state = job_model(state, action, argument)
        history.append(Operation(called, ended, action, argument, outcome))
    return history


def spoiled(random: Random, history: list[Operation]) -> list[Operation]:
    """Return the history with one answer changed."""
    known = [place for place, each in enumerate(history) if each.is_known]
    if not known:
        return history
    place = random.choice(known)
    old = history[place]
    kind, status, version = old.outcome
    outcome = random.choice(
        [
            (kind, status, version + 1),
            (kind, status, version - 1),
            (kind, random.choice(["running", "failed", "completed", "awaiting_input"]), version),
            ("job" if kind != "job" else "illegal_transition", status, version),
        ]
    )
    changed = Operation(old.called, old.ended, old.action, old.argument, outcome)
    return [*history[:place], changed, *history[place + 1 :]]


def test_long_correct_histories_are_accepted() -> None:
    random = Random(1)
    for _ in range(150):
        assert check(*simulate(random, 40))


def test_it_agrees_with_an_exhaustive_search() -> None:
    random = Random(2)
    verdicts = []
    for _ in range(1_500):
        history = simulate(random, random.randint(1, 5))
        assert brute(history)
        assert check(*history)
        wrong = spoiled(random, history)
        verdicts.append(brute(wrong))
        assert check(*wrong) == verdicts[-1]
    assert verdicts.count(False) > 500  # otherwise there was nothing to find


def test_faults_in_long_histories_are_found() -> None:
    """A version that no operation can produce is wrong at any place."""
    random = Random(3)
    for _ in range(100):
        history = simulate(random, 40)
        places = [place for place, each in enumerate(history) if each.is_known]
        place = random.choice(places)
        old = history[place]
        history[place] = Operation(
            old.called, old.ended, old.action, old.argument, (*old.outcome[:2], 99)
        )
        assert not check(*history)


# --- holds, notes, settlements and leases ------------------------------------------------------


def check_work(*history: Operation) -> bool:
    return is_linearizable(history, NEW, work_model)


def job(status: str, version: int, *rest: object) -> tuple[object, ...]:
    on_hold, meta, settlement = rest or (False, None, "pending")
    return ("job", status, version, on_hold, meta, settlement)


PAID = op(0, 1, "transition", ("running", None, None, False, False), *job("running", 2))
CLAIMED = op(2, 3, "claim", ("mine", "running"), "leases", "mine")
ASKED = op(
    4, 5, "transition", ("awaiting_input", None, "mine", True, False), *job("awaiting_input", 3)
)
DONE = [PAID, op(2, 3, "transition", ("completed", None, None, False, False), *job(
    "completed", 3, False, None, "wanted"))]  # fmt: skip


def test_a_hold_beside_a_resume_may_come_second() -> None:
    held = job("awaiting_payment", 1, True, None, "pending")
    assert check_work(
        op(0, 1, "hold", None, *held),
        op(2, 9, "hold", None, *held),
        op(3, 8, "resume", None, *job("awaiting_payment", 1)),
        op(10, 11, "get", None, *held),
    )


def test_a_lease_is_kept_over_a_question() -> None:
    answered = op(6, 7, "provide_input", 3, *job("running", 4))
    done = ("completed", None, "mine", False, False)
    ended = job("completed", 5, False, None, "wanted")
    assert check_work(PAID, CLAIMED, ASKED, answered, op(8, 9, "transition", done, *ended))


PLANTED_WORK = {
    "a hold that is lost": [
        op(0, 1, "hold", None, *job("awaiting_payment", 1, True, None, "pending")),
        op(2, 3, "get", None, *job("awaiting_payment", 1)),
    ],
    "a job on hold is granted": [
        op(0, 1, "hold", None, *job("awaiting_payment", 1, True, None, "pending")),
        op(2, 3, "claim", ("mine", "awaiting_payment"), "leases", "mine"),
    ],
    "a note that is lost": [
        op(0, 1, "annotate", ("new", None), *job("awaiting_payment", 1, False, "new", "pending")),
        op(2, 3, "get", None, *job("awaiting_payment", 1)),
    ],
    "a note that counts as a version": [
        op(0, 1, "annotate", ("new", None), *job("awaiting_payment", 2, False, "new", "pending")),
    ],
    "a settlement that goes back": [
        *DONE,
        op(4, 5, "settle", ("submitted", None), *job("completed", 3, False, None, "submitted")),
        op(6, 7, "get", None, *job("completed", 3, False, None, "wanted")),
    ],
    "a settlement before its job has ended": [
        op(
            0,
            1,
            "settle",
            ("submitted", None),
            *job("awaiting_payment", 1, False, None, "submitted"),
        ),
    ],
    "two holders": [PAID, CLAIMED, op(4, 5, "claim", ("other", "running"), "leases", "other")],
    "a lease that is lost over a question": [
        PAID,
        CLAIMED,
        ASKED,
        op(6, 7, "provide_input", 3, *job("running", 4)),
        op(8, 9, "release", ("mine", False), "lease_lost", "running", 4),
    ],
    "a forced move that leaves the lease": [
        PAID,
        CLAIMED,
        op(
            4,
            5,
            "transition",
            ("failed", 2, None, False, True),
            *job("failed", 3, False, None, "closed"),
        ),
        op(6, 7, "release", ("mine", False), "ok"),
    ],
}


@pytest.mark.parametrize("name", PLANTED_WORK)
def test_planted_faults_of_revision_2_are_found(name: str) -> None:
    history = PLANTED_WORK[name]
    assert check_work(*history[:-1])
    assert not check_work(*history)
