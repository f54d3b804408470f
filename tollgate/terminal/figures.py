"""Shows figures of a broker, its workers, and an explanation of a job as plain text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from textwrap import wrap
from typing import Final

from tollgate.domain.figures import ClientFigures, Histogram, StateFigures
from tollgate.domain.results import StatsResult
from tollgate.terminal.text import ago, counted, duration, milliseconds, printable

QUEUES_MAX: Final = 20
"""How many queues are shown as text; JSON has all."""
_KINDS: Final = ("ready", "leased", "delayed", "on_hold", "paused")
_MIB: Final = 1 << 20
_INDENT: Final = 14
"""Where the texts of an explanation begin."""
_WIDTH_MIN: Final = 40


def stats_lines(
    stats: StatsResult, found: Mapping[str, str], *, is_named: bool = False
) -> Iterator[str]:
    """Yield the figures of a broker, what is wrong first: `found` are sentences and their codes.

    `is_named` says that one queue was asked for.
    """
    up = "" if stats.since is None else f", up {_span(stats.since, stats.time)}"
    yield f"{stats.server}{up}, {counted(stats.jobs, 'job')}"
    for sentence, code in found.items():
        yield f"! {printable(sentence)} [{code}]"
    if not found:
        yield "nothing found that is wrong"
    yield ""
    yield from _table(
        ("", "jobs", *_words(_KINDS), "oldest"),
        _rows(stats.statuses, stats.settlements, stats.time),
    )
    # A queue that has all jobs needs no table of its own.
    is_only = len(stats.queues) == 1 and not stats.queues_left_out and not is_named
    for queue in () if is_only else islice(stats.queues, QUEUES_MAX):
        paused = ", paused" if queue.paused else ""
        claims = counted(queue.parked_claims, "claim")
        yield ""
        yield f"queue {queue.name}{paused}: {claims} waiting"
        rows = _rows(queue.statuses, queue.settlements, stats.time)
        yield from _table(("", "jobs", *_words(_KINDS), "oldest"), rows)
    more = len(stats.queues) - QUEUES_MAX + stats.queues_left_out
    if more > 0:
        yield f"and {counted(more, 'queue')} more"
    yield ""
    yield from _table((), _of_process(stats))


def worker_lines(clients: Sequence[ClientFigures], now: datetime) -> Iterator[str]:
    """Yield a line for each client: what it holds, when it was seen, what it claims."""
    rows = []
    for each in clients:
        claim = each.last_claim
        rows.append(
            (
                each.client or "-", each.by, ",".join(each.roles) or "-", f"{each.leases:,}",
                f"{each.parked_claims:,}", "-" if each.seen is None else ago(each.seen, now),
                "-" if claim is None else f"{claim.of} of {','.join(claim.queues)}",
            )
        )  # fmt: skip
    yield from _table(("client", "principal", "roles", "holds", "waits", "seen", "claims"), rows)


def explanation_lines(
    job_id: str, where: str, sections: Mapping[str, Iterable[str]], width: int | None = None
) -> Iterator[str]:
    """Yield an explanation of a job: where it is, and sections by their titles.

    With a `width`, longer lines are broken, and go on below their beginning.
    """
    yield f"{job_id}: {printable(where)}"
    for title, lines in sections.items():
        for number, line in enumerate(lines):
            shown = f"  {'' if number else title:<11} {printable(line)}"
            if width is None or len(shown) <= width:
                yield shown
            else:
                yield from wrap(shown, max(width, _WIDTH_MIN), subsequent_indent=" " * _INDENT)


def _of_process(stats: StatsResult) -> Iterator[tuple[str, ...]]:
    claims, waits = counted(stats.parked_claims, "claim"), counted(stats.parked_waits, "wait")
    peers = "" if stats.connections is None else f"{counted(stats.connections, 'connection')}, "
    yield "clients", f"{peers}{counted(stats.sessions, 'session')}, {claims} and {waits} parked"
    decided = sum(each.decided for each in stats.commands.values())
    refused = sum(sum(each.refused.values()) for each in stats.commands.values())
    yield "commands", f"{decided:,} decided, {refused:,} refused, {stats.repeats:,} repeats"
    yield "tries", f"{stats.attempts:,} ended without an outcome, {stats.lapses:,} leases lapsed"
    for name, of in (("left", stats.in_status_s), ("claimed", stats.to_claim_s)):
        for state, times in of.items():
            yield f"{name} {state}", f"after {_median(times)}"
    if stats.loop is not None:
        loop = stats.loop
        batches = f"{loop.batch_messages.count:,} batches of {loop.batch_messages.at(0.5):g}"
        yield "loop", f"{batches}, steps {_median(loop.step_s)}, {counted(loop.pauses, 'pause')}"
        if loop.sync_s.count:
            yield "syncs", _median(loop.sync_s)
    if stats.journal is not None:
        journal = stats.journal
        size = f"{journal.bytes / _MIB:,.1f} MiB in {counted(journal.segments, 'segment')}"
        if journal.snapshot_at is not None:
            size += f", snapshot {ago(journal.snapshot_at, stats.time)}"
        yield "journal", f"{size}, fsync {journal.fsync}"
        if journal.free_bytes is not None:
            yield "disk", f"{journal.free_bytes / _MIB:,.0f} MiB left"
    for cause, number in stats.dropped.items():
        yield cause.replace("_", " "), f"{number:,}"


def _median(times: Histogram) -> str:
    """Return the time below which half of the values lie, and 99 of 100."""
    return f"p50 {_bound(times, 0.5)}, p99 {_bound(times, 0.99)}"


def _bound(times: Histogram, share: float) -> str:
    bound_s = times.at(share)
    if bound_s == float("inf"):
        return f"> {_time(times.bounds[-1])}"
    return f"<= {_time(bound_s)}"


def _time(seconds: float) -> str:
    return milliseconds(seconds * 1_000) if seconds < 1 else duration(seconds)


def _rows(
    statuses: dict[str, StateFigures], settlements: dict[str, StateFigures], now: datetime
) -> Iterator[tuple[str, ...]]:
    names = [(name, name, figures) for name, figures in statuses.items()]
    names += [(name, f"settle {name}", figures) for name, figures in settlements.items()]
    for _, shown, figures in names:
        numbers = [getattr(figures, kind) for kind in _KINDS]
        yield (
            shown, f"{figures.count:,}", *(f"{number:,}" if number else "-" for number in numbers),
            "-" if figures.oldest is None else ago(figures.oldest, now),
        )  # fmt: skip


def _words(names: Iterable[str]) -> Iterator[str]:
    return (name.replace("_", " ") for name in names)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield lines with columns that are as wide as their widest cell."""
    cells = [[*map(printable, row)] for row in rows]
    if heading:
        cells.insert(0, [*heading])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _span(since: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - since).total_seconds()))
