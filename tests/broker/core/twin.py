"""The broker as its design describes it, deliberately naive: lists, searched from end to end.

Written from the design alone, to be compared with the real one. Results are plain dicts, as on
the wire; where the design leaves words open (messages), there are none.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.broker.core import twin_figures
from tests.broker.core.twin_commands import CHANGES, Commands, parks
from tests.broker.core.twin_jobs import FINAL, No, Wire, shown
from tollgate.broker.core.roles import Principal, Role

Out = tuple[bytes, int, Wire]
WINDOW = 64
RESTORE_GAP = 2**32


class Twin(Commands):
    """Takes messages, sends answers, and remembers what it has answered."""

    def __init__(self, now: datetime, limits: dict[str, int]) -> None:
        super().__init__(now, limits)
        self.parked: list[Wire] = []
        self.sessions: dict[int, Wire] = {}
        self.last_session = 0
        self.is_draining = False
        self.out: list[Out] = []

    # --- messages -----------------------------------------------------------------------------

    def message(
        self,
        peer: bytes,
        who: Principal,
        frame: Wire,
        made: Sequence[str],
        *,
        is_first: bool = True,
    ) -> None:
        """Decide a message; `made` are the ids that the broker chose, for creates without one."""
        if is_first:  # what is due comes before the commands of a batch
            self.clock(self.wall, self.mono_ms)
        self.made = list(made)
        self.who, self.peer, self.has_progressed = who, peer, False
        seq, commands = frame["seq"], frame["commands"]
        try:
            session = self.check(frame)
            self.by, self.client = who.name, session["client"] if session else None
            self.session = frame["session"]
            if parks(commands):
                result = self.park_or_answer(frame, commands[0])
                if result is not None:
                    self.answer(peer, frame, commands, [result])
            elif session and seq in session["answers"]:
                remembered = zip(commands, session["answers"][seq][1], strict=True)
                results = [self.again(command, then) for command, then in remembered]
                self.reply(peer, seq, results)
            else:
                self.answer(peer, frame, commands, [self.one(command) for command in commands])
        except No as no:
            self.out.append((peer, seq, {"type": "refused", "error": no.wire}))
        self.by = self.client = None
        self.serve()

    def check(self, frame: Wire) -> Wire | None:
        """Raise the refusal of a whole message."""
        if frame["v"] != 1:
            raise No("unsupported_version")
        if len(frame["commands"]) > 1 and any(parks([each]) for each in frame["commands"]):
            raise No("malformed")
        if len(frame["commands"]) > self.limits["commands"]:
            raise No("too_large", limit=self.limits["commands"])
        if frame.get("valid_until") is not None and frame["valid_until"] < self.wall:
            raise No("expired")
        if self.is_draining:  # the scripts send nothing in a session then
            raise No("draining")
        return self.check_session(frame) if frame["session"] else None

    def check_session(self, frame: Wire) -> Wire:
        session = self.sessions.get(frame["session"])
        if session is None or session["by"] != self.who.name:
            raise No("session_evicted")
        seq, acked = frame["seq"], max(session["acked"], frame["acked"])
        if seq <= acked:
            raise No("stale_request")
        commands = frame["commands"]
        if seq > acked + WINDOW and [each["type"] for each in commands] != ["stop_waiting"]:
            raise No("overloaded", limit=WINDOW)
        first = session["answers"].get(seq)
        waits = next((each for each in self.parked if each["who"] == self.key(frame)), None)
        if first is not None and first[0] != commands:
            raise No("request_conflict")
        if waits is not None and [waits["command"]] != commands:
            raise No("request_conflict")
        return session

    def key(self, frame: Wire) -> object:
        return frame["session"], b"" if frame["session"] else self.peer, frame["seq"]

    def answer(self, peer: bytes, frame: Wire, commands: list[Wire], results: list[Wire]) -> None:
        """Reply to a message that happened just now, and remember it."""
        session = self.sessions.get(frame["session"])
        lasting = [
            result
            for command, result in zip(commands, results, strict=True)
            if command["type"] in CHANGES
            and result.get("code") not in ("storage_full", "not_authorized", "draining")
            and result.get("leases") != []
        ]
        if session is None or self.is_full:
            lasting = []
        elif not commands and frame["acked"] > session["acked"] and session["answers"]:
            lasting = [{}]  # it only acknowledges
        elif self.has_progressed:
            lasting = [{}]  # of a touch nothing but this is kept
        if session is not None and lasting:
            if not parks(commands):  # it may be answered when later ones have been acknowledged
                session["acked"] = max(session["acked"], frame["acked"])
            if any(command["type"] in CHANGES for command in commands):
                session["answers"][frame["seq"]] = (commands, results)
            for seq in list(session["answers"]):
                if seq <= session["acked"]:
                    del session["answers"][seq]
        self.reply(peer, frame["seq"], results)

    def reply(self, peer: bytes, seq: int, results: list[Wire]) -> None:
        self.out.append((peer, seq, {"type": "reply", "results": results}))

    def one(self, command: Wire) -> Wire:
        try:
            self.check_command(command)
            result: Wire = getattr(self, "do_" + command["type"])(command)
        except No as no:
            return no.wire
        return result

    def again(self, command: Wire, then: Wire) -> Wire:
        """Answer a command that was answered before: it does not happen again."""
        if command["type"] not in CHANGES:
            return self.one(command)
        if then["type"] == "leases":
            still = [
                {
                    "lease": grant["lease"],
                    "job": shown(self.find(grant["job"]["job_id"]), texts=False),
                }
                for grant in then["leases"]
                if (lease := self.lease_on(grant["job"]["job_id"]))
                and lease["token"] == grant["lease"]
            ]
            return {"type": "leases", "leases": still}
        if then["type"] != "job":
            return {name: then[name] for name in then if name != "allowed"}
        job = self.known(then["job"]["job_id"])
        if job is None:
            return No("job_not_found").wire
        was = {name: then["job"][name] for name in ("version", "status", "updated_at")}
        rounds = [
            each if each["version"] < was["version"] else {**each, "text": None, "hash": None}
            for each in job["inputs"]
            if each["version"] <= was["version"]
        ]
        if was["version"] == job["version"]:
            rounds = job["inputs"]
        then_shown = {**shown({**job, "inputs": rounds}), **was}
        return {"type": "job", "job": then_shown, "_again": True}

    def do_hello(self, command: Wire) -> Wire:
        roles = [role.value for role in Role if role in self.who.roles]
        number = None
        if command.get("open_session"):
            self.last_session += 1
            number = self.last_session
            self.sessions[number] = {
                "by": self.who.name, "client": command.get("client"), "acked": 0, "answers": {},
            }  # fmt: skip
        return {
            "type": "hello", "protocol": 1, "session": number, "roles": roles,
            "role": ",".join(roles), "revision": 3, "time": self.wall,
        }  # fmt: skip

    # --- waiting ------------------------------------------------------------------------------

    def check_room(self, command: Wire) -> None:
        total, own = self.limits["parked"], self.limits["parked_share"]
        mine = [parked for parked in self.parked if parked["name"] == self.who.name]
        here = [parked for parked in self.parked if parked["peer"] == self.peer]
        for parked, limit in ((self.parked, total), (here, own), (mine, total - total // 4)):
            if len(parked) >= limit:
                raise No("overloaded", limit=limit)
        if command["type"] == "wait":
            wanted, most = len(set(command["job_ids"])), self.limits["watched"]
            for group, limit in ((self.parked, most), (mine, most - most // 4)):
                watched = sum(len(set(each["command"].get("job_ids", ()))) for each in group)
                if watched + wanted > limit:
                    raise No("overloaded", limit=limit)

    def park_or_answer(self, frame: Wire, command: Wire) -> Wire | None:
        session = self.sessions.get(frame["session"])
        if session and frame["seq"] in session["answers"]:
            return self.again(command, session["answers"][frame["seq"]][1][0])
        result = self.one(command)
        if result.get("code") not in (None, "wait_timeout") or result.get("leases"):
            return result
        span_ms = command["timeout_ms"] if command["type"] == "wait" else command["wait_ms"]
        if result["type"] == "job" or not span_ms:
            return result
        for parked in self.parked:
            if parked["who"] == self.key(frame):  # a repeat: it takes the place of the first
                parked.update(peer=self.peer)
                return None
        self.check_room(command)
        self.parked.append(
            {
                "who": self.key(frame),
                "peer": self.peer,
                "name": self.who.name,
                "client": self.client,
                "frame": frame,
                "command": command,
                "ends": self.mono_ms + span_ms,
            }
        )
        return None

    def do_wait(self, command: Wire) -> Wire:
        jobs = [self.find(job_id) for job_id in command["job_ids"]]
        for job in jobs:
            if job["status"] in FINAL or job["status"] in command.get("statuses", ()):
                return {"type": "job", "job": shown(job)}
        raise No("wait_timeout")

    def do_explain(self, command: Wire) -> Wire:
        return twin_figures.explain(self, self.find(command["job_id"]), self.parked)

    def do_stats(self, command: Wire) -> Wire:
        return twin_figures.stats(self, command, self.parked)

    def do_stop_waiting(self, command: Wire) -> Wire:
        peer = b"" if self.session else self.peer
        for parked in list(self.parked):
            if parked["who"] in [(self.session, peer, seq) for seq in command["seqs"]]:
                self.end_wait(parked)
        return {"type": "ok"}

    def end_wait(self, parked: Wire) -> None:
        self.parked.remove(parked)
        claim = parked["command"]["type"] == "claim"
        result = {"type": "leases", "leases": []} if claim else No("wait_timeout").wire
        self.reply(parked["peer"], parked["frame"]["seq"], [result])

    def enter(self, job: Wire, target: str, **changes: Any) -> None:
        super().enter(job, target, **changes)
        for parked in list(self.parked):
            command = parked["command"]
            ends = target in FINAL or target in command.get("statuses", ())
            if command["type"] == "wait" and job["job_id"] in command["job_ids"] and ends:
                self.parked.remove(parked)
                self.reply(
                    parked["peer"], parked["frame"]["seq"], [{"type": "job", "job": shown(job)}]
                )

    def serve(self) -> None:
        """Give ready jobs to the claims that are parked: first come, first served."""
        for parked in list(self.parked):
            if parked["command"]["type"] == "claim" and not self.is_full:
                self.by, self.client = parked["name"], parked["client"]
                leases = self.grant(parked["command"])
                if leases:
                    self.parked.remove(parked)
                    self.answer(
                        parked["peer"], parked["frame"], [parked["command"]],
                        [{"type": "leases", "leases": leases}],
                    )  # fmt: skip
        self.by = self.client = None

    # --- time ---------------------------------------------------------------------------------

    def clock(
        self, wall: datetime, mono_ms: int, undelivered: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Let everything happen that is due; take back grants that could not be delivered."""
        if wall >= self.at:
            self.at = wall
        else:  # the wall clock was set back: the time of records goes on, a tenth slower
            self.at += timedelta(microseconds=900 * (mono_ms - self.mono_ms))
        self.wall, self.mono_ms = wall, mono_ms
        self.by = self.client = None
        self.let_due_ones_join()
        for parked in list(self.parked):
            if parked["ends"] <= mono_ms:
                self.end_wait(parked)
        if not self.is_full:
            self.take_back(undelivered)
            for lease in sorted(self.leases, key=lambda lease: (lease["ends"], lease["number"])):
                if lease["ends"] <= mono_ms:
                    self.lapse(lease)
            grace = timedelta(milliseconds=self.limits["payment_grace_ms"])
            self.end_late("pay_by_time", ("awaiting_payment",), self.wall - grace)
            self.end_late("submit_result_time", ("running", "awaiting_input"), self.wall)
            self.forget_old_ones()
        self.serve()

    def lapse(self, lease: Wire) -> None:
        job = self.find(lease["job_id"])
        attempt = None
        if job["status"] == "running":
            attempt = job["attempts"] = job["attempts"] + 1
        job["_lapses"] += 1
        self.note(job, "lapsed", attempt=attempt, reason=lease["client"] or lease["by"])
        self.happened["a kept lease lapses"] += lease["kept"]
        self.free(lease)
        if job["status"] == "running" and job["_lapses"] >= self.limits["lapses"]:
            self.happened["a job fails by lapses"] += 1
            self.enter(job, "failed", error="~lapsed")

    def end_late(self, deadline: str, statuses: Sequence[str], wall: datetime) -> None:
        late = [
            job
            for job in self.jobs
            if job["status"] in statuses and job[deadline] is not None and job[deadline] <= wall
        ]
        self.happened[f"a job fails by {deadline}"] += len(late)
        for job in sorted(late, key=lambda job: job[deadline]):
            self.enter(job, "failed", error="~" + deadline)

    def forget_old_ones(self) -> None:
        keep = timedelta(milliseconds=self.limits["keep_finished_ms"])
        finished = [job for job in self.jobs if self.is_finished(job)]
        finished.sort(key=lambda job: job["_finished"])
        for number, job in enumerate(finished):
            too_many = len(finished) - number > self.limits["max_finished"]
            if too_many or job["_finished"][0] + keep <= self.at:
                self.happened["too many are finished" if too_many else "a job is old"] += 1
                self.forget(job)

    def take_back(self, grants: Sequence[tuple[str, int]]) -> None:
        for job_id, token in grants:
            lease = self.lease_on(job_id)
            if lease is not None and lease["token"] == token:
                self.note(self.find(job_id), "released")
                self.free(lease)

    def restart(self) -> None:
        """Stop and start again: the parked commands are gone, leases last anew."""
        self.parked = []
        for job in self.jobs:
            lease = self.lease_on(job["job_id"])
            if lease is not None:
                self.extend(lease, lease["lease_ms"])

    def restore(self) -> None:
        """Go on in another log: no lease and no session stands, and no number comes twice."""
        self.restart()
        self.token += RESTORE_GAP
        self.last_session += RESTORE_GAP
        self.sessions = {}
        for job in self.jobs:
            lease = self.lease_on(job["job_id"])
            if lease is not None:
                self.free(lease)

    def drain(self) -> None:
        self.is_draining = True
        for parked in self.parked:
            self.reply(parked["peer"], parked["frame"]["seq"], [No("draining").wire])
        self.parked = []
