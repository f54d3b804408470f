"""How one outcome reaches the broker: once, however often it has to be said."""

import logging
from typing import Any

from tollgate.client.aio import AsyncBatch, AsyncClient
from tollgate.domain.exceptions import Refusal, TollgateError, TooLargeError
from tollgate.domain.models import Job
from tollgate.worker.lease import Held
from tollgate.worker.outcome import Outcome
from tollgate.worker.retry import Link, Pauses, is_passing, one_line

log = logging.getLogger("tollgate.worker")


async def settle(
    client: AsyncClient,
    held: Held,
    outcome: Outcome,
    link: Link,
    answer: TollgateError | None = None,
) -> Job | None:
    """Move a held job to its outcome; return it as it is then, or None if it was not this worker's.

    While the broker does not answer, this goes on trying: the version and the lease that go with
    the transition make sure that a second one is refused. An answer that never came is not taken
    for a no: the job itself is asked whether it has moved. If the outcome was said before, begin
    with the `answer` to that.
    """
    held.is_settling = True
    pauses = Pauses()
    is_in_doubt = False
    while True:
        try:
            if answer is not None:
                raise answer
            if is_in_doubt:
                job = await client.get(held.job.job_id)
                if job.version != held.job.version:
                    return _if_ours(job, held, outcome)
            return await _say(client, held, outcome)
        except TooLargeError as refusal:
            answer = None
            outcome = outcome.shortened(refusal)
            continue
        except TollgateError as fault:
            answer = None
            if not is_passing(fault):
                log.warning(
                    "job %s: %s refused (%s)", held.job.job_id, outcome.target, one_line(fault)
                )
                return None
            is_in_doubt = is_in_doubt or not isinstance(fault, Refusal)
            link.lost(fault)
        await pauses.wait()


async def _say(client: AsyncClient, held: Held, outcome: Outcome) -> Job:
    job: Job = await transition(client, held, outcome)
    return job


def transition(to: AsyncClient | AsyncBatch, held: Held, outcome: Outcome) -> Any:  # noqa: ANN401
    """Return what `to` makes of the transition that says the outcome of a held job."""
    return to.transition(
        held.job.job_id,
        outcome.target,
        result=outcome.result,
        error=outcome.error,
        expected_version=held.job.version,
        lease=held.token,
    )


def _if_ours(job: Job, held: Held, outcome: Outcome) -> Job | None:
    said = (outcome.target, outcome.result, outcome.error)
    if job.version == held.job.version + 1 and (job.status, job.result, job.error) == said:
        return job
    log.warning(
        "job %s: moved on to %s (version %d) while the answer to %s was missing",
        job.job_id, job.status, job.version, outcome.target,
    )  # fmt: skip
    return None
