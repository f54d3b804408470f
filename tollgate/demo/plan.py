"""Plans a demonstration: which jobs, from which example inputs, at which pace."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import msgspec

from tollgate.domain.hashing import input_hash

INPUTS: Final = "inputs.jsonl"
WORKERS: Final = 2
CREATING_S: Final = 7.0
"""How long jobs are created; few jobs take less."""
JOBS_A_SECOND_MIN: Final = 20.0
PAY_WITHIN_S: Final = 3.5
PAYMENT_GRACE_MS: Final = 1_000
"""Time from `pay_by_time` until an unpaid job fails, short enough to be seen."""
TIME_LIMIT_S: Final = 28.0
"""The demonstration ends after this time, even if some jobs have not ended."""

LOG_OPTIONS: Final = ("--log-format", "console")
"""The last line of a process that fails is shown to a person."""
BROKER_OPTIONS: Final = (
    *("--in-memory", "--payment-grace-ms", str(PAYMENT_GRACE_MS)),
    *LOG_OPTIONS,
)
WORKER_OPTIONS: Final = (
    "--simulate-payments",
    *("--refused-share", "0.08", "--never-share", "0.05"),
    *("--pay-delay-ms-min", "300", "--pay-delay-ms-max", "2200"),
    *("--work-delay-ms", "300", "--concurrency", "16", "--lease-ms", "5000"),
    *LOG_OPTIONS,
)


class StartJob(msgspec.Struct, frozen=True):
    """What a purchaser sends to start a job, as MIP-003 defines it."""

    identifier_from_purchaser: str
    input_data: Any

    @property
    def text(self) -> str:
        """The input as a job carries it: JSON."""
        return msgspec.json.encode(self.input_data).decode()

    @property
    def hash(self) -> str:
        """The input's MIP-004 hash."""
        return input_hash(self.identifier_from_purchaser, self.input_data)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job to create `due_s` after the start, with an id that is known before."""

    job_id: str
    start_job: StartJob
    due_s: float


def load_inputs() -> list[StartJob]:
    """Return all example inputs: those of the installation, or in a checkout those of `examples/`.

    Raises FileNotFoundError if there are none.
    """
    place: Traversable = files("tollgate.demo") / INPUTS
    if not place.is_file():
        place = Path(__file__).parents[2] / "examples" / INPUTS
    return msgspec.json.Decoder(StartJob).decode_lines(place.read_bytes())


def plan_jobs(start_jobs: Sequence[StartJob], jobs: int | None, seed: int) -> list[PlannedJob]:
    """Return `jobs` jobs at an even pace: by default one for each input; more repeat the inputs.

    The ids are drawn from the seed, and the result of a payment is a function of the worker's seed
    and the id. So each run refuses the same jobs and leaves the same ones unpaid.
    """
    jobs = len(start_jobs) if jobs is None else jobs
    draw = Random(seed)  # noqa: S311 - to be repeated, not to be secret
    jobs_a_second = max(jobs / CREATING_S, JOBS_A_SECOND_MIN)
    return [
        PlannedJob(str(UUID(int=draw.getrandbits(128), version=4)), start_job, n / jobs_a_second)
        for n, start_job in enumerate(islice(cycle(start_jobs), jobs))
    ]
