"""What is wrong with a broker: each finding is made by its figures, and a sound broker has none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.brokers import ROOT
from tollgate.diagnosis import findings
from tollgate.domain.figures import (
    ClientFigures,
    Denied,
    Histogram,
    JournalFigures,
    LastClaim,
    LoopFigures,
    QueueFigures,
    StateFigures,
)
from tollgate.domain.results import StatsResult

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FAST = Histogram([0.01, 0.1, 1.0], [100, 0, 0, 0])
SLOW = Histogram([0.01, 0.1, 1.0], [95, 0, 5, 0])
BATCHES = Histogram([1], [9, 0])
READY = StateFigures(2, NOW - MINUTE, ready=2)


def worker(ago: timedelta = timedelta(), **fields: Any) -> ClientFigures:
    claim = LastClaim("running", ["mail"], NOW - ago)
    return ClientFigures("key:gpu", "gpu@1", ["worker"], NOW - ago, last_claim=claim, **fields)


def stats(**fields: Any) -> StatsResult:
    sound: dict[str, Any] = {
        "as_of": "p", "time": NOW, "server": "s", "boot_id": "b", "writable": True, "jobs": 0,
        "stored_bytes": 0, "statuses": {}, "queues": [], "sessions": 0, "outcomes": 0,
        "parked_claims": 0, "parked_waits": 0, "clients": [], "since": NOW - 60 * MINUTE,
    }  # fmt: skip
    return StatsResult(**{**sound, **fields})


def journal(free_bytes: int | None) -> JournalFigures:
    return JournalFigures(1, 1, 0, None, free_bytes)


def mail(figures: StateFigures = READY, status: str = "running", **fields: Any) -> Any:
    where = "statuses" if status in ("running", "awaiting_input") else "settlements"
    named: dict[str, Any] = {where: {status: figures}, **fields}
    return [QueueFigures("mail", **named)]


SOUND: dict[str, StatsResult] = {
    "nothing": stats(),
    "a worker that waits": stats(queues=mail(), clients=[worker(60 * MINUTE, parked_claims=1)]),
    "a worker just seen": stats(queues=mail(), clients=[worker()]),
    "jobs that ask": stats(queues=mail(status="awaiting_input")),
    "leased jobs": stats(queues=mail(StateFigures(1, NOW, leased=1))),
    "room on the disk": stats(journal=journal(1 << 40)),
    "an unknown disk": stats(journal=journal(None)),
    "a fast loop": stats(loop=LoopFigures(FAST, BATCHES, FAST)),
    "few syncs": stats(loop=LoopFigures(FAST, BATCHES, Histogram([0.1, 1.0], [0, 4, 0]))),
    "jobs paid soon": stats(statuses={"awaiting_payment": StateFigures(3, NOW - 59 * MINUTE)}),
    "old starts": stats(starts=[NOW - 90 * MINUTE, NOW - 80 * MINUTE]),
    "four segments": stats(journal=JournalFigures(1, 4, 1, NOW, 1 << 40)),
    "questions of today": stats(statuses={"awaiting_input": StateFigures(3, NOW - 60 * MINUTE)}),
    "many clients": stats(
        connections=900,
        clients=[ClientFigures("key:web", f"web@{number}", sessions=1) for number in range(900)],
    ),
    "many calls": stats(connections=9, clients=[ClientFigures("key:web", "w", sessions=1_000)]),
    "a busy worker": stats(clients=[worker(MINUTE, leases=3)]),
}
WRONG: dict[str, tuple[StatsResult, str, str]] = {
    "disk full": (stats(writable=False), "not_writable", "the disk is full"),
    "disk low": (stats(journal=journal(1 << 29)), "disk_low", "512 MiB left"),
    "restarts": (
        stats(since=NOW - MINUTE, starts=[NOW - 9 * MINUTE, NOW - 5 * MINUTE]),
        "restarts",
        "has started 3 times in 9 min",
    ),
    "slow sync": (
        stats(loop=LoopFigures(SLOW, BATCHES, SLOW)), "slow_sync", "takes up to 1 s",
    ),
    "slow loop": (stats(loop=LoopFigures(SLOW, BATCHES, FAST)), "slow_steps", "up to 1 s"),
    "paused": (stats(queues=mail(StateFigures(1), paused=True)), "queue_paused", "mail is paused"),
    "no worker": (stats(queues=mail()), "no_worker", "the 2 ready jobs of queue mail"),
    "a worker of another queue": (
        stats(queues=mail(), clients=[msgspec.structs.replace(
            worker(), last_claim=LastClaim("running", ["other"], NOW))]),
        "no_worker", "no client claims",
    ),
    "a worker that left": (
        stats(queues=mail(), clients=[worker(2 * MINUTE)]), "no_worker", "the oldest for 1 min",
    ),
    "no watcher": (
        stats(queues=mail(status="submitted")), "no_watcher", "2 submitted settlements",
    ),
    "silent": (
        stats(clients=[worker(3 * MINUTE, leases=2)]), "silent_worker", "nothing for 3 min",
    ),
    "silent since the start": (
        stats(clients=[ClientFigures("key:gpu", leases=1)]), "silent_worker", "since the broker",
    ),
    "unpaid": (
        stats(statuses={"awaiting_payment": StateFigures(3, NOW - 61 * MINUTE)}),
        "unpaid", "3 unpaid jobs, the oldest for 1 h",
    ),
    "on hold": (
        stats(statuses={"running": StateFigures(3, on_hold=2)}), "on_hold", "2 jobs on hold",
    ),
    "lapses": (stats(lapses=1), "lapses", "1 lease lapsed"),
    "manual": (
        stats(settlements={"manual": StateFigures(2)}), "settlement_manual", "2 manual settlements",
    ),
    "refused": (
        stats(settlements={"refused": StateFigures(1)}), "settlement_refused", "1 refused",
    ),
    "unknown key": (stats(dropped={"handshake_key_refused": 2}), "key_refused", "2 connections"),
    "no role": (stats(dropped={"refused_not_authorized": 1}), "not_authorized", "1 command"),
    "no role, by whom": (
        stats(dropped={"refused_not_authorized": 3},
              last_denied=Denied("key:gpu", "claim", NOW - 2 * MINUTE, "gpu@1")),
        "not_authorized", "3 commands lacked a role, the last 2 min ago: claim by gpu@1 (key:gpu)",
    ),
    "a like name": (
        stats(queues=mail(), clients=[
            ClientFigures("key:gpu", seen=NOW, last_claim=LastClaim(
                "running", ["a", "mails", "b", "c"], NOW))]),
        "no_worker", "the oldest for 1 min; claimed is mails",
    ),
    "few other queues": (
        stats(queues=mail(), clients=[
            ClientFigures("key:gpu", seen=NOW, last_claim=LastClaim("running", ["x", "y"], NOW)),
            ClientFigures("key:cpu", seen=NOW - 9 * MINUTE,
                          last_claim=LastClaim("running", ["gone"], NOW))]),
        "no_worker", "; claimed is x, y",
    ),
    "unanswered": (
        stats(statuses={"awaiting_input": StateFigures(2, NOW - 25 * 60 * MINUTE)}),
        "unanswered", "2 jobs asked something, the first 1 d ago",
    ),
    "on hold in a queue": (
        stats(statuses={"running": StateFigures(1, on_hold=1)},
              queues=mail(StateFigures(1, on_hold=1))),
        "on_hold", "1 job on hold, of queue mail",
    ),
    "not compacted": (
        stats(journal=JournalFigures(1, 5, 1, NOW - 60 * MINUTE, 1 << 40)),
        "not_compacted", "5 segments that no snapshot replaces: the last is 1 h ago",
    ),
    "never compacted": (
        stats(journal=JournalFigures(1, 9, 0, None, 1 << 40)),
        "not_compacted", "the journal has 9 segments that no snapshot replaces",
    ),
    "leaking": (
        stats(connections=700, clients=[
            ClientFigures("key:web", "web@1", sessions=690),
            ClientFigures("key:shop", "shop@1", sessions=10)]),
        "many_connections", "web@1 opens many of the 700 connections",
    ),
    "unread": (stats(unread_bytes=65 << 20), "unread", "65 MiB of replies"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_broker_has_no_finding(name: str) -> None:
    assert findings(SOUND[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    wrong, code, text = WRONG[name]
    assert [(each.code, text in each.text) for each in findings(wrong)] == [(code, True)]


@pytest.mark.parametrize(("off_s", "text"), [(7.0, "7 s ahead of"), (-61.0, "61 s behind")])
def test_a_clock_that_is_off_is_found(off_s: float, text: str) -> None:
    (finding,) = findings(stats(), clock_off_s=off_s)
    assert (finding.code, text in finding.text) == ("clock_off", True)
    assert findings(stats(), clock_off_s=5.0 if off_s > 0 else -5.0) == []


def test_every_code_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guides" / "operations.md").read_text()
    watched = guide.partition("## What to watch")[2].partition("\n## ")[0]
    told = {line.split("`")[1] for line in watched.splitlines() if line.startswith("| `")}
    assert told == {code for _, code, _ in WRONG.values()} | {"clock_off"}
