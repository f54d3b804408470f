"""Sums a demonstration up: what became of each job, how long it took, and whether hashes match."""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from rich.console import Group
from rich.text import Text

from tollgate.demo.progress import Progress, percentile, reason, seconds_taken
from tollgate.domain.hashing import input_hash, output_hash
from tollgate.domain.models import Job
from tollgate.domain.status import TERMINAL, JobStatus
from tollgate.terminal.text import counted, milliseconds

PERCENTS: Final = (50, 90, 99)
_NAMES = (("creation to end", "creation_to_end_ms"), ("the broker's answer", "round_trip_ms"))
_LABEL_WIDTH = 21


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
    """A hash over all ids, statuses and output hashes: the same for the same jobs and seed."""


class Summary(msgspec.Struct, frozen=True):
    """The results of a demonstration. A name ends in the unit of its times."""

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
    """Number of failed jobs by reason, the most frequent first."""
    creation_to_end_ms: dict[str, float]
    round_trip_ms: dict[str, float]
    """Percentiles of the time to an answer of the broker, over every creation and count."""
    hashes: Hashes


def sum_up(ids: Sequence[str], stored: Iterable[Job], progress: Progress) -> Summary:
    """Sum up the jobs with these ids, as the broker stores them at the end."""
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
    """Return whether the hash matches the input and purchaser that the broker returned."""
    data: Any = msgspec.json.decode(job.input or "null")
    return input_hash(job.identifier_from_purchaser or "", data) == job.input_hash


def _output_hash(job: Job) -> str:
    return output_hash(job.identifier_from_purchaser or "", job.result or "")


def report(summary: Summary) -> Group:
    """Return the summary as lines of at most 80 cells."""
    return Group(
        _headline(summary),
        Text(),
        *_outcomes(summary),
        Text(),
        *_latencies(summary),
        Text(),
        *_hashes(summary),
        Text(),
    )


def _line(label: str, value: Text | str, style: str = "") -> Text:
    return Text.assemble("  ", (f"{label:{_LABEL_WIDTH}}", style or "dim"), value)


def _headline(summary: Summary) -> Text:
    if summary.ok:
        words = f"  All jobs ended: {summary.jobs:,} in {summary.elapsed_s:.1f} s."
        return Text(words, style="bold")
    wrong = []
    if summary.not_ended:
        wrong.append(f"{summary.not_ended:,} of {counted(summary.jobs, 'job')} did not end")
    if summary.hashes.wrong:
        wrong.append(f"the hash of {counted(len(summary.hashes.wrong), 'job')} is wrong")
    return Text(f"  {' and '.join(wrong)}, after {summary.elapsed_s:.1f} s.", style="bold red")


def _outcomes(summary: Summary) -> list[Text]:
    lines = [_line("completed", f"{summary.completed:>6,}", "green")]
    lines.append(_line("failed", f"{summary.failed:>6,}", "red"))
    lines += [
        _line("", Text(f"{number:>6,}  {reason}", style="dim", no_wrap=True))
        for reason, number in summary.failures.items()
    ]
    return lines


def _latencies(summary: Summary) -> list[Text]:
    header = "".join(f"{percent:>10}" for percent in summary.round_trip_ms)
    lines = [_line("", Text(header, style="dim"))]
    for label, name in _NAMES:
        values = getattr(summary, name).values()
        lines.append(_line(label, "".join(f"{milliseconds(value):>10}" for value in values)))
    return lines


def _hashes(summary: Summary) -> list[Text]:
    hashes = summary.hashes
    verdict = Text(f"{hashes.right:,} of {hashes.checked:,} right, computed again from the jobs")
    verdict.stylize("red" if hashes.wrong else "green", 0, len(f"{hashes.right:,}"))
    lines = [_line("input hashes", verdict)]
    lines += [_line("", f"wrong: {job_id}") for job_id in hashes.wrong[:3]]
    if hashes.sample:
        sample = hashes.sample
        lines.append(_line("for example, job", sample.job_id))
        lines.append(_line("  its input", _short(sample.input_hash)))
        lines.append(_line("  its output", _short(sample.output_hash)))
    same = f"{_short(hashes.fingerprint)}, the same for seed {summary.seed}"
    lines.append(_line("of all results", same))
    return lines


def _short(digest: str) -> str:
    return f"{digest[:16]}…{digest[-8:]}"
