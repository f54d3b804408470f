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
SETTLEMENTS = (None, "submitted", "submitted", "confirmed", "refused", "manual", "wanted")
CLAIMED = ("awaiting_payment", "running", "running", "awaiting_input", "wanted", "submitted")
ACTIONS = {
    "get": 22, "transition": 26, "provide_input": 5, "cancel": 1, "hold": 3, "resume": 7,
    "annotate": 5, "settle": 9, "claim": 17, "release": 9,
}  # fmt: skip
GIVE_UP = 0.05
"""Share of requests whose answer the client does not wait for."""
HOUR_MS = 3_600_000


class Commands:
    """Makes random commands, and knows the leases that it was granted."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._seed = seed
        self._versions: dict[str, int] = {}
        self._leases: dict[str, tuple[str, int]] = {}
        """For each job the name of the last claim that got it, and its token."""
        self._claims = 0

    def job(self, jobs: list[str]) -> str:
        """Return a job; now and then the one whose lease came last."""
        if self._leases and self._random.random() < 0.25:
            return next(reversed(self._leases))
        return self._random.choice(jobs)

    def make(self, job_id: str) -> tuple[str, Any, Wire]:
        """Return an action, its argument for the model, and the command."""
        (action,) = self._random.choices(list(ACTIONS), list(ACTIONS.values()))
        argument, fields = getattr(self, f"_{action}")(job_id)
        wire = {"type": action, "job_id": job_id, **fields}
        if action == "claim":
            wire["job_ids"] = [wire.pop("job_id")]
        return action, argument, {key: value for key, value in wire.items() if value is not None}

    def observe(self, job_id: str, action: str, argument: Any, result: Wire) -> list[Any]:
        """Return the outcome as the model has it."""
        kind = result["type"]
        if kind == "leases":
            for grant in result["leases"]:
                self._leases.pop(job_id, None)
                self._leases[job_id] = (argument[0], grant["lease"])
            return ["leases", argument[0] if result["leases"] else None]
        if kind == "ok":
            return ["ok"]
        shown = result["job"] if kind == "job" else result
        self._versions[job_id] = shown["version"]
        if kind == "error":
            return [result["code"], shown["status"], shown["version"]]
        return shown_as(shown)

    def _version(self, job_id: str, share: float = 0.5) -> int | None:
        return self._versions.get(job_id, 1) if self._random.random() < share else None

    def _lease(self, job_id: str, share: float = 0.7) -> tuple[str | None, int | None]:
        if job_id in self._leases and self._random.random() < share:
            return self._leases[job_id]
        return None, None

    def _get(self, _: str) -> tuple[Any, Wire]:
        return None, {}

    def _transition(self, job_id: str) -> tuple[Any, Wire]:
        random = self._random
        target = random.choice(TARGETS[:5] if random.random() < 0.9 else TARGETS)
        if target == "completed" and random.random() < 0.6:
            target = "awaiting_input"
        if random.random() < 0.2:
            version = self._versions.get(job_id, 1)
            forced = {"target": target, "expected_version": version, "force": True}
            return [target, version, None, False, True], forced
        expected, (name, token) = self._version(job_id), self._lease(job_id)
        keeps = target == "awaiting_input" and name is not None and random.random() < 0.7
        wire = {
            "target": target, "expected_version": expected, "lease": token,
            "keep_lease": keeps or None,
        }  # fmt: skip
        return [target, expected, name, keeps, False], wire

    def _provide_input(self, job_id: str) -> tuple[Any, Wire]:
        version = self._versions.get(job_id, 1)
        return version, {"input": "yes", "expected_version": version}

    def _versioned(self, job_id: str) -> tuple[Any, Wire]:
        version = self._version(job_id, 0.3)
        return version, {"expected_version": version}

    _cancel = _hold = _resume = _versioned

    def _annotate(self, job_id: str) -> tuple[Any, Wire]:
        version, meta = self._version(job_id, 0.3), f"{self._random.getrandbits(32):x}"
        return [meta, version], {"meta": meta, "expected_version": version}

    def _settle(self, job_id: str) -> tuple[Any, Wire]:
        to, (name, token) = self._random.choice(SETTLEMENTS), self._lease(job_id)
        return [to, name], {"to": to, "lease": token, "on_chain_state": "seen"}

    def _claim(self, _: str) -> tuple[Any, Wire]:
        self._claims += 1
        state = self._random.choice(CLAIMED)
        kind = "settlement" if state in ("wanted", "submitted") else "status"
        fields = {"lease_ms": HOUR_MS, "wait_ms": 0, "limit": 1}
        return [f"{self._seed}-{self._claims}", state], {kind: state, **fields}

    def _release(self, job_id: str) -> tuple[Any, Wire]:
        name, token = self._leases.get(job_id, ("no claim", 2**40))
        holds = self._random.random() < 0.2
        return [name, holds], {"lease": token, "hold": holds or None}


def shown_as(job: Wire) -> list[Any]:
    """Return a job as the model shows it."""
    on_hold, meta = job.get("on_hold", False), job.get("meta")
    return ["job", job["status"], job["version"], on_hold, meta, job["settlement"]["state"]]


def run(endpoint: str, seed: int, operations: int, jobs: list[str]) -> list[list[Any]]:
    """Return [client, job, called, ended or None, action, argument, outcome] for each operation."""
    random, commands = Random(seed), Commands(seed)
    history: list[list[Any]] = []
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
            job_id = commands.job(jobs)
            action, argument, wire = commands.make(job_id)
            called = time.monotonic()
            seq = peer.send(wire)
            if random.random() < GIVE_UP:
                history.append([seed, job_id, called, None, action, argument, None])
                continue
            result = answer_to(peer, seq)
            ended = time.monotonic()
            outcome = commands.observe(job_id, action, argument, result)
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
