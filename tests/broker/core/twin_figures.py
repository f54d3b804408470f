"""Figures and explanations of the naive twin: it looks at every job, each time."""

from typing import Any, Protocol

from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

from .twin_lines import Lines

Wire = dict[str, Any]


class Jobs(Protocol):
    """What of a twin the figures are made of."""

    jobs: list[Wire]
    leases: list[Wire]
    lines: Lines
    is_full: bool
    at: Any

    def lease_on(self, job_id: str) -> Wire | None: ...
    def state_to_claim(self, job: Wire) -> str | None: ...
    def is_finished(self, job: Wire) -> bool: ...
    def history(self, job: Wire) -> Wire: ...


def kind_of(twin: Jobs, job: Wire) -> str:
    """Return what keeps a job that can be claimed from a claim, or `ready`."""
    if twin.lease_on(job["job_id"]):
        return "leased"
    if job["on_hold"]:
        return "on_hold"
    if not twin.lines.has(job["job_id"], twin.state_to_claim(job) or ""):
        return "delayed"
    return "paused" if job["queue"] in twin.lines.paused else "ready"


def states(twin: Jobs, jobs: list[Wire]) -> tuple[Wire, Wire]:
    """Return the figures of jobs by status, and by settlement state."""
    by_status: Wire = {}
    by_state: Wire = {}
    for job in jobs:
        figures = by_status.setdefault(job["status"], {"count": 0})
        figures["count"] += 1
        state = twin.state_to_claim(job)
        if job["settlement"] is not None:
            settled = by_state.setdefault(job["settlement"]["state"], {"count": 0})
            settled["count"] += 1
            figures = figures if state == job["status"] else settled
        if state is not None:
            kind = kind_of(twin, job)
            figures[kind] = figures.get(kind, 0) + 1
    return by_status, by_state


def claims_of(parked: list[Wire], queue: str, state: str | None = None) -> int:
    """Return how many parked claims would take a job of a queue (and state)."""
    claims = [each["command"] for each in parked if each["command"]["type"] == "claim"]
    return sum(
        bool({queue, "*"} & {*names_of(each)})
        for each in claims
        if state in (None, each.get("status"), each.get("settlement"))
    )


def names_of(claim: Wire) -> list[str]:
    work = ("running", "awaiting_input")
    return claim.get("queues") or (["default"] if claim.get("status") in work else ["*"])


def stats(twin: Jobs, command: Wire, parked: list[Wire]) -> Wire:
    by_status, by_state = states(twin, twin.jobs)
    queues = {}
    for name in twin.lines.alive:
        if command.get("queue") in (None, name):
            own = states(twin, [job for job in twin.jobs if job["queue"] == name])
            queues[name] = {
                "statuses": own[0],
                "settlements": own[1],
                "paused": name in twin.lines.paused,
                "parked_claims": claims_of(parked, name, "running"),
            }
    claims = sum(each["command"]["type"] == "claim" for each in parked)
    return {
        "type": "stats",
        "jobs": len(twin.jobs),
        "statuses": {each.value: by_status.get(each.value, {}) for each in JobStatus},
        "settlements": {
            each.value: by_state[each.value] for each in SettlementState if each.value in by_state
        },
        "queues": queues,
        "parked_claims": claims,
        "parked_waits": len(parked) - claims,
        "writable": not twin.is_full,
        "leases": len(twin.leases),
    }


def explain(twin: Jobs, job: Wire, parked: list[Wire]) -> Wire:
    state = twin.state_to_claim(job)
    entries = twin.history(job)
    place = (job["priority"], job["job_id"])
    before = 0
    for each in sorted(
        (entry for entry in twin.lines.ready if entry[:2] == (state, job["queue"])),
        key=lambda entry: entry[2],  # a stable sort: the order in a line stays
    ):
        if each[2] > place[0] or each[3] == place[1]:
            break
        before += 1
    return {
        "type": "explained",
        "job_id": job["job_id"],
        "entries": entries["entries"],
        "left_out": entries["left_out"],
        "lease": entries["lease"],
        "claimable": state is not None and kind_of(twin, job) == "ready",
        "paused": job["queue"] in twin.lines.paused,
        "before": before,
        "parked_claims": claims_of(parked, job["queue"], state) if state else 0,
        "writable": not twin.is_full,
    }


def comparable(shown: Wire) -> Wire:
    """Return of a real answer what the twin says too, in its form."""
    if shown["type"] == "explained":
        job = shown["job"]
        shown = {**shown, "job_id": job["job_id"], "lease": job.get("lease")}
        names: Wire = {
            "left_out": 0, "claimable": False, "paused": False, "before": 0, "parked_claims": 0,
        }  # fmt: skip
        picked = ("type", "job_id", "entries", "lease", "writable")
        return {name: shown[name] for name in picked} | {
            name: shown.get(name, default) for name, default in names.items()
        }
    queues = {
        each["name"]: {
            "statuses": _without_times(each.get("statuses", {})),
            "settlements": _without_times(each.get("settlements", {})),
            "paused": each.get("paused", False),
            "parked_claims": each.get("parked_claims", 0),
        }
        for each in shown["queues"]
    }
    names = {name: shown[name] for name in ("type", "jobs", "parked_claims", "parked_waits")}
    return {
        **names,
        "writable": shown["writable"],
        "statuses": _without_times(shown["statuses"]),
        "settlements": _without_times(shown.get("settlements", {})),
        "queues": queues,
        "leases": sum(each.get("leases", 0) for each in shown["clients"]),
    }


def _without_times(states: Wire) -> Wire:
    return {
        name: {field: number for field, number in each.items() if field != "oldest"}
        for name, each in states.items()
    }
