"""Feeds frames to the decoders and to a complete core, and checks answers against TG/1."""

from collections import Counter
from collections.abc import Iterable

from tests.core import ADMIN, PEER, Driver
from tollgate.broker.core.batch import Arrival
from tollgate.domain.exceptions import MalformedError, UnsupportedVersionError
from tollgate.domain.messages import (
    Refused,
    Reply,
    decode_answer,
    decode_request,
    encode_request,
    read_envelope,
)
from tollgate.domain.status import JobStatus

ANEW = 20_000
"""Number of frames for one core. Most faults appear early, so a new core follows."""


def feed(frames: Iterable[bytes]) -> Counter[str]:
    """Feed frames, and return how often each answer came. Raises on any fault."""
    seen: Counter[str] = Counter()
    driver = Driver(jobs=500, sessions=2, parked=50)
    for number, frame in enumerate(frames):
        if number % ANEW == ANEW - 1:
            _audit(driver)
            driver = Driver(jobs=500, sessions=2, parked=50)
        _decode(frame)
        driver.mono_ms += 1
        waiting = driver.engine.context.waiters.parked
        parked = len(waiting)
        outcome = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
        answers = [decode_answer(reply.frame) for reply in outcome.replies]
        if not answers:
            if len(waiting) < parked and number % ANEW:
                raise AssertionError(f"not answered: {frame.hex()}")
            seen["parked"] += 1
        for answer in answers:
            if isinstance(answer, Refused):
                seen[answer.error.code] += 1
            else:
                seen["answered"] += 1
                if any(getattr(result, "code", "") == "internal" for result in answer.results):
                    raise AssertionError(f"internal error: {frame.hex()}: {answer.results}")
    _audit(driver)
    return seen


def _decode(frame: bytes) -> None:
    """Decode a frame as a request and as an answer, and check the round trip."""
    read_envelope(frame)
    try:
        request = decode_request(frame)
    except (MalformedError, UnsupportedVersionError):
        pass
    else:
        if decode_request(encode_request(request)) != request:
            raise AssertionError(f"the round trip changed it: {frame.hex()}")
    try:
        answer = decode_answer(frame)
    except MalformedError:
        return
    if not isinstance(answer, Reply | Refused):
        raise TypeError(type(answer))


def _audit(driver: Driver) -> None:
    """Check that the status indexes agree with the stored jobs."""
    jobs = driver.engine.context.state.jobs
    stored = [slot.job for slot in jobs.slots()]
    for status in JobStatus:
        if jobs.count(status) != sum(job.status is status for job in stored):
            raise AssertionError(f"{status} is counted wrongly")
