"""A record of the journal: the events of one message, and the outcomes that a repeat is told.

An outcome is enough to build a result again. It is not the result: a job that has not changed since
is read from the job itself.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from tollgate.broker.core.events import AnyEvent, JobCreated, JobTransitioned
from tollgate.broker.repository.job import PlainStoredJob, Slot, StoredJob, grant, job_result
from tollgate.domain.exceptions import REFUSALS, JobNotFoundError, Refusal
from tollgate.domain.results import (
    ErrorResult,
    InputRound,
    JobResult,
    LeasesResult,
    OkResult,
    Result,
    Settlement,
    error_of,
)
from tollgate.domain.status import TERMINAL, JobStatus

JOBS_ALONE: Final = frozenset({JobResult})
"""The only kind of result in most messages."""


class Outcome(msgspec.Struct, tag_field="o", array_like=True, gc=False):
    """The base of all outcomes."""


class JobOutcome(Outcome, tag=1):
    """A job, as it was then."""

    job_id: str
    version: int
    status: JobStatus
    at: datetime


class LeasesOutcome(Outcome, tag=2):
    """Jobs and the tokens granted on them."""

    leases: list[tuple[str, int]]


class DoneOutcome(Outcome, tag=3):
    """Done, with nothing to tell."""


class RefusedOutcome(Outcome, tag=4):
    """A refusal: its code and its details."""

    code: str
    job_id: str | None = None
    status: str | None = None
    target: str | None = None
    version: int | None = None
    limit: int | None = None


AnyOutcome = JobOutcome | LeasesOutcome | DoneOutcome | RefusedOutcome


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The events of a message, its identity, and the outcomes of its commands, refusals included.

    `session` is 0 if nothing is remembered. `digest` tells the commands from others. An outcome
    that is a number stands for the job that the event at that place created or moved: one byte for
    the most common one. `by` is the principal that sent the message, "" for the broker itself, and
    `client` the name of its program. `at` is None in a record of format 1.
    """

    events: list[AnyEvent]
    session: int = 0
    seq: int = 0
    acked: int = 0
    digest: bytes = b""
    outcomes: list[int | AnyOutcome] = []
    by: str = ""
    at: datetime | None = None
    client: str = ""

    def check(self) -> None:
        """Raise what `full_outcomes` would raise; that is called later, or never."""
        is_plain = _MOVES.issuperset(map(type, self.events))
        if not is_plain or self.outcomes != [*range(len(self.events))]:
            self.full_outcomes()

    def full_outcomes(self) -> list[AnyOutcome]:
        """Return the outcomes, those given by a place written out.

        Raises AttributeError or IndexError for a place without an event that creates or moves a
        job.
        """
        events: list[Any] = self.events
        return [
            JobOutcome((event := events[outcome]).job_id, event.version + 1, event.target, event.at)
            if isinstance(outcome, int)
            else outcome
            for outcome in self.outcomes
        ]


_MOVES: Final = frozenset({JobCreated, JobTransitioned})
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_records(records: Sequence[Record]) -> list[bytes]:
    """Return the payloads of records."""
    return [*map(_encoder.encode, records)]


def decode_record(payload: bytes | memoryview) -> Record:
    """Read a record's payload. Raises msgspec.ValidationError or DecodeError."""
    return _decoder.decode(payload)


def weight(outcomes: Sequence[int | AnyOutcome]) -> int:
    """Return how much outcomes take up: each counts as one, and each lease in it as one more."""
    if LeasesOutcome not in set(map(type, outcomes)):  # the common case, at the speed of C
        return len(outcomes)
    leases = sum(len(each.leases) for each in outcomes if isinstance(each, LeasesOutcome))
    return len(outcomes) + leases


def outcome_of(result: Result) -> AnyOutcome:
    """Return what is remembered of a result."""
    if type(result) is JobResult:
        job = result.job
        return JobOutcome(job.job_id, job.version, job.status, job.updated_at)
    if type(result) is ErrorResult:
        return RefusedOutcome(
            result.code, result.job_id, result.status, result.target, result.version, result.limit
        )
    if type(result) is LeasesResult:
        return LeasesOutcome(grants_of(result))
    return DoneOutcome()


def outcomes_of(
    results: Sequence[Result], events: Sequence[AnyEvent], place: int, kinds: set[type[Result]]
) -> Sequence[int | AnyOutcome]:
    """Return what is remembered of a run's results: the place of its event if a result has one.

    The events of the run are `events` from `place` on, in the order of the results, which are of
    these `kinds`.
    """
    if JobResult not in kinds:
        return [*map(outcome_of, results)]
    end = len(events)
    if kinds == JOBS_ALONE and end - place == len(results) and type(events[place]) in _MOVES:
        return range(place, end)
    outcomes: list[int | AnyOutcome] = []
    for result in results:
        event: Any = events[place] if place < end else None
        if (
            type(result) is JobResult
            and type(event) in _MOVES
            and event.job_id == result.job.job_id
        ):
            outcomes.append(place)
            place += 1
        else:
            outcomes.append(outcome_of(result))
    return outcomes


def grants_of(result: LeasesResult) -> list[tuple[str, int]]:
    """Return job and token of each lease granted."""
    return [(grant.job.job_id, grant.lease) for grant in result.leases]


def result_again(outcome: AnyOutcome, find: Callable[[str], Slot | None]) -> Result:
    """Build the result of a command again from its outcome.

    `find` returns a job as it is now. Of the leases of a claim, only those that still stand are
    shown again.
    """
    if type(outcome) is JobOutcome:
        slot = find(outcome.job_id)
        if slot is None:  # removed since
            return error_of(JobNotFoundError(outcome.job_id))
        return job_result(_as_it_was(outcome, slot.whole()))
    if type(outcome) is LeasesOutcome:
        return LeasesResult(
            [
                grant(slot.job, token)
                for job_id, token in outcome.leases
                if (slot := find(job_id)) and slot.lease and slot.lease.token == token
            ]
        )
    if type(outcome) is RefusedOutcome:
        refusal = REFUSALS[outcome.code]
        details = {name: getattr(outcome, name) for name in _REFUSED_DETAILS}
        return error_of(refusal.rebuilt(_said_again(refusal), details))
    return OkResult()


def without_texts(result: Result) -> Result:
    """Return the result with jobs that show none of their texts: the shortest that it can be."""
    if type(result) is JobResult:
        rounds = result.job.inputs
        inputs = rounds and tuple(InputRound(each.version, hash=each.hash) for each in rounds)
        return JobResult(_bare(result.job, inputs))
    if type(result) is LeasesResult:
        return LeasesResult([grant(_bare(each.job), each.lease) for each in result.leases])
    return result


def _bare(job: Any, inputs: tuple[InputRound, ...] | None = None) -> Any:  # noqa: ANN401 - the struct of a job, of either kind
    """Return a job without texts. `inputs` are its rounds of input then: a grant shows none."""
    bare = msgspec.structs.replace(
        job, input=None, result=None, error=None, input_schema=None, provided_input=None
    )
    if isinstance(job, PlainStoredJob):
        return bare
    bare.meta = bare.progress = None
    bare.inputs, bare.settlement = inputs, _bare_settlement(job.settlement)
    return bare


def _bare_settlement(settlement: Settlement | None) -> Settlement | None:
    if settlement is None:
        return None
    return msgspec.structs.replace(settlement, on_chain_state=None, reason=None)


def _as_it_was(outcome: JobOutcome, job: StoredJob) -> StoredJob:
    if job.version == outcome.version:
        return job
    then: dict[str, object] = {
        "version": outcome.version, "status": outcome.status, "updated_at": outcome.at,
    }  # fmt: skip
    if outcome.status not in TERMINAL:
        then |= {"result": None, "error": None}
    if outcome.version <= _BEFORE_INPUT:
        then |= {"input_schema": None, "provided_input": None}
    elif outcome.status is JobStatus.AWAITING_INPUT:
        then |= {"provided_input": None}
    if job.inputs is not None:
        then["inputs"] = _rounds_at(outcome, job.inputs) or None
    return msgspec.structs.replace(job, **then)


def _rounds_at(outcome: JobOutcome, rounds: Sequence[InputRound]) -> tuple[InputRound, ...]:
    """Return the rounds of input that there were, those not answered by then without an answer."""
    return tuple(
        msgspec.structs.replace(each, text=None, hash=None)
        if each.version == outcome.version
        else each
        for each in rounds
        if each.version <= outcome.version
    )


def _said_again(refusal: type[Refusal]) -> str:
    return f"as answered before: {(refusal.__doc__ or '').splitlines()[0]}"


_BEFORE_INPUT: Final = 2
"""Up to this version (created, then running) a job cannot have been asked for input."""
_REFUSED_DETAILS: Final = ("job_id", "status", "target", "version", "limit")
