"""One of many clients: `python -m tests.linearizability.load ENDPOINT SEED OPERATIONS JOB...`.

Sends random commands for jobs that other clients use too, and prints its history as JSON.
"""

import json
import sys
import time
from random import Random
from typing import Any

import zmq

from tests.brokers import Peer, Wire

TARGETS = ("running", "running", "completed", "awaiting_input", "awaiting_input", "failed")
GIVE_UP = 0.05
"""Share of requests whose answer the client does not wait for."""


def command(random: Random, job_id: str, versions: dict[str, int]) -> tuple[str, Any, Wire]:
    kind = random.random()
    version = versions.get(job_id, 1) if random.random() < 0.6 else None
    expected = {} if version is None else {"expected_version": version}
    if kind < 0.3:
        return "get", None, {"type": "get", "job_id": job_id}
    if kind < 0.35:
        return "cancel", version, {"type": "cancel", "job_id": job_id, **expected}
    target = random.choice(TARGETS[:5] if random.random() < 0.9 else TARGETS)
    if target == "completed" and random.random() < 0.7:
        target = "awaiting_input"
    wire = {"type": "transition", "job_id": job_id, "target": target, **expected}
    return "transition", [target, version], wire


def run(endpoint: str, seed: int, operations: int, jobs: list[str]) -> list[list[Any]]:
    """Return [client, job, called, ended or None, action, argument, outcome] for each operation."""
    random = Random(seed)
    history: list[list[Any]] = []
    versions: dict[str, int] = {}
    with zmq.Context() as context:
        peer = Peer(context, endpoint)
        peer.ask()  # connect before all clients start
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        for _ in range(operations):
            if random.random() < 0.03:
                called = time.monotonic()
                seq = peer.send({"type": "count"})
                counted = answer_to(peer, seq)
                ended = time.monotonic()
                history.append([seed, "", called, ended, "count", None, counted["by_status"]])
                continue
            job_id = random.choice(jobs)
            action, argument, wire = command(random, job_id, versions)
            called = time.monotonic()
            seq = peer.send(wire)
            if random.random() < GIVE_UP:
                history.append([seed, job_id, called, None, action, argument, None])
                continue
            result = answer_to(peer, seq)
            ended = time.monotonic()
            shown = result["job"] if result["type"] == "job" else result
            kind = "job" if result["type"] == "job" else result["code"]
            outcome = [kind, shown["status"], shown["version"]]
            versions[job_id] = shown["version"]
            history.append([seed, job_id, called, ended, action, argument, outcome])
        peer.close()
    return history


def answer_to(peer: Peer, seq: int) -> Wire:
    while True:
        answer = peer.receive()
        if answer["seq"] == seq:
            result: Wire = answer["results"][0]
            return result


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))  # noqa: T201
