"""Compares what became of the jobs with their scripts, and with what the handlers wrote down."""

import json
import re
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.chaos.notes import BEGUN, FAULT, FINISHED, Note, read
from tests.chaos.scripts import LEASES_A_CALL, MAX_ATTEMPTS, End, Fault, Script, answer
from tests.chaos.workers import GRACE_S, NO_SLOT, Life, Workers
from tollgate import Job, JobStatus
from tollgate.client.results import History
from tollgate.domain.results import HistoryEntry

if TYPE_CHECKING:
    from tests.chaos.harness import Figures

EXAMPLES: Final = 5
SLACK_S: Final = 0.001
"""How far two notes of the same moment may be apart: one is written by the handler, one by the
broker, and both with the time of this machine."""
DELIVERY_S: Final = 5.0
"""How long a result may be under way while broker and worker live, on a busy machine."""
TOUCHED: Final = 2 / 3
"""In such a part of a lease a worker finds a broker that is back, and touches the lease."""
SLEEP_S: Final = 0.1
"""How late a busy machine may wake a process, and how exact our times of a freeze are."""
STOP_S: Final = 0.3
"""How much earlier than its release a result may be ready and yet come too late."""
LEAVE_S: Final = GRACE_S + 12.0

CRASHES: Final = {
    Fault.EXIT: r"\b3\b",
    Fault.SEGFAULT: r"SIGSEGV|signal 11",
    Fault.SIGKILL: r"SIGKILL|signal 9",
    Fault.HANG: r"\d s\b|time",
    Fault.HOLD: r"\d s\b|time",
}
"""How the reason tells what ended a call that could not tell it itself."""
ERRORS: Final = {
    End.EXHAUST: r"fault \d+ of job|lapsed|lease",
    End.OTHER_QUESTION: "question|schema|key",
    End.TOO_LARGE: "text.bytes",
    End.NO_TEXT: "int|text",
}
"""How the error of the job tells its end."""


class Audit:
    """Collects what is wrong by kind, with a few examples of each."""

    def __init__(self, workers: Workers, figures: "Figures") -> None:
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.seen: Counter[str] = Counter()
        self._workers = workers
        self._figures = figures
        self._logs: dict[str, str] = {}
        self._taken: set[int] = set()
        """The killed processes that explain a call without a note."""
        self.lease_s = workers.lease_ms / 1_000
        self.limit_s = LEASES_A_CALL * self.lease_s
        """How long a call may take."""
        self.lives: dict[str, Life] = {}
        """All workers, by name."""

    def report(self, kind: str, about: object) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {about}")

    def producer(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self.report("producer", fault)

    def processes(self) -> None:
        """Check how the workers left, and that nothing of them is there."""
        self.lives = {life.name: life for life in self._workers.lives}
        for life in self._workers.lives:
            self.seen["workers"] += 1
            self._check_life(life)
        for pid, command in self._workers.leftovers().items():
            self.report("left running", (pid, command))
        for path in self._workers.temporary.iterdir():
            self.report("temporary file", path.name)

    def _check_life(self, life: Life) -> None:
        if not life.is_over():
            self.report("never left", life.name)
        elif life.killed_at is not None:
            self.seen["workers killed"] += 1
        elif life.exit_code == -signal.SIGTERM and not life.text():
            self.seen["workers stopped while they started"] += 1
        elif life.exit_code == NO_SLOT:
            self.seen["workers without a slot"] += 1
        elif life.told_at is None:
            self.report("left by itself", (life.name, life.exit_code, life.text()[-2_000:]))
        elif life.exit_code:
            self.report("exit code", (life.name, life.exit_code, life.text()[-2_000:]))
        elif (life.ended_at or 0) - life.told_at - _frozen_s(life) > LEAVE_S:
            self.report("left late", (life.name, (life.ended_at or 0) - life.told_at))
        else:
            self.seen["workers stopped"] += 1

    def jobs(self, scripts: Sequence[Script], found: Mapping[str, tuple[Job, History]]) -> None:
        self._logs = {life.name: life.text() for life in self._workers.lives}
        for script, (job, history) in zip(scripts, found.values(), strict=True):
            notes = [*read(self._workers.notes / job.job_id)]
            Case(self, script, job, history, notes).check()

    def says(self, worker: str, job_id: str, reason: str) -> bool:
        """Return whether a worker has logged why it gave up a job."""
        words = _plain(reason)[:60]
        return any(
            job_id in line and words in _plain(line) for line in self._logs[worker].splitlines()
        )

    def is_child_killed(self, pid: int) -> bool:
        return pid in self._figures.children_killed

    def take_killed_child_of(self, worker: str, since: float, until: float) -> bool:
        """Return whether a process of a worker was killed in a span of time; each ends one call."""
        for pid, (whose, at) in self._figures.children_killed.items():
            if whose == worker and since <= at <= until and pid not in self._taken:
                self._taken.add(pid)
                return True
        return False

    def stood_still_s(self, since: float, until: float) -> float:
        """Return how long the machine stood still in a span of time."""
        return (until - since) - sum(_gaps(self._figures.standstills, since, until))

    def talks(self, life: Life, since: float, until: float) -> list[float]:
        """Return how long worker and broker could talk in a span of time, for each stretch."""
        away = [*self._figures.broker_away, *self._figures.standstills, *life.stopped]
        return _gaps(away, since, until)


class Case:
    """One job: its script, its end, its history, and the notes of its handlers."""

    def __init__(
        self, audit: Audit, script: Script, job: Job, history: History, notes: Sequence[Note]
    ) -> None:
        self._audit = audit
        self._script = script
        self._job = job
        self._entries = history.entries
        self._is_whole = not history.left_out
        self._notes = notes
        self._calls = {note.run: note for note in notes if note.what == BEGUN}
        held = [entry.at for entry in history.entries if entry.what == "held"]
        self._ended_at = (held[-1] if job.on_hold and held else job.updated_at).timestamp()

    def check(self) -> None:
        self._audit.seen["calls"] += len(self._calls)
        self._audit.seen["faults"] += sum(note.what == FAULT for note in self._notes)
        status = "on hold" if self._job.on_hold else str(self._job.status)
        if self._is_exhausted_by_kills(status):
            self._audit.seen["jobs whose tries the kills used up"] += 1
        elif status not in {"completed", "failed", "on hold"}:
            self._wrong("not ended", self._job.progress)
            return
        elif status != self._script.status:
            self._wrong("another end", (status, self._job.error, self._job.result))
        else:
            self._audit.seen[status] += 1
            self._check_end()
        ends = [entry for entry in self._entries if entry.to in {"completed", "failed"}]
        if len(ends) != (status != "on hold"):
            self._wrong("ended more than once", ends)
        self._check_results()
        self._check_calls()
        self._check_tries()
        self._check_questions()

    def _wrong(self, kind: str, about: object) -> None:
        self._audit.report(kind, (self._script, about, *map(_told, self._entries), *self._notes))

    def _is_exhausted_by_kills(self, status: str) -> bool:
        return (
            status in {"failed", "on hold"}
            and self._script.end is not End.EXHAUST
            and self._job.attempts >= MAX_ATTEMPTS - 1
        )

    def _check_end(self) -> None:
        script, error = self._script, self._job.error or self._held_for()
        if self._job.status is JobStatus.COMPLETED:
            runs = {note.run for note in self._notes if note.what == FINISHED}
            head, _, run = (self._job.result or "").rpartition(": ")
            said = "; ".join(answer(script.question(n)) for n in range(script.questions))
            if head != f"job {script.number}: {said}" or run not in runs:
                self._wrong("another result", self._job.result)
        is_told = error == script.reason(-1) if script.end is End.FAIL else self._is_of_end(error)
        if self._job.status is JobStatus.COMPLETED:
            return
        if not is_told:
            self._wrong("another error", error)
        if script.end is End.EXHAUST and self._job.attempts < MAX_ATTEMPTS - 1:
            self._wrong("gave up too early", self._job.attempts)
        worker = self._entries[-1].client
        if self._job.status is JobStatus.FAILED and worker is not None:
            self._check_log(worker, error)

    def _is_of_end(self, error: str) -> bool:
        return re.search(ERRORS.get(self._script.end, "^$"), error) is not None

    def _held_for(self) -> str:
        reasons = [entry.reason for entry in self._entries if entry.what in {"released", "held"}]
        return (reasons and reasons[-1]) or ""

    def _check_log(self, worker: str, reason: str) -> None:
        if not self._audit.says(worker, self._job.job_id, reason):
            self._wrong("the log does not say why", (worker, reason))

    # --- results ----------------------------------------------------------------------------------

    def _check_results(self) -> None:
        """Check that each result that a handler returned is that of the job, or could not be."""
        for note in self._notes:
            if note.what == FINISHED and not (self._job.result or "").endswith(note.run):
                if excuse := self._excuse(note):
                    self._audit.seen[f"results lost {excuse}"] += 1
                else:
                    self._wrong("result lost", note)

    def _excuse(self, note: Note) -> str:
        """Return why a result could not be stored, or nothing."""
        begun_at, life = self._calls[note.run].at, self._audit.lives[note.worker]
        for entry in self._entries:
            at = entry.at.timestamp()
            if at < begun_at:
                continue
            if _holder(entry) == note.worker and self._is_moved_by_another(note.worker, at):
                return "" if self._lived(entry, life) else "to another worker, after a lapse"
            is_ours = entry.what == "released" and entry.client == note.worker
            if is_ours and at < note.at + STOP_S:
                return "because the job was given up before"
        if self._audit.is_child_killed(note.pid):
            return "with a child that was killed"
        ended_at = life.killed_at or life.ended_at
        if ended_at and sum(self._audit.talks(life, note.at, ended_at)) < DELIVERY_S:
            return "with a worker that was killed" if life.killed_at else "at a stop"
        return ""

    def _is_moved_by_another(self, worker: str, since: float) -> bool:
        """Return whether somebody else has moved the job, so that it takes no earlier result."""
        return self._job.on_hold or any(
            entry.what == "moved" and entry.client != worker and entry.at.timestamp() > since
            for entry in self._entries
        )

    def _lived(self, lapse: HistoryEntry, life: Life) -> bool:
        """Return whether a lease lapsed though its worker worked on the job and could touch it."""
        at = lapse.at.timestamp()
        begun = self._at_work(life.name, at)
        ends = [life.killed_at, life.told_at and life.told_at + GRACE_S, life.ended_at]
        if not begun or any(end and end < at for end in ends):
            return False
        since = max(at - self._audit.lease_s, *begun)
        return max(self._audit.talks(life, since, at)) > TOUCHED * self._audit.lease_s + SLEEP_S

    def _at_work(self, worker: str, until: float) -> list[float]:
        """Return when the calls began that a worker made under a lease, which ended at `until`.

        A worker whose loop is blocked has not heard of its lease yet: then there is none.
        """
        claims = [
            entry.at.timestamp() for entry in self._entries
            if entry.what == "claimed" and entry.client == worker
        ]  # fmt: skip
        since = max((at for at in claims if at < until), default=0.0) - SLACK_S
        last = {note.run: note for note in self._notes}
        return [
            call.at for run, call in self._calls.items()
            if call.worker == worker and call.at < until
            and (last[run].what == BEGUN or last[run].at > since)
        ]  # fmt: skip

    # --- calls and tries --------------------------------------------------------------------------

    def _check_calls(self) -> None:
        """Check that each call has a claim of its own, with its number, before the job's end."""
        for call in self._calls.values():
            life = self._audit.lives[call.worker]
            if call.at > self._ended_at + SLACK_S and not life.stopped:
                self._wrong("called after its end", call)
            claims = [
                entry
                for entry in self._entries
                if entry.what == "claimed"
                and entry.client == call.worker
                and entry.at.timestamp() <= call.at + SLACK_S
            ]
            if not claims:
                if self._is_whole:
                    self._wrong("called without a claim", call)
            elif self._is_whole and call.attempt not in {each.attempt or 1 for each in claims}:
                # Not only the last one: a frozen worker may have had to claim the job again before
                # a process began the call.
                self._wrong("another number of a try", (call, claims[-1]))
        if not self._is_whole:
            return
        claimed = Counter(entry.client for entry in self._entries if entry.what == "claimed")
        for worker, times in Counter(call.worker for call in self._calls.values()).items():
            if times > claimed[worker]:
                self._wrong("called twice for a claim", (worker, times))

    def _check_tries(self) -> None:
        """Check that each try that was counted has a cause, and that all were counted."""
        counted = [entry for entry in self._entries if entry.what != "claimed" and entry.attempt]
        numbers = [entry.attempt or 0 for entry in counted]
        if self._is_whole and numbers != [*range(1, self._job.attempts + 1)]:
            self._wrong("tries counted wrong", (self._job.attempts, numbers))
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            self._wrong("tries counted wrong", numbers)
        for entry in counted:
            if entry.what == "released":
                self._audit.seen["tries that failed"] += 1
                self._check_failed_try(entry)
            else:
                self._audit.seen["tries that lapsed"] += 1
                self._check_lapse(entry)

    def _check_failed_try(self, entry: HistoryEntry) -> None:
        worker, reason = entry.client or "", entry.reason or ""
        if not reason:
            self._wrong("no reason", entry)
            return
        self._check_log(worker, reason)
        if not any(
            self._explains(call, entry, reason) for call in self._calls.values()
        ) and not self._ended_before_a_note(entry, reason):
            self._wrong("a try failed without a cause", entry)

    def _ended_before_a_note(self, entry: HistoryEntry, reason: str) -> bool:
        """Return whether a call was ended from outside before its handler could note its begin."""
        worker, until = entry.client or "", entry.at.timestamp()
        claims = [
            each.at.timestamp() for each in self._entries
            if each.what == "claimed" and each.client == worker and each.at < entry.at
        ]  # fmt: skip
        since = max(claims, default=until) - SLACK_S
        if any(call.worker == worker and since <= call.at for call in self._calls.values()
               if call.at <= until):  # fmt: skip
            return False
        if "took longer" in reason:
            return self._audit.stood_still_s(since, until) > self._audit.limit_s / 2
        killed = re.search(CRASHES[Fault.SIGKILL], reason)
        return bool(killed) and self._audit.take_killed_child_of(worker, since, until)

    def _explains(self, call: Note, entry: HistoryEntry, reason: str) -> bool:
        """Return whether a call of this worker failed for that reason."""
        if call.worker != entry.client or call.attempt not in self._numbers_of(entry):
            return False
        for note in self._notes:
            if note.run == call.run and note.what == FAULT:
                pattern = CRASHES.get(Fault(note.detail), r"fault \d+ of job")
                if re.search(pattern, reason):
                    return True
        if self._audit.is_child_killed(call.pid) and re.search(CRASHES[Fault.SIGKILL], reason):
            return True
        if self._job.on_hold and entry.attempt == self._job.attempts and self._is_of_end(reason):
            return True
        claimed = [each.at for each in self._entries if each.what == "claimed"]
        since = [at for at in claimed if at.timestamp() <= call.at]
        took_s = (entry.at - since[-1]).total_seconds() if since else 0
        return took_s > 0.9 * self._audit.limit_s and "took longer" in reason

    def _numbers_of(self, entry: HistoryEntry) -> set[int]:
        """Return the numbers under which a call may have begun that ended with this entry.

        A lease that lapsed while its worker was frozen, and was had back, counted as a try.
        """
        numbers = {entry.attempt or 0}
        for each in reversed(self._entries):
            if _holder(each) == entry.client and (each.attempt or 0) + 1 in numbers:
                numbers.add(each.attempt or 0)
        return numbers

    def _check_lapse(self, entry: HistoryEntry) -> None:
        life = self._audit.lives.get(_holder(entry))
        if life is None:
            self._wrong("a lease of nobody lapsed", entry)
        elif self._lived(entry, life):
            self._wrong("a lease lapsed though its worker lived", entry)

    # --- questions --------------------------------------------------------------------------------

    def _check_questions(self) -> None:
        """Check that each question was asked once, and answered."""
        asked = [json.loads(each.schema or "") for each in self._job.inputs or ()]
        if len(asked) > max(self._script.questions, self._script.asked):
            self._wrong("asked again", asked)
        names = [each["input_data"][0]["name"] for each in asked]
        if len({*names}) != len(names):
            self._wrong("asked again", names)
        for name, each in zip(names, self._job.inputs or (), strict=True):
            self._audit.seen["questions"] += 1
            if each.text != answer(name):
                self._wrong("another answer", (name, each.text))
        if self._job.status is JobStatus.COMPLETED and len(names) != self._script.asked:
            self._wrong("not asked", names)


def _gaps(spans: Sequence[tuple[float, float]], since: float, until: float) -> list[float]:
    """Return how long the stretches of time were that no span covers."""
    gaps, at = [], since
    for begin, end in sorted(spans):
        if end > at and begin < until:
            gaps.append(max(0.0, begin - at))
            at = end
    return [*gaps, max(0.0, until - at)]


def _frozen_s(life: Life) -> float:
    return sum(end - begin for begin, end in life.stopped)


def _holder(entry: HistoryEntry) -> str:
    """Return the worker whose lease has lapsed, or nothing if the entry is of another kind."""
    return (entry.reason or "") if entry.what == "lapsed" else ""


def _told(entry: HistoryEntry) -> str:
    """Return an entry of a history in short."""
    told = [entry.at.strftime("%M:%S.%f")[:-3], entry.what, entry.to or "", entry.client or ""]
    return " ".join([*told, str(entry.attempt or ""), entry.reason or ""]).strip()


def _plain(text: str) -> str:
    """Return only what no quoting changes."""
    return re.sub(r"[^A-Za-z0-9 ]+", "", text)
