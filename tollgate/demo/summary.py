"""Sums a demonstration up: what became of each job, in what time, and are its hashes right."""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from tollgate.demo.progress import Progress, percentile, reason, seconds_taken
from tollgate.domain.hashing import input_hash, output_hash
from tollgate.domain.models import Job
from tollgate.domain.status import TERMINAL, JobStatus

PERCENTS: Final = (50, 90, 99)


class Sample(msgspec.Struct, frozen=True):
    """The hashes of one completed job."""

    job_id: str
    input_hash: str
    output_hash: str


class Hashes(msgspec.Struct, frozen=True):
    """The check of the completed jobs' hashes."""

    checked: int
    right: int
    wrong: list[str]
    """The ids of jobs whose `input_hash` is not that of their input."""
    sample: Sample | None
    fingerprint: str
    """A hash over all ids, outcomes and output hashes: the same for the same jobs and seed."""


class Summary(msgspec.Struct, frozen=True):
    """What a demonstration came to. Times in the unit that ends their name."""

    ok: bool
    """All jobs ended, and all hashes are right."""
    jobs: int
    seed: int
    workers: int
    elapsed_s: float
    completed: int
    failed: int
    not_ended: int
    failures: dict[str, int]
    """How many jobs failed for which reason, the most frequent first."""
    creation_to_end_ms: dict[str, float]
    round_trip_ms: dict[str, float]
    """Percentiles of how long the broker took to answer: every creation and count."""
    hashes: Hashes


def sum_up(ids: Sequence[str], stored: Iterable[Job], progress: Progress) -> Summary:
    """Sum up the jobs with these ids, as the broker has them at the end."""
    planned = frozenset(ids)
    jobs = [job for job in stored if job.job_id in planned]
    ended = [job for job in jobs if job.status in TERMINAL]
    completed = [job for job in ended if job.status == JobStatus.COMPLETED]
    hashes = _check(completed, ended)
    failures = Counter(reason(job.error or "") for job in ended if job not in completed)
    return Summary(
        ok=len(ended) == len(ids) and not hashes.wrong,
        jobs=len(ids),
        seed=progress.seed,
        workers=progress.workers,
        elapsed_s=round(progress.elapsed_s, 3),
        completed=len(completed),
        failed=len(ended) - len(completed),
        not_ended=len(ids) - len(ended),
        failures=dict(failures.most_common()),
        creation_to_end_ms=_percentiles([seconds_taken(job) * 1_000 for job in ended]),
        round_trip_ms=_percentiles(progress.round_trips_ms),
        hashes=hashes,
    )


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": round(percentile(values, percent), 3) for percent in PERCENTS}


def _check(completed: Sequence[Job], ended: Sequence[Job]) -> Hashes:
    wrong = [job.job_id for job in completed if not _is_right(job)]
    outputs = {job.job_id: _output_hash(job) for job in completed}
    lines = sorted(f"{job.job_id} {job.status} {outputs.get(job.job_id, '')}" for job in ended)
    first = completed[0] if completed else None
    return Hashes(
        checked=len(completed),
        right=len(completed) - len(wrong),
        wrong=wrong,
        sample=Sample(first.job_id, first.input_hash, outputs[first.job_id]) if first else None,
        fingerprint=sha256("\n".join(lines).encode()).hexdigest(),
    )


def _is_right(job: Job) -> bool:
    """Whether the hash is that of what the broker gave back as the job's input and purchaser."""
    data: Any = msgspec.json.decode(job.input or "null")
    return input_hash(job.identifier_from_purchaser or "", data) == job.input_hash


def _output_hash(job: Job) -> str:
    return output_hash(job.identifier_from_purchaser or "", job.result or "")
