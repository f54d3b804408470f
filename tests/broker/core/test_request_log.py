"""The request log: what a session remembers, and when it forgets."""

import pytest

from tests.core import ADMIN, EPOCH, HASH, job_id
from tollgate.broker.core.events import JobCreated
from tollgate.broker.core.records import JobOutcome, Record, RefusedOutcome
from tollgate.broker.core.request_log import FREED_MAX, HEAVY, RECENT_MAX, RequestLog
from tollgate.domain.exceptions import (
    OverloadedError,
    RequestConflictError,
    SessionEvictedError,
    StaleRequestError,
)
from tollgate.domain.messages import WINDOW
from tollgate.domain.status import AWAITING_PAYMENT

SESSION = 1
DIGEST = b"d" * 16


def opened(*sessions: int) -> RequestLog:
    log = RequestLog()
    for number in sessions or (SESSION,):
        log.open(number, ADMIN.name)
    return log


def created(seq: int, *, acked: int = 0, session: int = SESSION) -> Record:
    """Return the record of a request that created one job."""
    event = JobCreated(job_id(seq), EPOCH, HASH)
    return Record([event], session, seq, acked, DIGEST, [0], ADMIN.name)


def test_a_repeat_recalls_the_outcomes_of_the_first_time() -> None:
    log = opened()
    assert log.recall(SESSION, 1, 0, DIGEST, ADMIN) is None
    log.remember(created(1))
    outcome = JobOutcome(job_id(1), 1, AWAITING_PAYMENT, EPOCH)
    assert log.recall(SESSION, 1, 0, DIGEST, ADMIN) == [outcome]
    with pytest.raises(RequestConflictError):
        log.recall(SESSION, 1, 0, b"other", ADMIN)


def test_an_acknowledged_request_is_stale() -> None:
    log = opened()
    log.remember(created(1))
    log.remember(created(3, acked=2))
    for seq in (0, 1, 2):
        with pytest.raises(StaleRequestError):
            log.recall(SESSION, seq, 0, DIGEST, ADMIN)
    with pytest.raises(StaleRequestError):
        log.recall(SESSION, 3, 3, DIGEST, ADMIN)  # acknowledges itself
    assert log.recall(SESSION, 3, 0, DIGEST, ADMIN) is not None


def refused(seq: int, outcomes: int, *, acked: int = 0) -> Record:
    """Return the record of a request whose commands were all refused."""
    return Record([], SESSION, seq, acked, DIGEST, [RefusedOutcome("job_not_found")] * outcomes)


@pytest.mark.parametrize("are_recent", [True, False])
def test_many_outcomes_are_freed_in_pieces(are_recent: bool) -> None:
    log = opened()
    heavy = FREED_MAX // 4 + 1
    for seq in range(1, WINDOW):
        log.remember(refused(seq, heavy))
        assert are_recent or log.recall(SESSION, seq, 0, DIGEST, ADMIN)  # writes them out
    log.remember(refused(WINDOW, 1, acked=WINDOW - 1))
    assert log.outcomes == 1
    left = WINDOW - 1
    while left:
        assert len(log.forgotten) == left
        log.free_some()
        left = max(0, left - 4)
    assert not log.forgotten


def test_the_outcomes_of_an_evicted_session_are_freed_in_pieces() -> None:
    log = opened()
    log.remember(refused(1, FREED_MAX))
    log.remember(refused(2, HEAVY))
    log.remember(refused(3, FREED_MAX))
    log.evict(SESSION)
    assert log.outcomes == 0
    assert [size for _, size in log.forgotten] == [FREED_MAX, FREED_MAX]


def test_a_request_beyond_the_window_is_refused() -> None:
    log = opened()
    assert log.recall(SESSION, WINDOW, 0, DIGEST, ADMIN) is None
    with pytest.raises(OverloadedError) as caught:
        log.recall(SESSION, WINDOW + 1, 0, DIGEST, ADMIN)
    assert caught.value.limit == WINDOW
    assert log.recall(SESSION, WINDOW + 1, 1, DIGEST, ADMIN) is None


def test_acknowledged_outcomes_are_forgotten() -> None:
    log = opened()
    for seq in range(1, 10 * RECENT_MAX):
        log.remember(created(seq, acked=seq - 1))
        assert log.outcomes == 1
    ((_, session),) = log.sessions()
    assert list(session.outcomes) == [10 * RECENT_MAX - 1]
    assert not log.forgets(SESSION, 10 * RECENT_MAX - 2)
    assert log.forgets(SESSION, 10 * RECENT_MAX - 1)


def test_few_requests_are_kept_as_records() -> None:
    log = opened()
    for seq in range(1, 3 * RECENT_MAX):
        log.remember(created(seq))
        assert len(log._recent) <= RECENT_MAX
    assert log.outcomes == 3 * RECENT_MAX - 1


def test_a_request_is_remembered_once() -> None:
    log = opened()
    log.remember(created(1))
    with pytest.raises(RequestConflictError):
        log.remember(created(1))


def test_a_session_number_is_given_once() -> None:
    log = opened(1, 2)
    log.evict(2)
    for number in (1, 2):
        with pytest.raises(SessionEvictedError):
            log.open(number, ADMIN.name)
    with pytest.raises(SessionEvictedError):
        log.recall(2, 1, 0, DIGEST, ADMIN)
    with pytest.raises(SessionEvictedError):
        log.evict(2)


def test_the_least_recently_used_session_is_evicted_first() -> None:
    log = opened(1, 2, 3)
    log.remember(created(1, session=1))
    assert log.most_sessions() == log.most_outcomes() == 2
    assert log.most_sessions(but=2) == 3
    assert opened(1).most_sessions(but=1) is None
