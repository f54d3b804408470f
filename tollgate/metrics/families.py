"""Turns the figures of a broker into the metrics of Prometheus: names, types and labels.

Labels have few values. Queues are named up to QUEUES_MAX, the rest is one row. Clients, jobs and
starts of the broker are no labels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tollgate.domain.figures import Histogram, JournalFigures, LoopFigures, StateFigures
from tollgate.domain.results import StatsResult
from tollgate.domain.settlement import CLAIMABLE, SettlementState
from tollgate.domain.status import TERMINAL, JobStatus

QUEUES_MAX: Final = 100
"""How many queues have rows of their own: those with the most jobs."""
OTHER: Final = "other"
"""The label of all other queues together; a queue of this name is among them."""
KINDS: Final = ("ready", "leased", "on_hold", "delayed", "paused")
"""What a job that can be claimed is counted as."""
STATUSES: Final = tuple(status.value for status in JobStatus)
STATES: Final = tuple(state.value for state in SettlementState)
ALERTED: Final = {"handshake_key_refused": 0, "refused_not_authorized": 0}
"""Causes that have a row before they happen: Prometheus sees no increase in a row that is new. The
broker names a cause when it has happened."""
ALERTED_CODE: Final = ("create", "repository_full")
CLAIMED: Final = frozenset({*JobStatus} - TERMINAL | CLAIMABLE)
"""The statuses and settlement states that a claim can name."""

States = Mapping[str, StateFigures]
Rows = Sequence[tuple[str, States]]
"""The figures of queues by status, or by settlement state, each with the label of its queue."""


class BrokerCollector(Collector):
    """Asks the broker at each scrape. What `ask` raises ends the scrape."""

    def __init__(self, ask: Callable[[], StatsResult]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, of one answer of the broker."""
        yield from families(self._ask())


def families(stats: StatsResult) -> Iterator[Metric]:
    """Yield the metrics of one answer of the broker."""
    yield InfoMetricFamily("tollgate_broker", "Which broker it is.", {"server": stats.server})
    if stats.since is not None:
        started = "When the broker started, in seconds since 1970."
        yield _gauge("tollgate_start_time_seconds", started, stats.since.timestamp())
    yield _gauge(
        "tollgate_writable",
        "1 if changes are accepted; 0 if disk or memory is full, or the journal lacks a file.",
        int(stats.writable),
    )
    yield from _jobs(stats)
    yield from _queues(stats)
    yield from _held(stats)
    yield from _counted(stats)
    yield from _times(stats)
    if stats.loop is not None:
        yield from _loop(stats.loop)
    if stats.journal is not None:
        yield from _journal(stats.journal)


def _jobs(stats: StatsResult) -> Iterator[Metric]:
    jobs = _rows(stats.statuses, {each.name: each.statuses for each in stats.queues})
    settlements = _rows(stats.settlements, {each.name: each.settlements for each in stats.queues})
    yield _counts("tollgate_jobs", "Jobs by queue and status.", "status", STATUSES, jobs)
    yield _counts(
        "tollgate_settlements",
        "Jobs by queue and by the state of their settlement.",
        "state", STATES, settlements,
    )  # fmt: skip
    yield _kinds(
        "tollgate_claimable_jobs",
        "Jobs that can be claimed, by what they are: a claim gets those that are ready.",
        "status", STATUSES, jobs,
    )  # fmt: skip
    yield _kinds(
        "tollgate_claimable_settlements",
        "Settlements that can be claimed, by what they are: a claim gets those that are ready.",
        "state", STATES, settlements,
    )  # fmt: skip
    ages = GaugeMetricFamily(
        "tollgate_oldest_job_age_seconds",
        "How long the job that entered a status first has been in it.",
        labels=("queue", "status"),
    )
    for queue, statuses in jobs:
        for status, figures in statuses.items():
            if figures.oldest is not None:
                age_s = max(0.0, (stats.time - figures.oldest).total_seconds())
                ages.add_metric((queue, status), age_s)
    yield ages
    yield _gauge(
        "tollgate_claimable_estimated",
        "1 if ready, on_hold and delayed are estimates: there are too many jobs to look at.",
        int(stats.estimated),
    )


def _queues(stats: StatsResult) -> Iterator[Metric]:
    yield _gauge("tollgate_queues", "Queues.", len(stats.queues) + stats.queues_left_out)
    paused = GaugeMetricFamily("tollgate_queue_paused", "1 if it is paused.", labels=("queue",))
    parked = GaugeMetricFamily(
        "tollgate_queue_parked_claims",
        "Claims that wait for a running job of this queue. One of several queues counts at each.",
        labels=("queue",),
    )
    for queue in stats.queues[:QUEUES_MAX]:
        if queue.name != OTHER:
            paused.add_metric((queue.name,), int(queue.paused))
            parked.add_metric((queue.name,), queue.parked_claims)
    yield paused
    yield parked


def _held(stats: StatsResult) -> Iterator[Metric]:
    clients = len(stats.clients) + stats.clients_left_out
    yield _gauge("tollgate_clients", "Clients that are known.", clients)
    yield _gauge("tollgate_stored_bytes", "Bytes of the texts of all jobs.", stats.stored_bytes)
    yield _gauge("tollgate_sessions", "Sessions of clients.", stats.sessions)
    yield _gauge("tollgate_outcomes", "Outcomes that are remembered.", stats.outcomes)
    yield _gauge("tollgate_parked_claims", "Claims that wait for a job.", stats.parked_claims)
    yield _gauge("tollgate_parked_waits", "Waits for jobs and events.", stats.parked_waits)
    if stats.connections is not None:
        yield _gauge("tollgate_connections", "Connections of clients.", stats.connections)
    if stats.unread_bytes is not None:
        unread = "Bytes of replies that wait for clients to read them."
        yield _gauge("tollgate_unread_bytes", unread, stats.unread_bytes)


def _counted(stats: StatsResult) -> Iterator[Metric]:
    decided = CounterMetricFamily(
        "tollgate_commands", "Commands that were decided.", labels=("command",)
    )
    refused = CounterMetricFamily(
        "tollgate_commands_refused", "Commands that were refused.", labels=("command", "code")
    )
    for command, figures in stats.commands.items():
        decided.add_metric((command,), figures.decided)
        for code, count in figures.refused.items():
            refused.add_metric((command, code), count)
    command, code = ALERTED_CODE
    if command not in stats.commands or code not in stats.commands[command].refused:
        refused.add_metric(ALERTED_CODE, 0)
    yield decided
    yield refused
    yield CounterMetricFamily(
        "tollgate_failed_tries", "Tries that ended without an outcome.", stats.attempts
    )
    yield CounterMetricFamily("tollgate_lease_lapses", "Leases that lapsed.", stats.lapses)
    yield CounterMetricFamily(
        "tollgate_repeats", "Requests that came again and were answered from memory.", stats.repeats
    )
    dropped = CounterMetricFamily(
        "tollgate_dropped", "What was refused, dropped or cut off.", labels=("cause",)
    )
    for cause, count in (ALERTED | stats.dropped).items():
        dropped.add_metric((cause,), count)
    yield dropped


def _times(stats: StatsResult) -> Iterator[Metric]:
    in_status = HistogramMetricFamily(
        "tollgate_job_status_seconds",
        "How long jobs were in the status that they left; of a sample under load.",
        labels=("status",),
    )
    for status, times in stats.in_status_s.items():
        _add(in_status, (status,), times)
    yield in_status
    to_claim = HistogramMetricFamily(
        "tollgate_time_to_claim_seconds",
        "Time to the first claim of a job, by the status or settlement state that was claimed;"
        " of a sample under load.",
        labels=("claimed",),
    )
    for state, times in stats.to_claim_s.items():
        _add(to_claim, (state,), times)
    yield to_claim


def _loop(loop: LoopFigures) -> Iterator[Metric]:
    for name, told, of in (
        ("tollgate_loop_step_seconds", "Time of each turn that served messages.", loop.step_s),
        ("tollgate_batch_messages", "Messages that were decided together.", loop.batch_messages),
        ("tollgate_journal_sync_seconds", "Time of each sync of the journal.", loop.sync_s),
    ):
        family = HistogramMetricFamily(name, told)
        _add(family, (), of)
        yield family
    yield CounterMetricFamily(
        "tollgate_loop_pauses", "Times the loop stood still for over half a second.", loop.pauses
    )


def _journal(journal: JournalFigures) -> Iterator[Metric]:
    yield _gauge("tollgate_journal_bytes", "Size of segments and snapshots.", journal.bytes)
    yield _gauge("tollgate_journal_segments", "Segments.", journal.segments)
    yield _gauge("tollgate_journal_snapshots", "Snapshots.", journal.snapshots)
    if journal.snapshot_at is not None:
        written = "When the newest snapshot was written, in seconds since 1970."
        at_s = journal.snapshot_at.timestamp()
        yield _gauge("tollgate_journal_snapshot_timestamp_seconds", written, at_s)
    if journal.free_bytes is not None:
        yield _gauge("tollgate_journal_free_bytes", "Left on the disk.", journal.free_bytes)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value)


def _counts(name: str, told: str, label: str, values: Sequence[str], rows: Rows) -> Metric:
    """Return how many jobs there are; rows without jobs are there with 0, so that they stay."""
    family = GaugeMetricFamily(name, told, labels=("queue", label))
    for queue, states in rows:
        for value in values:
            family.add_metric((queue, value), states[value].count if value in states else 0)
    return family


def _kinds(name: str, told: str, label: str, values: Sequence[str], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, told, labels=("queue", label, "kind"))
    for queue, states in rows:
        for value in filter(CLAIMED.__contains__, values):
            figures = states.get(value) or StateFigures()
            for kind in KINDS:
                family.add_metric((queue, value, kind), getattr(figures, kind))
    return family


def _rows(totals: States, queues: Mapping[str, States]) -> Rows:
    """Return a row for each queue that is named, and one for all others: what is left of `totals`.

    So the rows add up to all jobs, whatever the broker has left out of its answer.
    """
    named = [(name, states) for name, states in [*queues.items()][:QUEUES_MAX] if name != OTHER]
    shown = {name for name, _ in named}
    unnamed = [states for name, states in queues.items() if name not in shown]
    rest = {}
    for state, total in totals.items():
        own = [states[state] for _, states in named if state in states]
        numbers = {
            kind: max(0, getattr(total, kind) - sum(getattr(figures, kind) for figures in own))
            for kind in ("count", *KINDS)
        }
        since = [states[state].oldest for states in unnamed if state in states]
        oldest = min((at for at in since if at is not None), default=None)
        rest[state] = StateFigures(**numbers, oldest=oldest)
    return [*named, (OTHER, rest)]


def _add(family: HistogramMetricFamily, labels: Sequence[str], times: Histogram) -> None:
    """Add a histogram. Prometheus wants each bucket to count those below it too."""
    bounds = [*map(floatToGoString, times.bounds), "+Inf"]
    buckets = [*zip(bounds, accumulate(times.counts), strict=True)]
    family.add_metric(labels, buckets, times.total)
