"""Writes scripts from a seed: steps that mostly make sense for the jobs that there are."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from tests.broker.core.pair import WHO, Pair, Script, Step
from tests.broker.core.twin_jobs import LEGAL, SETTLE, STATUSES, Wire
from tests.core import HASH, job_id

T = TypeVar("T")
IDS = [job_id(number) for number in range(901, 912)]
QUEUES = ["default", "default", "a", "b", "c-1._X"]
SETTLEMENTS = ("wanted", "submitted", "pending", "manual", "confirmed", "refused", "closed")
TEXTS = ("", "x", "éé", *["ten bytes!"] * 6, "eleven byte", "éééééé")
SHORT = ("", "why", "éé", *["8 bytes!"] * 5, "nine byte")
SPANS = (1, 200, 1_000, 5_000, 30_000, 30_000)
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Author:
    """Looks at the twin of a pair, and writes the next step."""

    def __init__(self, seed: int, pair: Pair) -> None:
        self.random = Random(seed)
        self.pair = pair
        self.few = seed % 10 == 0
        """Whether only one job is written about: then its history is long."""
        self.crowded = self.random.random() < 0.2
        """Whether many commands are parked."""
        self.left_out = [
            name
            for names in (
                ("not_before", "delay_ms", "hold", "keep_lease", "retry_after_ms"),
                ("settle",),
            )
            for name in names * (self.random.random() < 0.2)
        ]
        """Fields that no command has: the core goes shorter ways until it sees one."""

    def one(self, choices: Sequence[T]) -> T:
        return self.random.choice(choices)

    def maybe(self, part: float, **fields: Any) -> Wire:
        return fields if self.random.random() < part else {}

    # --- jobs ---------------------------------------------------------------------------------

    def deadline_ms(self) -> float:
        """Return when a job ends; no two end at once, for their order is open."""
        return self.one((1_500, 9_000, 30_000, 60_000)) + self.random.randrange(1_000) / 1_000

    def job(self, *states: str) -> str:
        """Return a job that there is, rather one in one of these states, or an id without a job."""
        if self.random.random() < 0.03:
            return self.one([*IDS, "nobody"])
        jobs = self.pair.twin.jobs
        fit = [
            job
            for job in jobs
            if job["status"] in states or (job["settlement"] or {}).get("state") in states
        ]
        job = self.one(fit or jobs) if fit or jobs else None
        return job["job_id"] if job else IDS[0]

    def leased(self) -> str:
        leases = self.pair.twin.leases
        return (
            str(self.one(leases)["job_id"]) if leases and self.random.random() < 0.9 else self.job()
        )

    def texts(self) -> str:
        """Return a text; together long ones are soon too much for a job that asks often."""
        return "ten bytes!" if self.few else self.one(TEXTS)

    def token(self, job: str, part: float = 0.9) -> Wire:
        held = self.pair.twin.lease_on(job) is not None
        named = self.random.random() < (part if held else 0.05)
        if named and self.random.random() < 0.05:
            return {"lease": 10**6}
        return {"lease": ("token", job)} if named else {}

    def version(self, job: str, part: float = 0.3) -> Wire:
        return self.maybe(part, expected_version=("version", job, self.one((0, 0, 0, 1, -1))))

    # --- commands -----------------------------------------------------------------------------

    def create(self) -> Wire:
        unused = [each for each in IDS if self.pair.twin.known(each) is None]
        known = [job["job_id"] for job in self.pair.twin.jobs]
        again = self.maybe(0.1, job_id=self.one(known or IDS))
        ids = unused or IDS
        return {
            "type": "create",
            "input_hash": HASH,
            **self.maybe(0.9, job_id=self.one(ids)),
            **self.maybe(0.3, input=self.one(TEXTS)),
            **self.maybe(0.1, identifier_from_purchaser=self.one(("aa", "1234567"))),
            **self.maybe(0.15, blockchain_identifier=self.one(("p", "q", "1234567"))),
            **self.maybe(0.1, pay_by_time=("time", self.one((-1_000, 0, 500, 3_000)))),
            **self.maybe(0 if self.few else 0.4, submit_result_time=("time", self.deadline_ms())),
            **self.maybe(0.7, queue=self.one(QUEUES)),
            **self.maybe(0.4, priority=self.one((0, 1, 1, 9))),
            **self.maybe(0.2, not_before=("time", self.one((-1_000, 0, 700, 1_000)))),
            **self.maybe(0.2, meta=self.one(SHORT)),
            **self.maybe(0.1, traceparent=TRACE),
            **self.maybe(0.5, settle=self.one((True, True, False))),
            **again,
        }

    def go_on(self) -> Wire:
        """Make a legal move, so that jobs reach every status."""
        job = self.job("awaiting_payment", "running", "awaiting_input")
        known = self.pair.twin.known(job)
        status = known["status"] if known else "running"
        targets = {"awaiting_payment": ["running"]}.get(status, LEGAL[status]) or ["running"]
        if status == "running":
            ends = ("completed", "completed", "failed")
            ask = self.random.random() < (0.97 if self.few else 0.5)
            targets = ["awaiting_input" if ask else self.one(ends)]
        elif status == "awaiting_input":
            return self.provide_input()
        return self.move(job, self.one(targets), self.token(job, 0.97))

    def transition(self) -> Wire:
        job = self.job()
        return self.move(job, self.one(STATUSES), {**self.token(job), **self.version(job)})

    def move(self, job: str, target: str, more: Wire) -> Wire:
        text = {"completed": "result", "failed": "error", "awaiting_input": "input_schema"}
        command = {"type": "transition", "job_id": job, "target": target, **more}
        if target in text:
            command.update(self.maybe(0.5, **{text[target]: self.one(TEXTS)}))
        if target == "awaiting_input" and "lease" in command:
            command.update(self.maybe(0.6, keep_lease=True))
        return command

    def force(self) -> Wire:
        job = self.leased()
        known = self.pair.twin.known(job)
        legal = LEGAL[known["status"]] if known else []
        more = {"force": True, "expected_version": ("version", job, self.one((0, 0, 0, 1)))}
        return self.move(job, self.one(legal or ["failed"]), more)

    def provide_input(self) -> Wire:
        job = self.job("awaiting_input")
        return {
            "type": "provide_input",
            "job_id": job,
            "input": self.texts(),
            "expected_version": ("version", job, self.one((0, 0, 0, 0, 1))),
            **self.maybe(0.3, input_hash=HASH),
        }

    def claim(self, wait_ms: int = 0) -> Wire:
        if self.random.random() < 0.3:
            what = {"settlement": self.one(("wanted", "wanted", "submitted"))}
        else:
            what = {"status": self.one(("running", "running", *STATUSES[:3]))}
        chosen: Wire = {}
        if self.random.random() < 0.15 and not wait_ms:
            chosen = {"job_ids": [self.job() for _ in range(self.random.randint(1, 3))]}
        elif self.random.random() < 0.8:
            several = self.random.sample(QUEUES, self.random.randint(1, 4))
            chosen = {"queues": self.one((["*"], ["*"], several))}
        return {
            "type": "claim",
            "lease_ms": 30_000 if self.few else self.one(SPANS),
            "wait_ms": wait_ms,
            "limit": self.random.randint(1, 4),
            **what,
            **chosen,
        }

    def touch(self) -> Wire:
        job = self.leased()
        progress = {"text": self.one(SHORT), **self.maybe(0.5, fraction=0.5)}
        return {
            "type": "touch",
            "job_id": job,
            "lease_ms": self.one(SPANS),
            **self.maybe(0.6, progress=progress),
            "lease": 10**6,
            **self.token(job, 0.95),
        }

    def release(self) -> Wire:
        job = self.leased()
        return {
            "type": "release",
            "job_id": job,
            **self.maybe(0.4, delay_ms=self.delay_ms(job)),
            **self.maybe(0.4, reason=self.one(SHORT)),
            **self.maybe(0.2, hold=True),
            "lease": 10**6,
            **self.token(job, 0.95),
        }

    def delay_ms(self, job: str) -> int:
        known = self.pair.twin.known(job)
        has_end = known is not None and known["submit_result_time"] is not None
        return 60_000 if has_end else self.one((0, 500, 1_000, 60_000))

    def settle(self) -> Wire:
        job = self.job("wanted", "submitted", "manual")
        known = self.pair.twin.known(job)
        state = known["settlement"]["state"] if known and known["settlement"] else "pending"
        likely = SETTLE[state] or SETTLEMENTS
        target = self.one(likely) if self.random.random() < 0.8 else self.one(SETTLEMENTS)
        return {
            "type": "settle",
            "job_id": job,
            **self.token(job, 0.7),
            **self.maybe(0.6, to=target),
            **self.maybe(0.3, result_hash=HASH),
            **self.maybe(0.3, on_chain_state=self.one(("Funds", "Disputed!"))),
            **self.maybe(0.3, reason=self.one(SHORT)),
            **self.maybe(0.5, retry_after_ms=self.one((0, 500, 1_000))),
        }

    def about(self, kind: str, *states: str, **more: Any) -> Wire:
        job = self.job(*states)
        return {"type": kind, "job_id": job, **self.version(job), **more}

    def read(self) -> Wire:
        job = self.job()
        chosen = {**self.maybe(0.5, queue=self.one(QUEUES))}
        kinds = {
            "get": {"job_id": job, **self.maybe(0.5, lease=True)},
            "history": {"job_id": job},
            "count": {**chosen, **self.one(({}, {"status": self.one(STATUSES)},
                                            {"settlement": self.one(SETTLEMENTS)}))},
            "hello": self.maybe(0.5, client="x"),
        }  # fmt: skip
        if self.random.random() < 0.1:
            return {"type": "get", "blockchain_identifier": self.one(("p", "q", "nothing"))}
        kind = self.one(list(kinds))
        return {"type": kind, **kinds[kind]}

    def command(self) -> Wire:
        reasons = self.maybe(0.4, reason=self.one(SHORT))
        queue = self.one(QUEUES)
        alive = [job for job in self.pair.twin.jobs if not self.pair.twin.is_finished(job)]
        leased, fill = len(self.pair.twin.leases), 1 if self.few else 7
        makers = [
            (30 if len(alive) < fill else 0 if self.few else 5, self.create),
            (22, self.go_on),
            (0 if self.few else 4, self.transition),
            (0 if self.few else 1 + leased, self.force),
            (3, self.provide_input),
            (16, self.claim),
            (4 + 3 * leased, self.touch),
            (1 + 4 * leased, self.release),
            (12, self.settle),
            (0 if self.few else 3, lambda: self.about("cancel", "awaiting_payment")),
            (25 if self.few else 5, lambda: self.about("hold", **reasons)),
            (25 if self.few else 5, lambda: self.about("resume")),
            (3, lambda: self.about("request_stop", "running", **reasons)),
            (25 if self.few else 3, lambda: self.about("annotate", meta=self.one((*SHORT, None)))),
            (4, lambda: {"type": "pause_queue", "queue": queue}),
            (5, lambda: {"type": "resume_queue", "queue": self.paused() or queue}),
            (6, self.read),
            (2, lambda: {"type": "stop_waiting", "seqs": ("seqs", self.one(([1], [1, 2], [3])))}),
        ]
        made = self.random.choices([m for _, m in makers], [weight for weight, _ in makers])[0]()
        if made["type"] in self.left_out:
            return self.go_on()
        return {name: value for name, value in made.items() if name not in self.left_out}

    def paused(self) -> str | None:
        return self.one(self.pair.twin.lines.paused or [None])

    # --- steps --------------------------------------------------------------------------------

    def step(self) -> Step:
        full = self.pair.twin.is_full
        spans = (0, 1, 199, 200, 999, 1_000, 1_000, 2_500)
        makers: list[tuple[float, Callable[[], Step]]] = [
            (10, lambda: {"do": "pass", "ms": self.one(spans)}),
            (
                0 if self.few else 1,
                lambda: {"do": "pass", "ms": self.one((11_000, 25_000, 40_000))},
            ),
            (1, lambda: {"do": "pass", "ms": 0, "wall_ms": self.one((-400, -1, 1, 300))}),
            (2, lambda: {"do": "lost", "job_id": self.leased()}),
            (12 if full else 1, lambda: {"do": "full", "full": not full}),
            (1, lambda: {"do": "restart", "middle": self.random.random()}),
            (0.3, lambda: {"do": "restore", "middle": self.random.random()}),
            (3, self.list_step),
            (5, lambda: {"do": "again", "back": self.back(), "peer": self.peer()}),
            (60 if self.crowded else 6, self.parking),
            (2, self.mistake),
            (5, self.batch),
            (65, self.message),
        ]
        return self.random.choices([m for _, m in makers], [weight for weight, _ in makers])[0]()

    def back(self) -> int:
        """Return how many messages ago one was sent that is sent again: rather one that waits."""
        waiting = [parked["frame"] for parked in self.pair.twin.parked]
        places = [
            back
            for back, (_, _, frame) in enumerate(reversed(self.pair.sent), 1)
            if frame in waiting
        ]
        return self.one(places) if places and self.random.random() < 0.5 else self.one((1, 2, 3, 4))

    def peer(self) -> int:
        return self.one((0, 0, 1, 2))

    def message(self) -> Step:
        number = 1 if self.random.random() < 0.8 else self.random.randint(0, 4)
        commands = [self.command() for _ in range(number)]
        who = self.one(list(WHO)) if self.random.random() < 0.25 else "admin"
        session = 0
        if len(commands) < 2 and self.random.random() < 0.3:
            session = self.one((1, 2, 3))
            who = "both" if session == 3 else "admin"
        return {
            "do": "say", "peer": self.peer(), "who": who, "session": session,
            "commands": commands,
        }  # fmt: skip

    def batch(self) -> Step:
        makers = (self.message, self.message, self.parking)
        messages = [self.one(makers)() for _ in range(self.random.randint(2, 4))]
        return {"do": "batch", "messages": messages}

    def parking(self) -> Step:
        if self.random.random() < 0.4:
            count = self.random.randint(1, 5)
            command = {
                "type": "wait",
                "job_ids": [self.job() for _ in range(count)],
                "timeout_ms": self.one((0, *SPANS, 30_000)),
                **self.maybe(0.5, statuses=[self.one(STATUSES)]),
            }
        else:
            command = self.claim(self.one(SPANS))
        if self.crowded:
            waits = "timeout_ms" if command["type"] == "wait" else "wait_ms"
            command[waits] = 60_000
        session = self.one((0, 0, 1, 3))
        who = {1: "admin", 3: "both"}.get(session) or self.one(("admin", "admin", "both"))
        return {
            "do": "say", "peer": self.peer(), "who": who, "session": session,
            "commands": [command],
        }  # fmt: skip

    def mistake(self) -> Step:
        """Send a message that is refused as a whole."""
        step: Step = {"do": "say", "session": 1, "commands": [self.create()]}
        kind = self.one(
            ("version", "stale", "conflict", "beyond", "evicted", "late", "many", "two")
        )
        match kind:
            case "evicted":
                return {**step, "session": self.one((3, 99))}
            case "late":
                return {**step, "session": 0, "valid_ms": -1}
            case "many":
                return {**step, "session": 0, "commands": [{"type": "count"}] * 7}
            case "two":
                return {**step, "session": 0, "commands": [{"type": "count"}, self.claim(9)]}
        return {**step, "mode": kind}

    def list_step(self) -> Step:
        chosen = self.one(
            ({}, {"status": self.one(STATUSES)}, {"settlement": self.one(SETTLEMENTS)})
        )
        command = {
            "type": "list",
            "limit": self.random.randint(1, 4),
            **chosen,
            **self.maybe(0.4, queue=self.one(QUEUES)),
            **self.maybe(0.4, newest=True),
            **self.maybe(0.4, lease=True),
        }
        return {"do": "list", "command": command}


def written(seed: int, pair: Pair, steps: int, script: Script) -> None:
    """Play a script of so many steps while it is written: each is added before it is played."""
    author = Author(seed, pair)
    for _ in range(steps):
        script.append(author.step())
        pair.do(script[-1])
    for kind in ("audit", "take_all", "drain"):
        script.append({"do": kind})
        pair.do(script[-1])
