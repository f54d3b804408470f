"""Strategies for commands of every kind, about few jobs, queues and leases, so that they meet."""

from datetime import timedelta
from typing import Any, get_args

from hypothesis import strategies as st

from tests.core import EPOCH, HASH, job_id
from tollgate.broker.core.roles import Role
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Events,
    Explain,
    Get,
    Hello,
    History,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    Stats,
    StopWaiting,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.results import Progress
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

ids = st.sampled_from([1, 1, 2, 3, 4, 5, 101]).map(job_id)
texts = st.sampled_from([None, "", "x", "é" * 30, "y" * 200])
rarely = st.sampled_from([False, False, True])
versions = st.sampled_from([None, None, None, 1, 2, 3])
tokens = st.integers(1, 4)
queues = st.sampled_from([None, None, "a", "b", "c"])
names = st.sampled_from(["default", "a", "b", "c"])
delays = st.sampled_from([None, None, 0, 15, 60])
times = st.sampled_from([None, None, EPOCH, EPOCH + timedelta(milliseconds=50)])
later = st.sampled_from([None, None, EPOCH + timedelta(days=1)])
states = st.sampled_from(SettlementState)
creates = st.builds(
    Create,
    input_hash=st.just(HASH),
    job_id=st.integers(101, 103).map(job_id) | st.none(),  # none that the broker will make
    input=texts,
    identifier_from_purchaser=st.sampled_from([None, None, "p", "q" * 20]),
    blockchain_identifier=st.sampled_from([None, None, None, "pay", "pay2", "z" * 40]),
    pay_by_time=st.sampled_from([None, EPOCH]),
    submit_result_time=later,
    queue=queues,
    priority=st.sampled_from([0, 0, 0, 1, 9]),
    not_before=times,
    meta=texts,
    traceparent=st.sampled_from([None, None, f"00-{'a' * 32}-{'b' * 16}-01"]),
    settle=rarely,
)
gets = st.builds(Get, job_id=ids, lease=rarely) | st.builds(
    Get, blockchain_identifier=st.sampled_from(["pay", "pay2", "nothing"]), lease=rarely
)


@st.composite
def transitions(draw: Any) -> Transition:
    target = draw(st.sampled_from(JobStatus))
    lease = draw(st.sampled_from([None, None, None, 1, 2]))
    version = draw(versions)
    fields: dict[str, Any] = {}
    match target:
        case JobStatus.COMPLETED:
            fields["result"] = draw(texts)
        case JobStatus.FAILED:
            fields["error"] = draw(texts)
        case JobStatus.AWAITING_INPUT:
            fields["input_schema"] = draw(texts)
            fields["keep_lease"] = lease is not None and draw(st.booleans())
        case _:
            pass
    fields["force"] = lease is None and version is not None and draw(rarely)
    return Transition(
        job_id=draw(ids), target=target, expected_version=version, lease=lease, **fields
    )


releases = st.builds(Release, job_id=ids, lease=tokens, delay_ms=delays, reason=texts, hold=rarely)
progress = st.builds(
    Progress, st.sampled_from(["", "half", "é" * 30]), st.sampled_from([None, 0.5])
)
touches = st.builds(
    Touch, job_id=ids, lease=tokens, lease_ms=st.just(30), progress=st.none() | progress
)
claims = st.builds(
    Claim,
    status=st.sampled_from(
        [JobStatus.AWAITING_PAYMENT, JobStatus.RUNNING, JobStatus.AWAITING_INPUT]
    ),
    lease_ms=st.just(50),
    wait_ms=st.just(0),
    limit=st.integers(1, 3),
    queues=st.sampled_from([None, ["*"], ["*"], ["b", "a"]]),
) | st.builds(
    Claim,
    settlement=st.sampled_from([SettlementState.WANTED, SettlementState.SUBMITTED]),
    lease_ms=st.just(50),
    wait_ms=st.just(0),
    limit=st.integers(1, 3),
)
named_claims = st.builds(
    Claim,
    status=st.just(JobStatus.RUNNING),
    lease_ms=st.just(50),
    wait_ms=st.just(0),
    limit=st.integers(1, 3),
    job_ids=st.lists(ids, min_size=1, max_size=3),
)
inputs = st.builds(
    ProvideInput,
    job_id=ids,
    input=st.sampled_from(["", "x", "y" * 100]),
    expected_version=st.integers(1, 5),
    input_hash=st.none() | st.just(HASH),
)
settles = st.builds(
    Settle,
    job_id=ids,
    lease=st.sampled_from([None, None, 1, 2]),
    to=st.none() | states,
    result_hash=st.sampled_from([None, HASH]),
    on_chain_state=st.sampled_from([None, "FundsLocked"]),
    reason=texts,
    retry_after_ms=delays,
)
lists = st.builds(
    List,
    limit=st.integers(1, 4),
    status=st.none() | st.sampled_from(JobStatus),
    after=st.sampled_from([None, None, "0", "2"]),
    queue=queues,
    newest=st.booleans(),
    lease=rarely,
)

OF_EACH_KIND: dict[type[Any], st.SearchStrategy[Any]] = {
    Hello: st.just(Hello(client="tests")),
    Create: creates,
    Get: gets,
    Transition: transitions(),
    ProvideInput: inputs,
    Cancel: st.builds(Cancel, job_id=ids, expected_version=versions),
    Count: st.builds(Count, queue=queues) | st.builds(Count, settlement=states),
    List: lists | st.builds(List, limit=st.just(9), settlement=states),
    Wait: st.nothing(),  # it stands alone in its message
    Claim: claims | named_claims,
    Touch: touches,
    Release: releases,
    Hold: st.builds(Hold, job_id=ids, reason=texts, expected_version=versions),
    Resume: st.builds(Resume, job_id=ids, expected_version=versions),
    RequestStop: st.builds(RequestStop, job_id=ids, reason=texts, expected_version=versions),
    Annotate: st.builds(Annotate, job_id=ids, meta=texts, expected_version=versions),
    Settle: settles,
    PauseQueue: st.builds(PauseQueue, queue=names),
    ResumeQueue: st.builds(ResumeQueue, queue=names),
    Events: st.builds(Events, limit=st.integers(1, 4), texts=rarely),
    History: st.builds(History, job_id=ids),
    Stats: st.builds(Stats, queue=st.none() | st.sampled_from(["default", "a", "nowhere"])),
    Explain: st.builds(Explain, job_id=ids),
    StopWaiting: st.builds(StopWaiting, seqs=st.lists(st.integers(1, 4), min_size=1, max_size=2)),
}
assert set(OF_EACH_KIND) == set(get_args(AnyCommand))

LONG_RUNS = (creates, gets, transitions(), touches, releases)
"""Of the kinds that are decided in runs."""
several = st.one_of(
    *[st.lists(each, min_size=1, max_size=8) for each in LONG_RUNS],
    *[st.lists(each, max_size=3) for each in OF_EACH_KIND.values() if not each.is_empty],
)
messages = st.lists(several, max_size=5).map(
    lambda parts: [each for part in parts for each in part]
)
"""Several commands of one kind, then several of another one, and so on."""
role_sets = st.sampled_from([{Role.ADMIN}] * 5 + [{Role.WORKER, Role.PAYMENTS}, {Role.OBSERVER}])
