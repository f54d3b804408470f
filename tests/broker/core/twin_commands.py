"""The commands of the naive twin, one method each, and what each of them may be refused for."""

from datetime import datetime, timedelta
from typing import Any

from tests.broker.core.twin_jobs import (
    DATED,
    LEGAL,
    SETTLE,
    STATUSES,
    TO_CLAIM,
    Jobs,
    No,
    Wire,
    given,
    shown,
)
from tollgate.broker.core.roles import NOBODY, Principal, roles_for
from tollgate.domain.commands import AnyCommand
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

KINDS = {kind.__struct_config__.tag: kind for kind in AnyCommand.__args__}
CHANGES = frozenset(str(name) for name, kind in KINDS.items() if kind.changes)
TEXTS = {
    "input": "text_bytes", "result": "text_bytes", "error": "text_bytes",
    "input_schema": "text_bytes",
    "identifier_from_purchaser": "identifier_from_purchaser_bytes",
    "blockchain_identifier": "blockchain_identifier_bytes",
    "meta": "meta_bytes", "reason": "reason_bytes", "on_chain_state": "reason_bytes",
}  # fmt: skip
"""The limit on each text. `get` looks for identifiers of any length."""


def parks(commands: list[Wire]) -> bool:
    """Return whether a message may have to wait."""
    kinds = [(each["type"], each.get("wait_ms")) for each in commands]
    return any(kind == "wait" or (kind == "claim" and span_ms) for kind, span_ms in kinds)


class Commands(Jobs):
    def __init__(self, now: datetime, limits: dict[str, int]) -> None:
        super().__init__(now, limits)
        self.who: Principal = NOBODY
        self.peer = b""
        self.session = 0
        self.made: list[str] = []
        self.is_full = False
        self.has_progressed = False  # by the message that is decided

    # --- what may be refused before a job is looked up ------------------------------------------

    def check_command(self, command: Wire) -> None:
        kind, rights = command["type"], self.who.rights
        if not any(role in self.who.roles for role in roles_for(KINDS[kind])):
            raise No("not_authorized")
        if kind != "get":
            for name, limit in TEXTS.items():
                self.check_text(command.get(name), limit)
        if kind == "touch" and command.get("progress"):
            self.check_text(command["progress"]["text"], "progress_bytes")
        if self.is_full and (kind in CHANGES or command.get("open_session")):
            raise No("storage_full")
        if kind == "claim":
            named = command.get("status") or command["settlement"]
            known = [*JobStatus, *SettlementState]
            if not any(state in rights.claims for state in known if state == named):
                raise No("not_authorized")
        if command.get("force") and not rights.force:
            raise No("not_authorized")
        if kind == "release" and command.get("hold") and KINDS["hold"] not in rights.commands:
            raise No("not_authorized")

    def check_text(self, text: str | None, limit: str) -> None:
        if text is not None and len(text.encode()) > self.limits[limit]:
            raise No("too_large", limit=self.limits[limit])

    # --- what may be refused of one job ---------------------------------------------------------

    def check_version(self, job: Wire, command: Wire) -> None:
        if command.get("expected_version") not in (None, job["version"]):
            raise self.no("version_conflict", job)

    def no(self, code: str, job: Wire, **details: object) -> No:
        return No(
            code, job_id=job["job_id"], status=job["status"], version=job["version"], **details
        )

    def check_lease(self, job: Wire, command: Wire, *, needed: bool) -> Wire | None:
        """Return the lease that a command names; `needed` if one that stands must be named."""
        lease, token = self.lease_on(job["job_id"]), command.get("lease")
        if token is not None and (lease is None or lease["token"] != token):
            raise self.no("lease_lost", job)
        if token is None and lease is not None and needed:
            raise self.no("lease_held", job)
        return lease if token is not None else None

    def one_job(self, job: Wire) -> Wire:
        return {"type": "job", "job": shown(job)}

    # --- one job --------------------------------------------------------------------------------

    def do_create(self, command: Wire) -> Wire:
        return self.one_job(self.create(command, self.made))

    def do_get(self, command: Wire) -> Wire:
        if "job_id" in command:
            job = self.find(command["job_id"])
        else:
            asked = command["blockchain_identifier"]
            found = [job for job in self.jobs if job["blockchain_identifier"] == asked]
            if not found:
                raise No("job_not_found")
            job = found[0]
        lease = self.holder(job["job_id"]) if command.get("lease") else None
        return {"type": "job", "job": shown(job, lease=lease)}

    def do_transition(self, command: Wire) -> Wire:
        job, target = self.find(command["job_id"]), command["target"]
        self.check_version(job, command)
        self.check_lease(job, command, needed=not command.get("force"))
        source = job["status"]
        if (JobStatus(source), JobStatus(target)) not in self.who.rights.moves:
            raise No("not_authorized", job_id=job["job_id"])
        self.check_legal(job, target)
        changes: Wire = {name: command[name] for name in ("result", "error") if name in command}
        keep = bool(command.get("keep_lease"))
        if target == "awaiting_input":
            schema = command.get("input_schema")
            self.check_rounds(job, schema, rounds=1)
            job["inputs"].append(
                {"version": job["version"] + 1, "schema": schema, "text": None, "hash": None}
            )
            changes.update(input_schema=schema, provided_input=None)
            lease = self.lease_on(job["job_id"])
            if keep and lease is not None:
                lease["kept"] = True
        self.enter(job, target, keep_lease=keep, forced=bool(command.get("force")), **changes)
        return self.one_job(job)

    def check_legal(self, job: Wire, target: str) -> None:
        if target not in LEGAL[job["status"]]:
            raise self.no("illegal_transition", job, target=target, allowed=LEGAL[job["status"]])

    def check_rounds(self, job: Wire, text: str | None, rounds: int = 0) -> None:
        """Check the bounds of all rounds of input together."""
        if len(job["inputs"]) + rounds > self.limits["input_rounds"]:
            raise No("too_large", limit=self.limits["input_rounds"])
        texts = [each[name] or "" for each in job["inputs"] for name in ("schema", "text")]
        total = sum(len(each.encode()) for each in [*texts, text or ""])
        if total > self.limits["inputs_bytes"]:
            raise No("too_large", limit=self.limits["inputs_bytes"])

    def do_provide_input(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["status"] != "awaiting_input":
            raise self.no("illegal_transition", job, target="running")
        self.check_rounds(job, command["input"])
        job["inputs"][-1].update(text=command["input"], hash=command.get("input_hash"))
        lease = self.lease_on(job["job_id"])
        keep = lease is not None and lease["kept"]
        self.enter(job, "running", keep_lease=keep, answered=True, provided_input=command["input"])
        return self.one_job(job)

    def do_cancel(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["status"] != "awaiting_payment":
            raise self.no("illegal_transition", job, target="failed")
        self.enter(job, "failed", error="cancelled")
        return self.one_job(job)

    def do_hold(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        self.check_not_finished(job)
        self.hold(job, command.get("reason"))
        return self.one_job(job)

    def check_not_finished(self, job: Wire) -> None:
        if self.is_finished(job):
            raise self.no("illegal_transition", job)

    def hold(self, job: Wire, reason: str | None) -> None:
        if not job["on_hold"]:
            job["on_hold"] = True
            self.note(job, "held", reason=reason)
            self.place(job)

    def do_resume(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["on_hold"]:
            job["on_hold"] = False
            self.note(job, "resumed")
            self.place(job)
        return self.one_job(job)

    def do_request_stop(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        self.check_not_finished(job)
        if not job["stop_requested"]:
            job["stop_requested"] = True
            self.note(job, "stop_requested", reason=command.get("reason"))
        return self.one_job(job)

    def do_annotate(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        self.check_version(job, command)
        if job["meta"] != command["meta"]:
            job["meta"] = command["meta"]
            self.note(job, "annotated")
        return self.one_job(job)

    def do_settle(self, command: Wire) -> Wire:
        job, target = self.find(command["job_id"]), command.get("to")
        self.check_lease(job, command, needed=target is not None)
        settlement = job["settlement"]
        if settlement is None:
            raise No("illegal_transition", job_id=job["job_id"], version=job["version"])
        state, retry_ms = settlement["state"], command.get("retry_after_ms")
        self.check_settlement(job, state, target, is_retry=retry_ms is not None)
        known = settlement["on_chain_state"]
        for name in ("result_hash", "on_chain_state", "reason"):
            if name in command:
                settlement[name] = command[name]
        if target is not None:
            settlement.update(state=target, updated_at=self.at, not_before=None)
        if retry_ms is not None:
            settlement["not_before"] = self.later(retry_ms)
        reason = command.get("reason") or command.get("on_chain_state")
        if target is not None:
            self.note_settled(job, state, target, reason)
        elif command.get("reason") or settlement["on_chain_state"] != known:
            self.note(job, "settled", reason=reason)
        is_ours = "lease" in command or self.lease_on(job["job_id"]) is None
        if target is not None or (retry_ms is not None and is_ours):
            self.leases = [each for each in self.leases if each["job_id"] != job["job_id"]]
            self.lines.leave(job["job_id"])  # it joins again, at the end
            self.place(job)
            self.finish(job)
        return self.one_job(job)

    def check_settlement(
        self, job: Wire, state: str, target: str | None, *, is_retry: bool
    ) -> None:
        illegal = No("illegal_transition", job_id=job["job_id"], version=job["version"])
        if target is not None:
            move = SettlementState(state), SettlementState(target)
            if move not in self.who.rights.settles:
                raise No("not_authorized", job_id=job["job_id"])
            if target not in SETTLE[state]:
                raise illegal
        if is_retry and (target or state) not in TO_CLAIM:
            raise illegal

    def do_history(self, command: Wire) -> Wire:
        return self.history(self.find(command["job_id"]))

    # --- queues, and all jobs -------------------------------------------------------------------

    def do_pause_queue(self, command: Wire) -> Wire:
        queue = command["queue"]
        if queue not in self.lines.paused:
            self.check_queue(queue)
            self.lines.begin(queue)
            self.lines.paused.append(queue)
        return {"type": "ok"}

    def do_resume_queue(self, command: Wire) -> Wire:
        if command["queue"] in self.lines.paused:
            self.lines.paused.remove(command["queue"])
            self.let_queue_end(command["queue"])
        return {"type": "ok"}

    def matching(self, command: Wire) -> list[Wire]:
        return [
            job
            for job in self.jobs
            if command.get("status") in (None, job["status"])
            and command.get("queue") in (None, job["queue"])
            and command.get("settlement") in (None, (job["settlement"] or {}).get("state"))
        ]

    def do_count(self, command: Wire) -> Wire:
        jobs, settlement = self.matching(command), command.get("settlement")
        here = [job["job_id"] for job in jobs]
        settled = [job["settlement"] for job in jobs if job["settlement"]]
        states = [each["state"] for each in settled]
        if settlement is not None:
            times = [each["updated_at"] for each in settled if settlement in DATED]
            return {
                "type": "count", "total": len(jobs), "by_status": {},
                "oldest": {settlement: min(times, default=None)},
                "by_settlement": {settlement: len(jobs)},
            }  # fmt: skip
        asked = [command["status"]] if "status" in command else list(STATUSES)
        oldest = {}
        for status in asked:
            first = next((one for one, at in self.entered if at == status and one in here), None)
            oldest[status] = first and self.find(first)["updated_at"]
        shown_states = () if "status" in command else states
        return {
            "type": "count", "total": len(jobs), "oldest": oldest,
            "by_status": {s: sum(job["status"] == s for job in jobs) for s in asked},
            "by_settlement": {state: states.count(state) for state in shown_states},
        }  # fmt: skip

    def do_list(self, command: Wire) -> Wire:
        """Show all from the start that match: the real one is asked page by page."""
        jobs = self.matching(command)
        if command.get("newest"):
            jobs.reverse()
        holders = [self.holder(job["job_id"]) if command.get("lease") else None for job in jobs]
        pairs = zip(jobs, holders, strict=True)
        return {
            "type": "jobs",
            "jobs": [shown(job, texts=False, lease=lease) for job, lease in pairs],
        }

    # --- leases ---------------------------------------------------------------------------------

    def do_claim(self, command: Wire) -> Wire:
        return {"type": "leases", "leases": self.grant(command)}

    def do_touch(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        lease = self.check_lease(job, command, needed=True)
        assert lease is not None
        self.extend(lease, command["lease_ms"])
        progress, last = command.get("progress"), job["progress"]
        is_late = last is None or self.at - last["at"] >= timedelta(seconds=1)
        self.happened["progress comes too soon"] += progress is not None and not is_late
        if progress is not None and is_late and not self.is_full:
            told = {"text": progress["text"], "fraction": progress.get("fraction")}
            job["progress"] = {**given(told), "at": self.at}
            self.has_progressed = True
        return {
            "type": "lease", "job_id": job["job_id"], "lease": lease["token"],
            "lease_ms": command["lease_ms"], "stop_requested": job["stop_requested"],
        }  # fmt: skip

    def do_release(self, command: Wire) -> Wire:
        job = self.find(command["job_id"])
        lease = self.check_lease(job, command, needed=True)
        assert lease is not None
        delay_ms, reason = command.get("delay_ms"), command.get("reason")
        more: Wire = {"reason": reason}
        if delay_ms is not None:
            if job["status"] != "running":
                raise self.no("illegal_transition", job)
            limit: datetime | None = job["submit_result_time"]
            if limit is not None:
                left_ms = (limit - self.wall) // timedelta(milliseconds=1)
                if delay_ms >= (limit - self.wall) / timedelta(milliseconds=1):
                    raise No("too_large", limit=left_ms)
            job["not_before"] = self.later(delay_ms)
        if job["status"] == "running" and (delay_ms is not None or reason is not None):
            job["attempts"] += 1
            more["attempt"] = job["attempts"]
        self.leases.remove(lease)
        self.note(job, "released", **more)
        if command.get("hold"):
            self.hold(job, reason)
        self.place(job)
        return {"type": "ok"}


def plain(value: Any) -> Any:
    """Return a result as it is compared: reasons that the broker words itself are only named."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: plain(item) for name, item in value.items()}
    error = value.get("error")
    if isinstance(error, str):
        for reason in ("lapsed", "pay_by_time", "submit_result_time"):
            if reason in error:
                value["error"] = "~" + reason
    return value
