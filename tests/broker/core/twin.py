"""The broker as its design describes it, deliberately naive: lists, searched from end to end.

Written from the design alone, to be compared with the real one. Results are plain dicts, as on
the wire; where the design leaves words open (messages), there are none.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

Wire = dict[str, Any]
STATUSES = ("awaiting_payment", "awaiting_input", "running", "completed", "failed")
LEGAL = {
    "awaiting_payment": ["failed", "running"],
    "awaiting_input": ["failed", "running"],
    "running": ["awaiting_input", "completed", "failed"],
    "completed": [],
    "failed": [],
}
FINAL = ("completed", "failed")
RETRYABLE = ("overloaded", "draining", "repository_full", "wait_timeout")


def shown(job: Wire) -> Wire:
    """Return a job as it goes on the wire, without the fields that are nil."""
    return {name: value for name, value in job.items() if value is not None}


class No(Exception):  # noqa: N818 - an answer
    """A refusal, with the details that the design asks for."""

    def __init__(self, code: str, **details: object) -> None:
        super().__init__(code)
        self.wire = {"type": "error", "code": code, "retryable": code in RETRYABLE, **details}


class Twin:
    def __init__(
        self, now: datetime, *, jobs: int, parked: int, watched: int, text: int, lapses: int,
        grace_ms: int, pay_within_ms: int,
    ) -> None:  # fmt: skip
        self.wall = now
        self.mono_ms = 0
        self.jobs_max, self.parked_max, self.watched_max = jobs, parked, watched
        self.text_max, self.lapses_max = text, lapses
        self.grace = timedelta(milliseconds=grace_ms)
        self.pay_within = timedelta(milliseconds=pay_within_ms)
        self.jobs: list[Wire] = []  # by creation
        self.entries: list[tuple[str, str]] = []  # (job, status), in the order of entry
        self.leases: list[Wire] = []
        self.parked: list[Wire] = []
        self.token = 0
        self.out: list[tuple[bytes, int, Wire]] = []
        self.lapsed: dict[str, int] = {}

    # --- what a message does ------------------------------------------------------------------

    def message(
        self, peer: bytes, session: int, seq: int, commands: Sequence[Wire], made: Sequence[str]
    ) -> None:
        """Execute a message; `made` are the ids that the broker chose, for creates without one."""
        self.clock(self.wall, self.mono_ms)  # deadlines come before the commands of a batch
        self.made = list(made)
        who = (session, b"" if session else peer, seq)
        command = commands[0] if commands else {"type": "nothing"}
        if command["type"] == "wait" or (command["type"] == "claim" and command["wait_ms"]):
            try:
                result = self.park_or_answer(who, peer, seq, command)
            except No as no:
                if no.wire["code"] == "overloaded":
                    self.out.append((peer, seq, {"type": "refused", "error": no.wire}))
                    result = None
                else:
                    result = no.wire
            if result is not None:
                self.reply(peer, seq, [result])
        else:
            self.reply(peer, seq, [self.one(command) for command in commands])
        self.serve()

    def reply(self, peer: bytes, seq: int, results: list[Wire]) -> None:
        self.out.append((peer, seq, {"type": "reply", "results": results}))

    def one(self, command: Wire) -> Wire:
        try:
            result: Wire = getattr(self, "do_" + command["type"])(command)
        except No as no:
            return no.wire
        return result

    def check_text(self, *texts: str | None) -> None:
        for text in texts:
            if text is not None and len(text.encode()) > self.text_max:
                raise No("too_large", limit=self.text_max)

    def find(self, job_id: str) -> Wire:
        for job in self.jobs:
            if job["job_id"] == job_id:
                return job
        raise No("job_not_found")

    def do_create(self, command: Wire) -> Wire:
        self.check_text(command.get("input"))
        job_id = command.get("job_id")
        for job in self.jobs:
            if job["job_id"] == job_id:
                if any(job[name] != command[name] for name in command if name != "type"):
                    raise No("job_conflict", status=job["status"], version=job["version"])
                return {"type": "job", "job": shown(job)}
        if len(self.jobs) >= self.jobs_max:
            raise No("repository_full", limit=self.jobs_max)
        payment = command.get("blockchain_identifier")
        if payment is not None and any(j["blockchain_identifier"] == payment for j in self.jobs):
            raise No("job_conflict")
        if job_id is None:
            job_id = self.made.pop(0)
            assert all(job["job_id"] != job_id for job in self.jobs)
        job = {
            "job_id": job_id,
            "status": "awaiting_payment",
            "input_hash": command["input_hash"],
            "blockchain_identifier": payment or "mock_bc_" + job_id[:8],
            "created_at": self.wall,
            "updated_at": self.wall,
            "result": None,
            "error": None,
            "version": 1,
            "input": command.get("input"),
            "identifier_from_purchaser": command.get("identifier_from_purchaser"),
            "pay_by_time": command.get("pay_by_time") or self.wall + self.pay_within,
            "submit_result_time": command.get("submit_result_time"),
            "input_schema": None,
            "provided_input": None,
        }
        self.jobs.append(job)
        self.lapsed[job_id] = 0
        self.entries.append((job_id, "awaiting_payment"))
        return {"type": "job", "job": shown(job)}

    def do_get(self, command: Wire) -> Wire:
        if "job_id" in command:
            return {"type": "job", "job": shown(self.find(command["job_id"]))}
        for job in self.jobs:
            if job["blockchain_identifier"] == command["blockchain_identifier"]:
                return {"type": "job", "job": shown(job)}
        raise No("job_not_found")

    def lease_on(self, job_id: str) -> Wire | None:
        return next((lease for lease in self.leases if lease["job_id"] == job_id), None)

    def check_version(self, job: Wire, command: Wire) -> None:
        if command.get("expected_version") not in (None, job["version"]):
            raise No("version_conflict", status=job["status"], version=job["version"])

    def enter(self, job: Wire, target: str, **changes: object) -> None:
        job.update(status=target, version=job["version"] + 1, result=None, error=None)
        job["updated_at"] = max(job["updated_at"], self.wall)
        job.update(changes)
        self.entries = [entry for entry in self.entries if entry[0] != job["job_id"]]
        self.entries.append((job["job_id"], target))
        self.leases = [lease for lease in self.leases if lease["job_id"] != job["job_id"]]
        self.lapsed[job["job_id"]] = 0
        for parked in list(self.parked):
            command = parked["command"]
            ends = target in FINAL or target in command.get("statuses", ())
            if command["type"] == "wait" and job["job_id"] in command["job_ids"] and ends:
                self.parked.remove(parked)
                self.reply(parked["peer"], parked["seq"], [{"type": "job", "job": shown(job)}])

    def go(self, job: Wire, target: str, **changes: object) -> Wire:
        if target not in LEGAL[job["status"]]:
            raise No(
                "illegal_transition", status=job["status"], version=job["version"],
                allowed=LEGAL[job["status"]],
            )  # fmt: skip
        self.enter(job, target, **changes)
        return {"type": "job", "job": shown(job)}

    def do_transition(self, command: Wire) -> Wire:
        self.check_text(*(command.get(name) for name in ("result", "error", "input_schema")))
        job = self.find(command["job_id"])
        self.check_version(job, command)
        lease, shown = self.lease_on(job["job_id"]), command.get("lease")
        if shown is not None and (lease is None or lease["token"] != shown):
            raise No("lease_lost", status=job["status"], version=job["version"])
        if shown is None and lease is not None:
            raise No("lease_held", status=job["status"], version=job["version"])
        changes: Wire = {name: command[name] for name in ("result", "error") if name in command}
        if command["target"] == "awaiting_input":
            changes.update(input_schema=command.get("input_schema"), provided_input=None)
        return self.go(job, command["target"], **changes)

    def do_provide_input(self, command: Wire) -> Wire:
        self.check_text(command["input"])
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["status"] != "awaiting_input":
            raise No("illegal_transition", status=job["status"], version=job["version"])
        return self.go(job, "running", provided_input=command["input"])

    def do_cancel(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["status"] != "awaiting_payment":
            raise No("illegal_transition", status=job["status"], version=job["version"])
        return self.go(job, "failed", error="cancelled")

    def do_count(self, command: Wire) -> Wire:
        asked = [command["status"]] if "status" in command else list(STATUSES)
        by_status = {s: sum(job["status"] == s for job in self.jobs) for s in asked}
        oldest = {}
        for status in asked:
            first = next((job_id for job_id, at in self.entries if at == status), None)
            oldest[status] = first and self.find(first)["updated_at"]
        total = sum(by_status.values())
        return {"type": "count", "total": total, "by_status": by_status, "oldest": oldest}

    def do_list(self, command: Wire) -> Wire:
        """Show all from the start that match: the real one is asked page by page."""
        jobs = [job for job in self.jobs if command.get("status") in (None, job["status"])]
        return {"type": "jobs", "jobs": [shown(job) for job in jobs]}

    # --- leases and waiting -------------------------------------------------------------------

    def grant(self, command: Wire) -> Wire:
        leases: list[Wire] = []
        for job in self.jobs:
            free = job["status"] == command["status"] and self.lease_on(job["job_id"]) is None
            if free and len(leases) < command["limit"]:
                self.token += 1
                self.leases.append(
                    {
                        "job_id": job["job_id"],
                        "token": self.token,
                        "ends": self.mono_ms + command["lease_ms"],
                    }
                )
                leases.append({"job": shown(job), "lease": self.token})
        return {"type": "leases", "leases": leases}

    do_claim = grant

    def do_touch(self, command: Wire) -> Wire:
        self.find(command["job_id"])
        lease = self.lease_on(command["job_id"])
        if lease is None or lease["token"] != command["lease"]:
            raise No("lease_lost")
        lease["ends"] = self.mono_ms + command["lease_ms"]
        return {**command, "type": "lease"}

    def do_release(self, command: Wire) -> Wire:
        self.find(command["job_id"])
        lease = self.lease_on(command["job_id"])
        if lease is None or lease["token"] != command["lease"]:
            raise No("lease_lost")
        self.leases.remove(lease)
        return {"type": "ok"}

    def check_room(self, command: Wire) -> None:
        # All peers here are one principal, which may have three quarters.
        for limit in (self.parked_max, self.parked_max - self.parked_max // 4):
            if len(self.parked) >= limit:
                raise No("overloaded", limit=limit)
        watched = sum(len(set(parked["command"].get("job_ids", ()))) for parked in self.parked)
        for limit in (self.watched_max, self.watched_max - self.watched_max // 4):
            if command["type"] == "wait" and watched + len(set(command["job_ids"])) > limit:
                raise No("overloaded", limit=limit)

    def park_or_answer(self, who: object, peer: bytes, seq: int, command: Wire) -> Wire | None:
        if command["type"] == "wait":
            jobs = [self.find(job_id) for job_id in command["job_ids"]]
            for job in jobs:
                if job["status"] in FINAL or job["status"] in command.get("statuses", ()):
                    return {"type": "job", "job": shown(job)}
            span_ms = command["timeout_ms"]
            if not span_ms:
                raise No("wait_timeout")
        else:
            result = self.grant(command)
            if result["leases"]:
                return result
            span_ms = command["wait_ms"]
        for parked in self.parked:
            if parked["who"] == who:  # a repeat: it takes the place of the first
                parked.update(peer=peer, seq=seq, ends=self.mono_ms + span_ms)
                return None
        self.check_room(command)
        self.parked.append(
            {"who": who, "peer": peer, "seq": seq, "command": command,
             "ends": self.mono_ms + span_ms}
        )  # fmt: skip
        return None

    def serve(self) -> None:
        for parked in list(self.parked):  # first come first served
            if parked["command"]["type"] == "claim":
                result = self.grant(parked["command"])
                if result["leases"]:
                    self.parked.remove(parked)
                    self.reply(parked["peer"], parked["seq"], [result])

    # --- time ---------------------------------------------------------------------------------

    def clock(self, wall: datetime, mono_ms: int) -> None:
        self.wall, self.mono_ms = wall, mono_ms
        for parked in list(self.parked):
            if parked["ends"] <= mono_ms:
                self.parked.remove(parked)
                claim = parked["command"]["type"] == "claim"
                result = {"type": "leases", "leases": []} if claim else No("wait_timeout").wire
                self.reply(parked["peer"], parked["seq"], [result])
        for lease in sorted(self.leases, key=lambda lease: (lease["ends"], lease["job_id"])):
            if lease["ends"] <= mono_ms:
                self.leases.remove(lease)
                job = self.find(lease["job_id"])
                lapses = self.lapsed[job["job_id"]] = self.lapsed[job["job_id"]] + 1
                if job["status"] == "running" and lapses >= self.lapses_max:
                    self.enter(job, "failed", error="~lapsed")
        self.end_late("pay_by_time", ("awaiting_payment",), wall - self.grace)
        self.end_late("submit_result_time", ("running", "awaiting_input"), wall)
        self.serve()

    def end_late(self, deadline: str, statuses: Sequence[str], wall: datetime) -> None:
        late = [
            job
            for job in self.jobs
            if job["status"] in statuses and job[deadline] is not None and job[deadline] <= wall
        ]
        for job in sorted(late, key=lambda job: (job[deadline], job["job_id"])):
            self.enter(job, "failed", error="~" + deadline)

    def undelivered(self, grants: Sequence[tuple[str, int]]) -> None:
        for job_id, token in grants:
            lease = self.lease_on(job_id)
            if lease is not None and lease["token"] == token:
                self.leases.remove(lease)

    def drain(self) -> None:
        for parked in self.parked:
            self.reply(parked["peer"], parked["seq"], [No("draining").wire])
        self.parked = []
