"""Feeds frames to the decoders and to a complete core, and checks answers against TG/1."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta

from tests.broker.core.restarts import live_chunks, replayed_chunks
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

MILLISECOND = timedelta(milliseconds=1)
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
        driver.wall += MILLISECOND
        waiting = driver.engine.context.waiters.parked
        parked = len(waiting)
        answers = [answer for _, answer in driver.run(Arrival(PEER, [frame], ADMIN))]
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
    """Check that all counts agree with the stored jobs, and that a replay makes the same state."""
    state = driver.engine.context.state
    jobs, stored = state.jobs, [slot.job for slot in state.jobs.slots()]
    for status in JobStatus:
        if jobs.count(status) != sum(job.status is status for job in stored):
            raise AssertionError(f"{status} is counted wrongly")
    for name, queue in jobs.queues.by_name.items():
        here = [job for job in stored if job.queue == name]
        settled = Counter(job.settlement.state for job in here if job.settlement)
        if +Counter(queue.counts) != Counter(job.status for job in here):
            raise AssertionError(f"the jobs of {name} are counted wrongly")
        if +Counter(queue.settled) != settled:
            raise AssertionError(f"the settlements of {name} are counted wrongly")
    if {job.queue for job in stored} - jobs.queues.by_name.keys():
        raise AssertionError("a queue with jobs is not alive")
    if jobs.leased != sum(slot.lease is not None for slot in jobs.slots()):
        raise AssertionError("the leases are counted wrongly")
    state.at = max([record.at for record in driver.records if record.at], default=state.at)
    if driver.records and live_chunks(driver) != replayed_chunks(driver.records):
        raise AssertionError("a replay makes another state")
