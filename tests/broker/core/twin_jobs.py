"""The jobs of the naive twin: their fields, what every command does to them, and their history."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.broker.core.twin_lines import Lines

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
SETTLE = {  # what `settle` may do: the moves out of `pending` are the job's own
    "pending": [],
    "wanted": ["manual", "refused", "submitted"],
    "submitted": ["confirmed", "manual", "refused"],
    "manual": ["wanted"],
    "confirmed": [],
    "refused": [],
    "closed": [],
}
DATED = ("wanted", "submitted", "manual")
"""The states of a settlement of which a count tells since when the oldest job is in them."""
OPEN = ("pending", "wanted", "submitted", "manual")
TO_CLAIM = ("awaiting_payment", "awaiting_input", "running", "wanted", "submitted")
RETRYABLE = (
    "overloaded", "draining", "repository_full", "storage_full", "reply_full", "wait_timeout",
)  # fmt: skip
FIRST, LAST = 16, 48
"""How many entries of a history are kept: from its beginning, and from its end."""
BY_DEFAULT = {
    "queue": "default", "priority": 0, "attempts": 0, "on_hold": False, "stop_requested": False,
}  # fmt: skip
NOT_COMPARED = ("type", "job_id", "not_before", "traceparent")
"""What a repeated creation need not have alike. Its `job_id` is alike anyway."""


class No(Exception):  # noqa: N818 - an answer
    """A refusal, with the details that the design asks for."""

    def __init__(self, code: str, **details: object) -> None:
        super().__init__(code)
        self.code = code
        self.wire = {"type": "error", "code": code, "retryable": code in RETRYABLE, **details}


def given(mapping: Wire) -> Wire:
    return {name: value for name, value in mapping.items() if value is not None}


def shown(job: Wire, *, texts: bool = True, lease: Wire | None = None) -> Wire:
    """Return a job as it goes on the wire, without what is nil or has its default."""
    wire = {
        name: value
        for name, value in job.items()
        if not name.startswith("_") and value is not None and BY_DEFAULT.get(name) != value
    }
    if job["inputs"]:
        names = ("version", "schema", "text", "hash") if texts else ("version", "hash")
        wire["inputs"] = [given({name: one[name] for name in names}) for one in job["inputs"]]
    else:
        wire.pop("inputs", None)
    if job["settlement"] is not None:
        wire["settlement"] = given(job["settlement"])
    if lease is not None:
        wire["lease"] = lease
    return wire


class Jobs:
    """All jobs, in the order of creation, and the holders of their leases."""

    def __init__(self, now: datetime, limits: dict[str, int]) -> None:
        self.at = self.wall = now  # the time of records never goes back
        self.mono_ms = 0
        self.limits = limits
        self.jobs: list[Wire] = []
        self.entered: list[tuple[str, str]] = []  # (job, status), in the order of entry
        self.lines = Lines()
        self.leases: list[Wire] = []
        self.token = 0
        self.extended = 0  # how many ends leases have had
        self.ends = 0  # how many jobs have finished
        self.happened: Counter[str] = Counter()  # what no command tells of
        self.by: str | None = None  # who sent the command; None: the broker itself
        self.client: str | None = None

    # --- looking ------------------------------------------------------------------------------

    def known(self, job_id: str) -> Wire | None:
        return next((job for job in self.jobs if job["job_id"] == job_id), None)

    def find(self, job_id: str) -> Wire:
        job = self.known(job_id)
        if job is None:
            raise No("job_not_found", job_id=job_id)
        return job

    def lease_on(self, job_id: str) -> Wire | None:
        return next((lease for lease in self.leases if lease["job_id"] == job_id), None)

    def holder(self, job_id: str) -> Wire | None:
        """Return how a standing lease is shown: never its token."""
        lease = self.lease_on(job_id)
        if lease is None:
            return None
        left_ms = max(0, lease["ends"] - self.mono_ms)
        return {"by": lease["by"], "client": lease["client"] or "", "left_ms": left_ms}

    def state_to_claim(self, job: Wire) -> str | None:
        """Return the state in which a claim may find the job: a status, or of its settlement."""
        state = job["status"]
        if state in FINAL and job["settlement"] is not None:
            state = job["settlement"]["state"]
        return state if state in TO_CLAIM else None

    def is_finished(self, job: Wire) -> bool:
        settlement = job["settlement"]
        return job["status"] in FINAL and (settlement is None or settlement["state"] not in OPEN)

    def not_before(self, job: Wire) -> datetime | None:
        if job["status"] == "running":
            moment: datetime | None = job["not_before"]
            return moment
        return job["settlement"]["not_before"] if job["status"] in FINAL else None

    # --- the lines ----------------------------------------------------------------------------

    def place(self, job: Wire) -> None:
        """Put a job at the end of its line if it may be claimed now, else out of all lines."""
        state, free = self.state_to_claim(job), self.lease_on(job["job_id"]) is None
        moment = self.not_before(job) if state else None
        if state and free and not job["on_hold"] and (moment is None or moment <= self.at):
            self.lines.join(state, job["queue"], job["priority"], job["job_id"])
        else:
            self.lines.leave(job["job_id"])

    def let_due_ones_join(self) -> None:
        waiting = [
            (self.not_before(job), number, job)
            for number, job in enumerate(self.jobs)
            if self.state_to_claim(job)
            and self.not_before(job) is not None
            and not self.lines.has(job["job_id"], self.state_to_claim(job) or "")
        ]
        for _, _, job in sorted(waiting, key=lambda each: each[:2]):
            self.place(job)
            self.happened["a delayed job is due"] += job["job_id"] in str(self.lines.ready)

    def free(self, lease: Wire) -> None:
        self.leases.remove(lease)
        self.place(self.find(lease["job_id"]))

    # --- history ------------------------------------------------------------------------------

    def note(self, job: Wire, what: str, **more: object) -> None:
        entry = {"at": self.at, "what": what, "by": self.by, "client": self.client, **more}
        if self.by is None:
            entry["client"] = None
        job["_history"].append(given(entry))

    def history(self, job: Wire) -> Wire:
        entries = job["_history"]
        self.happened["a history is too long"] += len(entries) > FIRST + LAST
        kept = entries if len(entries) <= FIRST + LAST else entries[:FIRST] + entries[-LAST:]
        return {
            "type": "history",
            "job_id": job["job_id"],
            "entries": [{"at": job["created_at"], "what": "created"}, *kept],
            "left_out": len(entries) - len(kept),
            "lease": self.holder(job["job_id"]),
        }

    # --- changes ------------------------------------------------------------------------------

    def create(self, command: Wire, made: list[str]) -> Wire:
        job_id = command.get("job_id")
        job = self.known(job_id) if job_id else None
        if job is not None:
            for name, value in command.items():
                if name in NOT_COMPARED or BY_DEFAULT.get(name) == value != "default":
                    continue
                if name == "settle":
                    alike = not value or job["settlement"] is not None
                else:
                    alike = job[name] == value
                if not alike:
                    raise No(
                        "job_conflict", job_id=job_id, status=job["status"],
                        version=job["version"],
                    )  # fmt: skip
            return job
        if len(self.jobs) >= self.limits["jobs"]:
            raise No("repository_full", limit=self.limits["jobs"])
        queue = command.get("queue", "default")
        self.check_queue(queue)
        payment = command.get("blockchain_identifier")
        if payment and any(job["blockchain_identifier"] == payment for job in self.jobs):
            raise No("job_conflict")
        job_id = job_id or made.pop(0)
        assert self.known(job_id) is None, "the broker chose an id that there is"
        wanted = command.get("settle")
        job = {
            "job_id": job_id,
            "status": "awaiting_payment",
            "input_hash": command["input_hash"],
            "blockchain_identifier": payment or "mock_bc_" + job_id[:8],
            "created_at": self.at,
            "updated_at": self.at,
            "result": None,
            "error": None,
            "version": 1,
            "input": command.get("input"),
            "identifier_from_purchaser": command.get("identifier_from_purchaser"),
            "pay_by_time": command.get("pay_by_time")
            or self.wall + timedelta(milliseconds=self.limits["pay_within_ms"]),
            "submit_result_time": command.get("submit_result_time"),
            "input_schema": None,
            "provided_input": None,
            "queue": queue,
            "priority": command.get("priority", 0),
            "not_before": self.in_records(command.get("not_before")),
            "attempts": 0,
            "inputs": [],
            "progress": None,
            "on_hold": False,
            "stop_requested": False,
            "meta": command.get("meta"),
            "traceparent": command.get("traceparent"),
            "settlement": self.new_settlement("pending") if wanted else None,
            "_lapses": 0,
            "_history": [],
            "_finished": None,
        }
        self.jobs.append(job)
        self.lines.begin(queue)
        self.entered.append((job_id, "awaiting_payment"))
        self.place(job)
        return job

    def new_settlement(self, state: str) -> Wire:
        return {
            "state": state, "updated_at": self.at, "result_hash": None, "on_chain_state": None,
            "reason": None, "not_before": None,
        }  # fmt: skip

    def in_records(self, moment: datetime | None) -> datetime | None:
        """Return a time of the wall clock as one of records, which may be ahead."""
        return moment and moment + (self.at - self.wall)

    def later(self, span_ms: int) -> datetime:
        return self.at + timedelta(milliseconds=span_ms)

    def check_queue(self, queue: str) -> None:
        """A queue that is not alive needs room."""
        most = self.limits["queues"]
        if queue not in self.lines.alive and len(self.lines.alive) >= most:
            raise No("repository_full", limit=most)

    def enter(
        self,
        job: Wire,
        target: str,
        *,
        keep_lease: bool = False,
        forced: bool = False,
        answered: bool = False,
        **changes: object,
    ) -> None:
        """Move a job; the state machine has allowed it."""
        source = job["status"]
        job.update(status=target, version=job["version"] + 1, result=None, error=None)
        job.update(updated_at=self.at, _lapses=0, **changes)
        self.entered = [entry for entry in self.entered if entry[0] != job["job_id"]]
        self.entered.append((job["job_id"], target))
        lease = self.lease_on(job["job_id"])
        if lease is not None and not keep_lease:
            self.leases.remove(lease)
            if forced:
                self.note(job, "released", reason="forced")
        what = "input_provided" if answered else "moved"
        self.note(job, what, **{"from": source}, to=target)
        settlement = job["settlement"]
        if target in FINAL and settlement is not None and settlement["state"] == "pending":
            state = "wanted" if target == "completed" else "closed"
            settlement.update(state=state, updated_at=self.at)
        self.place(job)
        self.finish(job)

    def note_settled(self, job: Wire, source: str, target: str, reason: str | None) -> None:
        self.note(job, "settled", **{"from": source}, to=target, reason=reason)

    def finish(self, job: Wire) -> None:
        if self.is_finished(job) and job["_finished"] is None:
            self.ends += 1
            job["_finished"] = (self.at, self.ends)

    def forget(self, job: Wire) -> None:
        self.jobs.remove(job)
        self.lines.leave(job["job_id"])
        self.entered = [entry for entry in self.entered if entry[0] != job["job_id"]]
        self.let_queue_end(job["queue"])

    def let_queue_end(self, queue: str) -> None:
        used = queue in self.lines.paused or any(job["queue"] == queue for job in self.jobs)
        if not used and queue in self.lines.alive:
            self.lines.end(queue)
            self.happened["a queue ends"] += 1

    # --- claims -------------------------------------------------------------------------------

    def grant(self, command: Wire) -> list[Wire]:
        state = command.get("status") or command["settlement"]
        if "job_ids" in command:
            taken = self.take_by_id(state, command["job_ids"], command["limit"])
        else:
            by_default = ["default"] if state in ("running", "awaiting_input") else ["*"]
            queues: Sequence[str] = command.get("queues", by_default)
            taken = self.lines.take(state, queues, command["limit"])
        return [self.lend(job_id, command["lease_ms"]) for job_id in taken]

    def take_by_id(self, state: str, job_ids: Sequence[str], limit: int) -> list[str]:
        taken: list[str] = []
        for job_id in job_ids:
            job = self.known(job_id)
            if (
                job is not None
                and self.state_to_claim(job) == state
                and self.lease_on(job_id) is None
                and not job["on_hold"]
                and job["queue"] not in self.lines.paused
                and job_id not in taken
                and len(taken) < limit
            ):
                taken.append(job_id)
                self.lines.leave(job_id)
        for job_id in taken:
            self.lines.note_served(state, self.find(job_id)["queue"])
        return taken

    def lend(self, job_id: str, lease_ms: int) -> Wire:
        self.token += 1
        lease = {
            "job_id": job_id, "token": self.token, "lease_ms": lease_ms, "by": self.by,
            "client": self.client, "kept": False,
        }  # fmt: skip
        self.extend(lease, lease_ms)
        self.leases.append(lease)
        job = self.find(job_id)
        is_try = job["attempts"] and job["status"] == "running"
        self.note(job, "claimed", attempt=job["attempts"] + 1 if is_try else None)
        return {"job": shown(job, texts=False), "lease": self.token}

    def extend(self, lease: Wire, lease_ms: int) -> None:
        """Let a lease end so long from now. Of two that end at once the older end comes first."""
        self.extended += 1
        lease.update(ends=self.mono_ms + lease_ms, number=self.extended)
