"""The request log: what a session remembers, and when it forgets."""

import pytest

from tests.core import ADMIN, EPOCH, HASH, job_id
from tollgate.broker.core.events import JobCreated
from tollgate.broker.core.records import JobOutcome, Record
from tollgate.broker.core.request_log import RECENT_MAX, RequestLog
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
