"""Lays down what a demonstration does: which jobs, at which pace, with which fates of payments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Final
from uuid import UUID

from tollgate.demo.inputs import StartJob

WORKERS: Final = 2
CREATING_S: Final = 7.0
"""For how long jobs are created; few jobs take less."""
JOBS_A_SECOND_MIN: Final = 20.0
PAY_WITHIN_S: Final = 3.5
PAYMENT_GRACE_MS: Final = 1_000
"""Never-paid jobs fail so long after `pay_by_time`, while somebody still looks on."""
TIME_LIMIT_S: Final = 28.0
"""The demonstration ends after so long, whatever has become of its jobs."""

BROKER_OPTIONS: Final = ("--in-memory", "--payment-grace-ms", str(PAYMENT_GRACE_MS))
WORKER_OPTIONS: Final = (
    *("--refused-share", "0.08", "--never-share", "0.05"),
    *("--pay-delay-ms-min", "300", "--pay-delay-ms-max", "2200"),
    *("--work-delay-ms", "300", "--concurrency", "16", "--lease-ms", "5000"),
)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job to be created: `due_s` after the start, under an id known beforehand."""

    job_id: str
    start_job: StartJob
    due_s: float


def plan_jobs(start_jobs: Sequence[StartJob], jobs: int | None, seed: int) -> list[PlannedJob]:
    """Return `jobs` jobs at an even pace: by default one an input, of more the inputs repeat.

    Their ids are drawn from the seed, and the fate of a payment is a function of the worker's seed
    and the id: so the same jobs are refused, and the same are never paid, every time.
    """
    jobs = len(start_jobs) if jobs is None else jobs
    draw = Random(seed)  # noqa: S311 - to be repeated, not to be secret
    jobs_a_second = max(jobs / CREATING_S, JOBS_A_SECOND_MIN)
    return [
        PlannedJob(str(UUID(int=draw.getrandbits(128), version=4)), start_job, n / jobs_a_second)
        for n, start_job in enumerate(islice(cycle(start_jobs), jobs))
    ]
