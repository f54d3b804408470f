"""The real core and its twin side by side: each step happens to both, and both must agree.

A script is a list of steps that name jobs, but not tokens, versions and times: those are filled in
when the step happens. So a script still makes sense when steps are taken out of it, and a
disagreement can be made small.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from tests.broker.core.restarts import live_chunks, replayed_chunks, restart
from tests.broker.core.twin import Out, Twin
from tests.broker.core.twin_commands import plain
from tests.broker.core.twin_figures import comparable
from tests.broker.core.twin_jobs import Wire
from tests.core import ADMIN, EPOCH, OTHER, PEER, Driver
from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.events import LogBegan
from tollgate.broker.core.records import Record
from tollgate.broker.core.roles import NOBODY, Principal, Role

PEERS = (PEER, OTHER, b"\x00third")
WHO = {
    "admin": ADMIN,
    "worker": Principal("key:work", frozenset({Role.WORKER})),
    "payments": Principal("key:pay", frozenset({Role.PAYMENTS})),
    "producer": Principal("key:shop", frozenset({Role.PRODUCER})),
    "observer": Principal("key:look", frozenset({Role.OBSERVER})),
    "both": Principal("key:both", frozenset({Role.WORKER, Role.PAYMENTS})),
    "nobody": NOBODY,
}
SESSIONS = (("admin", "alpha"), ("admin", None), ("both", "beta@host:7"))
"""Who opens each session, and with which name of a client."""
LIMITS = {
    "commands": 6, "text_bytes": 10, "blockchain_identifier_bytes": 6,
    "identifier_from_purchaser_bytes": 6, "jobs": 10, "parked": 8, "parked_share": 2, "watched": 4,
    "pay_within_ms": 30_000, "payment_grace_ms": 1_000, "keep_finished_ms": 40_000,
    "max_finished": 6, "lapses": 2, "queues": 3, "input_rounds": 3, "inputs_bytes": 32,
    "meta_bytes": 8, "progress_bytes": 8, "reason_bytes": 8,
}  # fmt: skip
FAULT_CHARACTERS = 40
"""As many say what kind of disagreement there is."""
Message = tuple[bytes, Principal, Wire]
Step = dict[str, Any]
Script = list[Step]


class Pair:
    def __init__(self, **limits: int) -> None:
        self.limits = {**LIMITS, **limits}
        self.driver = Driver(**self.limits)
        self.twin = Twin(EPOCH, self.limits)
        self.seqs: Counter[int] = Counter()
        self.sent: list[Message] = []
        self.seen: Counter[str] = Counter()
        """How often each command had each outcome."""
        self.sessions: dict[int, int] = {}
        """The numbers of sessions by their place in SESSIONS, from 1."""
        self.open_sessions()

    def open_sessions(self) -> None:
        for place, (who, client) in enumerate(SESSIONS, 1):
            hello = {"type": "hello", "open_session": True} | ({"client": client} if client else {})
            self.do_say({"do": "say", "who": who, "commands": [hello]})
            self.sessions[place] = self.twin.last_session

    # --- steps --------------------------------------------------------------------------------

    def play(self, script: Script) -> None:
        for step in script:
            self.do(step)

    def do(self, step: Step) -> None:
        getattr(self, "do_" + step["do"])(step)

    def do_say(self, step: Step) -> None:
        self.exchange(self.message(step))

    def do_batch(self, step: Step) -> None:
        """Send several messages that the broker takes at once."""
        self.exchange(*[self.message(each) for each in step["messages"]])

    def message(self, step: Step) -> Message:
        place: int = step.get("session", 0)
        session = self.sessions.get(place, place)
        seq, acked = self.number(session, step.get("mode", ""))
        frame: Wire = {
            "v": 2 if step.get("mode") == "version" else 1,
            "session": session,
            "seq": seq,
            "acked": acked,
            "commands": [self.filled(command) for command in step["commands"]],
        }
        if "valid_ms" in step:
            frame["valid_until"] = self.twin.wall + timedelta(milliseconds=step["valid_ms"])
        message = (peer_of(step, session), WHO[step.get("who", "admin")], frame)
        self.sent.append(message)
        return message

    def number(self, session: int, mode: str) -> tuple[int, int]:
        """Return `seq` and `acked` of a new message; each `mode` makes a different mistake."""
        if not session or session not in self.twin.sessions:
            self.seqs[0] += 1
            return self.seqs[0], 0
        known = self.twin.sessions[session]
        if mode == "stale":
            return known["acked"], 0
        if mode == "conflict" and known["answers"]:
            return max(known["answers"]), 0
        if mode == "beyond":
            return known["acked"] + 65, 0
        self.seqs[session] += 1
        seq = self.seqs[session]
        parked = [p["frame"]["seq"] for p in self.twin.parked if p["frame"]["session"] == session]
        return seq, max(0, min([seq - 5, *[each - 1 for each in parked]]))

    def do_again(self, step: Step) -> None:
        """Send a message again, from another connection if its session allows that."""
        if len(self.sent) < step["back"]:
            return
        peer, who, frame = self.sent[-step["back"]]
        if frame["session"]:
            peer = peer_of(step, frame["session"])
        elif not any(command["type"] == "wait" for command in frame["commands"]):
            return
        self.exchange((peer, who, frame))

    def do_pass(self, step: Step) -> None:
        wall = timedelta(milliseconds=step["ms"] if "wall_ms" not in step else step["wall_ms"])
        self.driver.wall += wall
        self.driver.mono_ms += step["ms"]
        real = self.run()
        self.twin.clock(self.twin.wall + wall, self.twin.mono_ms + step["ms"])
        self.compare(real)

    def do_lost(self, step: Step) -> None:
        """Say that the reply that granted a lease could not be sent."""
        lease = self.twin.lease_on(step["job_id"])
        if lease is None:
            return
        lost = [(lease["job_id"], lease["token"])]
        real = self.run(undelivered=lost)
        self.twin.clock(self.twin.wall, self.twin.mono_ms, lost)
        self.compare(real)

    def do_full(self, step: Step) -> None:
        """Fill the disk, or make room."""
        self.driver.writable = not step["full"]
        self.twin.is_full = step["full"]
        self.do_pass({"ms": 0})

    def do_restart(self, step: Step) -> None:
        """Stop the broker, and start another one from its records."""
        self.do_full({"full": False})
        self.say({"type": "hello", "open_session": True})  # the last record is of now
        self.check_replay(step["middle"])
        restart(self.driver, round(step["middle"] * len(self.driver.records)))
        self.twin.restart()
        self.do_pass({"ms": 0})

    def do_restore(self, step: Step) -> None:
        """Start a broker from a backup of all records: no number comes twice."""
        self.do_restart(step)
        began = LogBegan(f"log {len(self.driver.records)}", is_restore=True)
        self.driver.records.append(Record([began], at=self.driver.records[-1].at))
        restart(self.driver)
        self.twin.restore()
        self.do_pass({"ms": 0})
        self.open_sessions()

    def check_replay(self, middle: float) -> None:
        live = live_chunks(self.driver)
        assert replayed_chunks(self.driver.records) == live, "replay differs from live"
        through = replayed_chunks(self.driver.records, round(middle * len(self.driver.records)))
        assert through == live, "replay through a snapshot differs from live"

    def do_list(self, step: Step) -> None:
        """Read all pages."""
        self.do_pass({"ms": 0})  # nothing is due while it reads
        command, shown, after = step["command"], [], None
        for _ in range(100):
            page = command if after is None else {**command, "after": after}
            (answer,) = self.send((PEER, ADMIN, self.frame([page])))
            result = answer[2]["results"][0]
            assert result["type"] == "jobs", result
            assert len(result["jobs"]) <= command["limit"]
            shown += result["jobs"]
            after = result["next"]
            if after is None:
                break
        same({"type": "jobs", "jobs": shown, "as_of": "x"}, self.twin.do_list(command))
        self.count([command, {"type": "list", "after": ""}], {"results": [result] * 2})

    def frame(self, commands: list[Wire]) -> Wire:
        self.seqs[0] += 1
        return {"v": 1, "session": 0, "seq": self.seqs[0], "acked": 0, "commands": commands}

    def do_audit(self, step: Step) -> None:
        """Look at everything that can be seen without a change."""
        for job in self.twin.jobs:
            job_id = job["job_id"]
            look = [{"type": "get", "job_id": job_id, "lease": True}]
            self.say(*look, {"type": "history", "job_id": job_id})
            self.say({"type": "explain", "job_id": job_id})
        self.say({"type": "stats"}, {"type": "explain", "job_id": "none"})
        for queue in (None, *self.twin.lines.alive):
            chosen = {} if queue is None else {"queue": queue}
            self.say({"type": "count", **chosen}, {"type": "stats", **chosen})
            self.do_list({"command": {"type": "list", "limit": 2, "lease": True, **chosen}})

    def do_take_all(self, step: Step) -> None:
        """Claim every job, one by one: that shows the order of all lines."""
        for state in ("awaiting_payment", "awaiting_input", "running", "wanted", "submitted"):
            kind = "settlement" if state in ("wanted", "submitted") else "status"
            for _ in range(len(self.twin.jobs)):
                self.say(
                    {
                        "type": "claim", kind: state, "queues": ["*"], "lease_ms": 1_000,
                        "wait_ms": 0, "limit": 1,
                    }
                )  # fmt: skip

    def do_drain(self, step: Step) -> None:
        """Tell the broker to stop."""
        real = self.take(self.driver.pipeline.drain())
        self.twin.drain()
        self.compare(real)
        self.say({"type": "count"})

    def say(self, *commands: Wire) -> None:
        self.do_say({"commands": list(commands)})

    # --- both ---------------------------------------------------------------------------------

    def exchange(self, *messages: Message) -> None:
        real = self.send(*messages)
        for place, (peer, who, frame) in enumerate(messages):
            self.twin.message(peer, who, frame, made_by(real, peer, frame), is_first=not place)
            for to, seq, wire in real:
                if (to, seq) == (peer, frame["seq"]):
                    self.count(frame["commands"], wire)
        self.compare(real)

    def send(self, *messages: Message) -> list[Out]:
        return self.run(
            *[Arrival(peer, [msgspec.msgpack.encode(frame)], who) for peer, who, frame in messages]
        )

    def run(self, *arrivals: Arrival, undelivered: Sequence[tuple[str, int]] = ()) -> list[Out]:
        driver = self.driver
        return self.take(
            driver.pipeline.run(arrivals, driver.now, undelivered, writable=driver.writable)
        )

    def take(self, output: Output) -> list[Out]:
        self.driver.records += output.records
        answers = []
        for reply in output.replies:
            wire = msgspec.msgpack.decode(reply.frame)
            answers.append((reply.peer, wire["seq"], wire))
        return answers

    def count(self, commands: Sequence[Wire], wire: Wire) -> None:
        if "error" in wire:
            self.seen[f"message {outcome(wire['error'])}"] += 1
        for command, result in zip(commands, wire.get("results", ()), strict=False):
            told = outcome(result)
            if told.startswith("too_large") and command.get("delay_ms"):
                told = told if told == "too_large 8" else "too_large left"
            self.seen[f"{command['type']} {told}"] += 1
            for option in set(command) - {"type", "job_id"}:
                if result["type"] != "error":
                    self.seen[f"{command['type']} with {option}"] += 1

    def compare(self, real: list[Out]) -> None:
        twin, self.twin.out = self.twin.out, []
        expected, got = sorted(twin, key=brief), sorted(real, key=brief)
        for one, other in zip(map(brief, got), map(brief, expected), strict=False):
            assert one == other, f"{one} is {other} of the twin"
        assert len(got) == len(expected), f"{len(got)} answers, {len(expected)} of the twin"
        for (_, _, shown), (_, _, wanted) in zip(got, expected, strict=True):
            if shown["type"] == "refused":
                same(shown["error"], wanted["error"])
                continue
            for result, wish in zip(shown["results"], wanted["results"], strict=True):
                same(result, wish)

    def filled(self, command: Wire) -> Wire:
        return {name: self.value(value) for name, value in command.items()}

    def value(self, value: Any) -> Any:
        """Return what a part of a step stands for now."""
        match value:
            case ("token", job_id):
                lease = self.twin.lease_on(job_id)
                return lease["token"] if lease else max(1, self.twin.token)
            case ("version", job_id, more):
                job = self.twin.known(job_id)
                return max(1, (job["version"] if job else 1) + more)
            case ("time", after_ms):
                return self.twin.at + timedelta(milliseconds=after_ms)
            case ("seqs", back):
                return [each for number in back for each in self.recent(number)] or [1]
        return value

    def recent(self, back: int) -> list[int]:
        return [self.twin.parked[-back]["frame"]["seq"]] if back <= len(self.twin.parked) else []


def peer_of(step: Step, session: int) -> bytes:
    """Return a connection: each session has its own, so that no two answers are mixed up."""
    return PEERS[step.get("peer", 0)] + (b"%d" % session if session else b"")


def outcome(result: Wire) -> str:
    if result["type"] != "error":
        return str(result["type"])
    return " ".join(str(result[name]) for name in ("code", "limit") if name in result)


def brief(answer: Out) -> tuple[list[str], bytes, int]:
    """Return what an answer is, and for whom."""
    peer, seq, wire = answer
    kinds = [*map(outcome, wire.get("results", ()))] or [outcome(wire.get("error", wire))]
    return kinds, peer, seq


def made_by(answers: list[Out], peer: bytes, frame: Wire) -> list[str]:
    """Return the ids of jobs that the broker was free to choose."""
    made = []
    for to, seq, wire in answers:
        if (to, seq) != (peer, frame["seq"]):
            continue
        for command, result in zip(frame["commands"], wire.get("results", ()), strict=False):
            if command["type"] == "create" and "job_id" not in command and "job" in result:
                made.append(result["job"]["job_id"])
    return made


def same(shown: Wire, wanted: Wire) -> None:
    """Compare two results, but not the wording of messages."""
    assert shown["type"] == wanted["type"], (shown, wanted)
    if shown["type"] in ("error", "hello"):
        assert {name: shown.get(name) for name in wanted} == wanted, (shown, wanted)
        return
    if shown["type"] in ("stats", "explained"):
        assert shown["as_of"], shown
        shown = comparable(shown)
    shown, wanted = dict(shown), dict(wanted)
    if wanted.pop("_again", False):
        shown, wanted = ({**each, "job": without_texts(each["job"])} for each in (shown, wanted))
    if shown["type"] in ("count", "jobs", "history"):
        assert shown.pop("as_of"), shown
    if shown["type"] == "lease":
        shown.setdefault("stop_requested", False)
    shown, wanted = plain(shown), plain(wanted)
    different = sorted(name for name in {*shown, *wanted} if shown.get(name) != wanted.get(name))
    assert shown == wanted, f"{different} of the real one {shown}, of the twin {wanted}"


def without_texts(job: Wire) -> Wire:
    """Return a job without the texts of its last status, which a repeat need not show."""
    texts = ("result", "error", "input_schema", "provided_input")
    return {name: value for name, value in job.items() if name not in texts}


def smallest(script: Script, limits: dict[str, int], fault: str) -> Script:
    """Return a part of a script with a fault that begins alike: no step of it can be left out."""
    size = max(1, len(script) // 2)
    while True:
        start, left_out = 0, False
        while start < len(script):
            shorter = script[:start] + script[start + size :]
            if fault_of(shorter, limits)[:FAULT_CHARACTERS] == fault[:FAULT_CHARACTERS]:
                script, left_out = shorter, True
            else:
                start += size
        if size == 1 and not left_out:
            return script
        size = max(1, size // 2)


def fault_of(script: Script, limits: dict[str, int]) -> str:
    """Return how the real one and its twin disagree over a script; empty if they do not."""
    try:
        Pair(**limits).play(script)
    except Exception as fault:  # noqa: BLE001 - of any kind: the real one is under test
        return f"{type(fault).__name__}: {fault}"
    return ""
