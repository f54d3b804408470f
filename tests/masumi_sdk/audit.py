"""What the log of the handlers, the broker and the payment service say about a run. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

RANKS: Final = {
    "awaiting_payment": 0, "running": 1, "awaiting_input": 1, "completed": 2, "failed": 2,
}  # fmt: skip
"""A job never goes back to a lower one."""


class Span(msgspec.Struct):
    """When a call of the handler was seen at work."""

    run: str
    first: float
    last: float


def spans_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Span]]:
    """Return the calls of the handler for each job, in the order of their begin."""
    spans: dict[str, dict[str, Span]] = {}
    for line in lines:
        runs = spans.setdefault(line["job"], {})
        span = runs.setdefault(line["run"], Span(line["run"], line["at"], line["at"]))
        span.last = max(span.last, line["at"])
    return {job: sorted(runs.values(), key=lambda span: span.first) for job, runs in spans.items()}


def overlaps(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the jobs of which two calls were at work at the same time."""
    found = []
    for job, spans in spans_of(lines).items():
        latest = spans[0]
        for span in spans[1:]:
            if span.first < latest.last:
                found.append(f"job {job} ran twice at once: {latest} and {span}")
            latest = max(latest, span, key=lambda each: each.last)
    return found


def wrong_polls(polls: list[tuple[int, str | None, str | None]]) -> list[str]:
    """Return what is wrong with the answers to one buyer: HTTP status, job status and result."""
    found, rank, result = [], 0, None
    for code, status, text in polls:
        if code == 404:
            found.append("404 for a job that was hired")
        if status is None:
            continue
        if RANKS[status] < rank:
            found.append(f"back to {status}")
        if result is not None and text != result:
            found.append(f"the result changed from {result!r} to {text!r}")
        rank, result = RANKS[status], text if text is not None else result
    return found
