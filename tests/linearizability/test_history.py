"""Eight client processes work on the same jobs. The history of each job is linearizable."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, Peer
from tests.core import HASH
from tests.linearizability.checker import Operation, is_linearizable
from tests.linearizability.load import ACTIONS, shown_as
from tests.linearizability.model import NEW, work_model

CLIENTS = 8
OPERATIONS = 300
JOBS = 24


def record(endpoint: str, jobs: list[str], seed: int) -> list[list[Any]]:
    """Start all clients at once, and return their histories."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.linearizability.load", endpoint,
             str(seed + number), str(OPERATIONS), *jobs],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(CLIENTS)
    ]  # fmt: skip
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        outputs = [client.communicate(timeout=PATIENCE_S)[0] for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    assert all(client.returncode == 0 for client in clients)
    return [entry for output in outputs for entry in json.loads(output)]


def operation(entry: list[Any]) -> Operation:
    _, _, called, ended, action, argument, outcome = entry
    return Operation(
        called,
        inf if ended is None else ended,
        action,
        tuple(argument) if isinstance(argument, list) else argument,
        tuple(outcome) if isinstance(outcome, list) else outcome,
    )


@pytest.mark.slow
def test_the_history_of_many_clients_is_linearizable(
    broker: Callable[..., BrokerProcess], peer: Callable[..., Peer]
) -> None:
    process = broker()
    mine = peer(process.endpoint)
    made = mine.ask(*[{"type": "create", "input_hash": HASH, "settle": True}] * JOBS)
    jobs = [result["job"]["job_id"] for result in made]
    entries = record(process.endpoint, jobs, seed=100)
    assert len(entries) == CLIENTS * OPERATIONS

    by_job: dict[str, list[Operation]] = defaultdict(list)
    for entry in entries:
        if entry[4] != "count":
            by_job[entry[1]].append(operation(entry))
    for job in mine.ask(*[{"type": "get", "job_id": job_id} for job_id in jobs]):
        seen = job["job"]
        last = tuple(shown_as(seen))
        now = max(entry[3] or 0 for entry in entries) + 1
        by_job[seen["job_id"]].append(Operation(now, now + 1, "get", None, last))
    for history in by_job.values():
        assert is_linearizable(history, NEW, work_model), history

    # The test must not pass because nothing happened.
    shown = [entry[6] for entry in entries if entry[4] != "count" and entry[6]]
    outcomes = Counter(outcome[0] for outcome in shown)
    refused = ("version_conflict", "illegal_transition", "lease_held", "lease_lost")
    assert min(outcomes[kind] for kind in ("job", "leases", "ok", *refused)) > 5
    assert {entry[4] for entry in entries} == {*ACTIONS, "count"}
    settled = {outcome[5] for outcome in shown if outcome[0] == "job"}
    assert {"pending", "wanted", "submitted"} <= settled
    assert any(entry[3] is None for entry in entries)
    assert overlaps(by_job) > 100
    check_counts(entries)


def overlaps(by_job: dict[str, list[Operation]]) -> int:
    """Return how many operations overlapped another one on the same job."""
    return sum(
        any(a is not b and a.called < b.ended and b.called < a.ended for b in history)
        for history in by_job.values()
        for a in history
    )


def check_counts(entries: list[list[Any]]) -> None:
    """Check each count: between the jobs that had certainly ended and those that may have."""
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    unknown: list[tuple[float, str]] = []
    for _, _, called, ended, action, argument, outcome in entries:
        if action not in {"cancel", "transition"}:
            continue
        target = "failed" if action == "cancel" else argument[0]
        if target not in ("completed", "failed"):
            continue
        if ended is None:
            unknown.append((called, target))
        elif outcome[0] == "job":
            ends[target].append((called, ended))
    counted = 0
    for _, _, called, ended, action, _, by_status in entries:
        if action != "count":
            continue
        counted += 1
        assert sum(by_status.values()) == JOBS
        for status in ("completed", "failed"):
            certain = sum(end <= called for _, end in ends[status])
            possible = sum(begin <= ended for begin, _ in ends[status])
            possible += sum(begin <= ended and to == status for begin, to in unknown)
            assert certain <= by_status[status] <= possible
    assert counted > 20
