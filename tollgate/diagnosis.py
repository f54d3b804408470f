"""Says what is wrong with a broker: its figures in, findings out.

Each finding has a code that never changes. Nothing here asks a broker or reads a clock.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Final

import msgspec

from tollgate.domain.figures import ClientFigures, QueueFigures, StateFigures
from tollgate.domain.results import StatsResult
from tollgate.terminal.text import ago, counted, duration

CLOCK_OFF_S: Final = 5.0
"""Clocks of broker and client may differ by so much."""
UNPAID_FOR: Final = timedelta(hours=1)
UNANSWERED_FOR: Final = timedelta(days=1)
SILENT_FOR: Final = timedelta(minutes=2)
"""A worker touches its leases far more often than that."""
GONE_AFTER: Final = timedelta(minutes=1)
RESTARTS: Final = 3
RESTARTS_IN: Final = timedelta(hours=1)
SLOW_SYNC_S: Final = 0.05
SLOW_STEP_S: Final = 0.1
SLOW_SHARE: Final = 0.99
SYNCS_MIN: Final = 5
FREE_BYTES_MIN: Final = 1 << 30
SEGMENTS_MAX: Final = 4
"""A journal that is compacted in time has no more."""
UNREAD_BYTES_MAX: Final = 64 << 20
CONNECTIONS_OF_ONE: Final = 500
"""So many connections, and sessions of one client, are one that does not close what it opens."""
QUEUES_NAMED: Final = 3
WAITED_FOR: Final = ("running",)
TO_SETTLE: Final = ("wanted", "submitted")


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong, or may be soon."""

    code: str
    """One of the codes in docs/guides/operations.md."""
    text: str
    """A sentence without a full stop."""


def findings(stats: StatsResult, *, clock_off_s: float = 0.0) -> list[Finding]:
    """Return what is wrong with a broker, the most urgent first.

    `clock_off_s` is how many seconds the client's clock is ahead of the broker's.
    """
    return [
        *_of_process(stats),
        *_of_clock(clock_off_s),
        *_of_queues(stats),
        *_of_clients(stats),
        *_of_jobs(stats),
        *_of_peers(stats),
    ]


def _of_process(stats: StatsResult) -> Iterator[Finding]:
    journal, loop = stats.journal, stats.loop
    if not stats.writable:
        yield Finding(
            "not_writable",
            "changes are refused: the disk is full, a file of the journal is missing, or the memory"
            " limit is reached",
        )
    free_bytes = None if journal is None else journal.free_bytes
    if free_bytes is not None and free_bytes < FREE_BYTES_MIN:
        yield Finding("disk_low", f"the disk of the journal has {free_bytes >> 20:,} MiB left")
    if journal is not None and journal.segments > SEGMENTS_MAX:
        text = f"the journal has {journal.segments:,} segments that no snapshot replaces"
        if journal.snapshot_at is not None:
            text += f": the last is {ago(journal.snapshot_at, stats.time)}"
        yield Finding("not_compacted", text)
    if stats.since is not None:
        recent = [each for each in stats.starts if stats.time - each < RESTARTS_IN]
        if len(recent) + 1 >= RESTARTS and stats.time - stats.since < RESTARTS_IN:
            span = duration((stats.time - recent[0]).total_seconds())
            yield Finding("restarts", f"the broker has started {len(recent) + 1} times in {span}")
    if loop is not None:
        sync_s, step_s = loop.sync_s.at(SLOW_SHARE), loop.step_s.at(SLOW_SHARE)
        if loop.sync_s.count >= SYNCS_MIN and sync_s > SLOW_SYNC_S:
            yield Finding("slow_sync", f"1 of 100 syncs of the journal takes up to {sync_s:g} s")
        elif step_s > SLOW_STEP_S:
            yield Finding("slow_steps", f"1 of 100 steps of the loop takes up to {step_s:g} s")


def _of_clock(clock_off_s: float) -> Iterator[Finding]:
    if abs(clock_off_s) > CLOCK_OFF_S:
        side = "ahead of" if clock_off_s > 0 else "behind"
        text = f"this machine's clock is {abs(clock_off_s):.0f} s {side} the broker's"
        yield Finding("clock_off", text)


def _of_queues(stats: StatsResult) -> Iterator[Finding]:
    for queue in stats.queues:
        if queue.paused and queue.statuses:
            yield Finding("queue_paused", f"queue {queue.name} is paused")
        for states, names in ((queue.statuses, WAITED_FOR), (queue.settlements, TO_SETTLE)):
            for name in names:
                figures = states.get(name)
                if figures is not None and figures.ready and not _is_served(stats, queue, name):
                    yield _unserved(stats, queue, name, figures)


def _unserved(stats: StatsResult, queue: QueueFigures, name: str, figures: StateFigures) -> Finding:
    since = ""
    if figures.oldest is not None:
        since = f", the oldest for {duration((stats.time - figures.oldest).total_seconds())}"
    if name == "running":
        ready = counted(figures.ready, "ready job")
        text = f"no client claims the {ready} of queue {queue.name}{since}"
        return Finding("no_worker", text + _claimed_instead(stats, queue.name))
    ready = counted(figures.ready, f"{name} settlement")
    return Finding("no_watcher", f"no client claims the {ready} of queue {queue.name}{since}")


def _claimed_instead(stats: StatsResult, name: str) -> str:
    """Name the queues that clients claim instead, if they are few, or have a like name."""
    claimed = {
        queue
        for client in stats.clients
        if client.last_claim is not None and client.last_claim.of == "running"
        if _is_there(client, stats.time)
        for queue in client.last_claim.queues
    }
    shown = sorted(claimed)
    if len(claimed) > QUEUES_NAMED:
        shown = get_close_matches(name, shown, QUEUES_NAMED)
    return f"; claimed is {', '.join(shown)}" if shown else ""


def _is_served(stats: StatsResult, queue: QueueFigures, name: str) -> bool:
    """Return whether a client that is there claims such jobs."""
    return any(
        client.last_claim is not None
        and client.last_claim.of == name
        and ({queue.name, "*"} & {*client.last_claim.queues})
        and _is_there(client, stats.time)
        for client in stats.clients
    )


def _is_there(client: ClientFigures, now: datetime) -> bool:
    if client.parked_claims or client.leases:
        return True
    return client.seen is not None and now - client.seen <= GONE_AFTER


def _of_clients(stats: StatsResult) -> Iterator[Finding]:
    for client in stats.clients:
        if client.leases and not client.parked_claims:
            seen = client.seen
            if seen is None or stats.time - seen > SILENT_FOR:
                name = client.client or client.by
                since = "since the broker started"
                if seen is not None:
                    since = f"for {duration((stats.time - seen).total_seconds())}"
                held = counted(client.leases, "job")
                text = f"{name} holds {held}, and has sent nothing {since}"
                yield Finding("silent_worker", text)


def _of_jobs(stats: StatsResult) -> Iterator[Finding]:
    unpaid = stats.statuses.get("awaiting_payment")
    if unpaid is not None and unpaid.oldest is not None:
        waited = stats.time - unpaid.oldest
        if waited > UNPAID_FOR:
            count = counted(unpaid.count, "unpaid job")
            text = f"{count}, the oldest for {duration(waited.total_seconds())}"
            yield Finding("unpaid", text)
    asking = stats.statuses.get("awaiting_input")
    if asking is not None and asking.oldest is not None:
        waited = stats.time - asking.oldest
        if waited > UNANSWERED_FOR:
            text = f"{counted(asking.count, 'job')} asked something, the first"
            yield Finding("unanswered", f"{text} {duration(waited.total_seconds())} ago")
    on_hold = sum(each.on_hold for each in stats.statuses.values())
    if on_hold:
        text = f"{counted(on_hold, 'job')} on hold"
        names = [each.name for each in stats.queues if _on_hold(each)]
        if 0 < len(names) <= QUEUES_NAMED:
            text += f", of queue {', '.join(names)}"
        yield Finding("on_hold", text)
    if stats.lapses:
        text = f"{counted(stats.lapses, 'lease')} lapsed since the broker started"
        yield Finding("lapses", text)
    for state in ("manual", "refused"):
        figures = stats.settlements.get(state)
        if figures is not None and figures.count:
            text = counted(figures.count, f"{state} settlement")
            yield Finding(f"settlement_{state}", text)


def _on_hold(queue: QueueFigures) -> int:
    return sum(each.on_hold for each in queue.statuses.values())


def _of_peers(stats: StatsResult) -> Iterator[Finding]:
    refused = stats.dropped.get("handshake_key_refused", 0)
    if refused:
        text = f"{counted(refused, 'connection')} came with a key that is unknown or was revoked"
        yield Finding("key_refused", text)
    denied, last = stats.dropped.get("refused_not_authorized", 0), stats.last_denied
    if denied:
        text = f"{counted(denied, 'command')} lacked a role"
        if last is not None:
            who = f"{last.client} ({last.by})" if last.client else last.by
            text += f", the last {ago(last.at, stats.time)}: {last.command} by {who}"
        yield Finding("not_authorized", text)
    for client in stats.clients:
        if min(stats.connections or 0, client.sessions) >= CONNECTIONS_OF_ONE:
            text = (
                f"{client.client or client.by} opens many of the {stats.connections:,} connections"
            )
            yield Finding("many_connections", f"{text}: does it close its clients?")
    if (stats.unread_bytes or 0) > UNREAD_BYTES_MAX:
        unread_mib = (stats.unread_bytes or 0) >> 20
        yield Finding("unread", f"{unread_mib:,} MiB of replies wait for clients that do not read")
