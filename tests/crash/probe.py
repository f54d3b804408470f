"""Looks at a broker that has just been started: all jobs, then every line from first to last."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.crash.client import Client
from tests.crash.summaries import Seen, extras_in
from tests.crash.workload import QUEUES
from tollgate.domain.commands import AnyCommand, Claim, History, List, ResumeQueue
from tollgate.domain.results import AnyResult, ErrorResult, JobsResult, LeasesResult
from tollgate.domain.settlement import CLAIMABLE
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

HOUR_MS: Final = 3_600_000
HISTORIES_MAX: Final = 2_000


def probe(url: str, log: Path) -> tuple[int, datetime]:
    """Write what it sees to a log, and claim all that can be claimed. Return how many jobs,
    and when it began to claim.

    The audit finds the claims in the journal, and compares their order with the one that is due.
    """
    encode, claimed = msgspec.json.encode, 0
    with Client(url) as client, log.open("wb") as file:

        def ask(command: AnyCommand) -> AnyResult:
            results = client.ask(command)
            if results is None or isinstance(results[0], ErrorResult):
                raise AssertionError(f"{command} was answered with {results}")
            file.write(encode(Seen(0, 0, extras_in(results))) + b"\n")
            return results[0]

        job_ids = list[str]()
        after: str | None = "0"
        while after is not None:
            page = ask(List(limit=1_000, after=after, lease=True))
            assert isinstance(page, JobsResult)
            job_ids += [job.job_id for job in page.jobs]
            after = page.next
        for job_id in job_ids[-HISTORIES_MAX:]:
            ask(History(job_id=job_id))
        for queue in QUEUES:
            ask(ResumeQueue(queue=queue))
        began = datetime.now(UTC)
        statuses = [status for status in JobStatus if LEGAL_TRANSITIONS[status]]
        for kind, states in (("status", statuses), ("settlement", sorted(CLAIMABLE))):
            for state in states:
                claim = {kind: state, "lease_ms": HOUR_MS, "wait_ms": 0, "limit": 100}
                more = True
                while more:
                    leases = ask(msgspec.convert(claim | {"queues": ["*"], "type": "claim"}, Claim))
                    assert isinstance(leases, LeasesResult)
                    claimed += len(leases.leases)
                    more = bool(leases.leases)
    return claimed, began
