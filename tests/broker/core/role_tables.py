"""What each role may do, said a second time, in the words of docs/protocol.md; and commands to try.

The tables are not made from those of the broker: a test compares the two.
"""

from itertools import combinations

from tests.core import AWAITING_INPUT, AWAITING_PAYMENT, COMPLETED, FAILED, HASH, RUNNING, move
from tollgate.broker.core.roles import Role
from tollgate.client.sync import Client
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
from tollgate.domain.messages import Reply, Request, decode_answer, encode_request
from tollgate.domain.results import AnyResult, ErrorResult
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

PENDING, WANTED, SUBMITTED, CONFIRMED, REFUSED, MANUAL, CLOSED = SettlementState
Roles = frozenset[Role]

READS = {
    "hello", "get", "count", "list", "wait", "history", "events", "stop_waiting", "stats", "explain"
}  # fmt: skip
PRODUCES = {"create", "provide_input", "cancel", "annotate", "request_stop"}
CLAIMS = {"claim", "touch", "release", "transition"}
ALLOWED: dict[Role, set[str]] = {
    Role.OBSERVER: READS,
    Role.PRODUCER: READS | PRODUCES,
    Role.WORKER: READS | CLAIMS | {"hold", "resume"},
    Role.PAYMENTS: READS | CLAIMS | {"settle", "request_stop"},
    Role.ADMIN: READS
    | PRODUCES
    | CLAIMS
    | {"hold", "resume", "settle", "pause_queue", "resume_queue"},
}
CLAIMED: dict[Role, set[JobStatus | SettlementState]] = {
    Role.OBSERVER: set(),
    Role.PRODUCER: set(),
    Role.WORKER: {RUNNING, AWAITING_INPUT},
    Role.PAYMENTS: {AWAITING_PAYMENT, WANTED, SUBMITTED},
    Role.ADMIN: {RUNNING, AWAITING_INPUT, AWAITING_PAYMENT, WANTED, SUBMITTED},
}
"""What it may claim; and jobs in these statuses are what it may move."""
SETTLED = {(WANTED, SUBMITTED), (WANTED, REFUSED), (WANTED, MANUAL)} | {
    (SUBMITTED, CONFIRMED),
    (SUBMITTED, REFUSED),
    (SUBMITTED, MANUAL),
    (MANUAL, WANTED),
}
"""The moves of a settlement that `settle` can make. The last one is for an admin."""
SETS: list[Roles] = [frozenset(some) for count in (0, 1, 2) for some in combinations(Role, count)]


def allowed(roles: Roles) -> set[str]:
    return set[str]().union(*(ALLOWED[role] for role in roles))


def claimed(roles: Roles) -> set[JobStatus | SettlementState]:
    return set[JobStatus | SettlementState]().union(*(CLAIMED[role] for role in roles))


def command_named(name: str, job: str) -> AnyCommand:
    commands: dict[str, AnyCommand] = {
        "hello": Hello(),
        "create": Create(input_hash=HASH),
        "get": Get(job_id=job),
        "transition": Transition(job_id=job, target=COMPLETED),
        "provide_input": ProvideInput(job_id=job, input="x", expected_version=1),
        "cancel": Cancel(job_id=job),
        "count": Count(),
        "list": List(limit=1),
        "wait": Wait(job_ids=[job], timeout_ms=0),
        "claim": Claim(status=RUNNING, lease_ms=9, wait_ms=0, limit=1),
        "touch": Touch(job_id=job, lease=1, lease_ms=9),
        "release": Release(job_id=job, lease=1),
        "hold": Hold(job_id=job),
        "resume": Resume(job_id=job),
        "request_stop": RequestStop(job_id=job),
        "annotate": Annotate(job_id=job, meta="x"),
        "settle": Settle(job_id=job, on_chain_state="x"),
        "pause_queue": PauseQueue(queue="q"),
        "resume_queue": ResumeQueue(queue="q"),
        "history": History(job_id=job),
        "events": Events(job_ids=[job]),
        "stop_waiting": StopWaiting(seqs=[1]),
        "stats": Stats(),
        "explain": Explain(job_id=job),
    }
    return commands[name]


def command_for(name: str, job: str, unpaid: str, roles: Roles) -> AnyCommand:
    """Return a command of a kind; a claim or a move is one that the roles allow, if any is."""
    if RUNNING not in claimed(roles) and AWAITING_PAYMENT in claimed(roles):
        if name == "claim":
            return Claim(status=AWAITING_PAYMENT, lease_ms=9, wait_ms=0, limit=1)
        return command_named(name, unpaid)
    return command_named(name, job)


def code_of(result: AnyResult) -> str | None:
    return result.code if isinstance(result, ErrorResult) else None


def expected_of_move(roles: Roles, source: JobStatus, target: JobStatus) -> str | None:
    """Return the code that a move is refused with, None for one that is made."""
    if "transition" not in allowed(roles):
        return "not_authorized"
    is_final = source in {COMPLETED, FAILED}
    if not is_final and source not in claimed(roles):
        return "not_authorized"
    return None if target in LEGAL_TRANSITIONS[source] else "illegal_transition"


def sample(roles: Roles, jobs: dict[JobStatus, str]) -> list[tuple[AnyCommand, bool]]:
    """Return commands for a peer over a socket, each with whether it is authorized.

    `jobs` has one in each status that is not final. No move is legal, so they stay there until the
    other commands come.
    """
    unpaid, running = jobs[AWAITING_PAYMENT], jobs[RUNNING]
    tried: list[tuple[AnyCommand, bool]] = [
        (move(job, source), expected_of_move(roles, source, source) != "not_authorized")
        for source, job in jobs.items()
    ]
    force = move(running, RUNNING, force=True, expected_version=2)
    tried.append((force, Role.ADMIN in roles))
    for state in CLAIMED[Role.ADMIN]:
        claim = Claim(
            lease_ms=9, wait_ms=0, limit=1, job_ids=["none"],
            status=state if isinstance(state, JobStatus) else None,
            settlement=state if isinstance(state, SettlementState) else None,
        )  # fmt: skip
        tried.append((claim, state in claimed(roles)))
    kinds = sorted(ALLOWED[Role.ADMIN])
    return tried + [
        (command_for(name, running, unpaid, roles), name in allowed(roles)) for name in kinds
    ]


def framed(command: AnyCommand) -> bytes:
    """Return a request with one command."""
    return encode_request(Request(1, 0, 1, 0, [command]))


def is_refused(answer: bytes) -> bool:
    """Return whether the only command of a request was not authorized."""
    reply = decode_answer(answer)
    assert isinstance(reply, Reply)
    return code_of(reply.results[0]) == "not_authorized"


def new_jobs(client: Client) -> dict[JobStatus, str]:
    """Create a job in each status that is not final, and return their ids."""
    paths = {
        AWAITING_PAYMENT: [],
        RUNNING: [RUNNING],
        AWAITING_INPUT: [RUNNING, AWAITING_INPUT],
    }
    jobs = {}
    for status, path in paths.items():
        job = client.create(HASH)
        for target in path:
            job = client.transition(job.job_id, target)
        jobs[status] = job.job_id
    return jobs
