"""Compares the journal with the answers that the producers got."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.crash.model import Model
from tests.crash.summaries import (
    NOTHING,
    Logged,
    Seen,
    Summary,
    extras_of,
    microseconds,
    of_outcome,
    rounds_of,
    seen_log,
)  # fmt: skip
from tollgate.broker.core.events import (
    AnyEvent,
    JobCreated,
    JobProgressed,
    JobTransitioned,
    LeaseGranted,
)
from tollgate.broker.core.records import Record, decode_record
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import RECORD, Entry
from tollgate.broker.journal.inspect import dump
from tollgate.broker.journal.recovery import Replay
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

EXAMPLES: Final = 5


class Audit:
    """Collects errors by kind, with a few examples of each."""

    def __init__(self, *, has_workers: bool = False) -> None:
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.figures: Counter[str] = Counter()
        self.kinds: Counter[type[AnyEvent]] = Counter()
        self.history: dict[str, list[tuple[str, int]]] = {}
        """For each job: status and time, by version."""
        self.effects: dict[tuple[int, int], list[Summary]] = {}
        """For each request: the outcomes of its commands."""
        self.places: dict[tuple[int, int], int] = {}
        """For each request: the sequence number of its record."""
        self._tokens: dict[int, str] = {}
        self.model = Model()
        self._named: set[tuple[int, int]] = set()
        """Requests that claim jobs by their ids."""
        self._has_workers = has_workers
        """Whether workers hold leases: they claim a job again, by its id, whose lease lapsed."""
        self._holders: dict[str, tuple[str, str]] = {}
        """Who was granted each job last, by key and client."""
        self._at = datetime.min.replace(tzinfo=UTC)
        self._standing: set[int] = set()
        """Tokens of the leases that stand at the end."""

    def report(self, kind: str, detail: object) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {detail}")

    def journal(self, archive: Path, data: Path, logs: Sequence[Path] = ()) -> None:
        """Check all records, and that a start from snapshot and tail restores the same state.

        `logs` tell which requests claim jobs by their ids.
        """
        for logged in _read(logs):
            if logged.is_named:
                self._named.add((logged.session, logged.seq))
        whole, started = State(), State()
        replay(self._checked(Replay(archive)), whole)
        replay(dump(data), started)
        self._standing = {slot.lease.token for slot in whole.jobs.slots() if slot.lease}
        if list(snapshot_chunks(whole)) != list(snapshot_chunks(started)):
            self.report("another state", "a start does not restore what the records make")
        self._compare(whole)

    def _compare(self, state: State) -> None:
        """Compare the jobs of a state with those of the model."""
        for slot in state.jobs.slots():
            job: Any = slot.job  # it has the fields of a job on the wire
            model = self.model.jobs[job.job_id]
            shown = [str(job.status), slot.lease and slot.lease.token, rounds_of(job)]
            if [*shown, extras_of(job)] != [model.status, model.lease, model.rounds, model.shows()]:
                self.report("another job", (job.job_id, shown, model))
            entries, left_out = state.jobs.origins.read(job.created_at, slot.history)
            happened = [[entry.what, entry.attempt] for entry in entries]
            if (happened, left_out) != model.history(len(model.happened)):
                self.report("another history", (job.job_id, happened, model.happened))

    def _checked(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        for entry in entries:
            if entry.kind != RECORD:
                self.report("no record", entry.sequence)
                continue
            record = decode_record(entry.payload)
            is_named = (record.session, record.seq) in self._named
            if record.at is None or record.at < self._at:
                self.report("time goes back", (entry.sequence, record.at))
            self._at = max(self._at, record.at or self._at)
            for event in record.events:
                self._apply(event)
                place = entry.sequence
                is_again = self._has_workers and self._is_held_again(event, record)
                is_out_of_turn = is_named or is_again
                for fault in self.model.apply(event, self._at, place, is_named=is_out_of_turn):
                    self.report("order", fault)
            self._check_record(record, entry.sequence)
            yield entry

    def _is_held_again(self, event: AnyEvent, record: Record) -> bool:
        """Return whether a job is granted to the client whose lease on it has just lapsed."""
        if not isinstance(event, LeaseGranted):
            return False
        holder = record.by, record.client
        before, self._holders[event.job_id] = self._holders.get(event.job_id), holder
        (what, _) = self.model.jobs[event.job_id].happened[-1]
        return what == "lapsed" and before == holder

    def _check_record(self, record: Record, sequence: int) -> None:
        self.figures["records"] += 1
        if not record.session or not (record.events or record.outcomes):
            return
        if not record.outcomes and {*map(type, record.events)} == {JobProgressed}:
            return  # a touch is decided again when it is repeated
        key = (record.session, record.seq)
        if key in self.effects:
            self.report("two effects", key)
        self.effects[key] = [of_outcome(outcome) for outcome in record.full_outcomes()]
        self.places[key] = sequence

    def _apply(self, event: AnyEvent) -> None:
        """Apply an event to a simpler state machine than the broker's."""
        self.figures["events"] += 1
        self.kinds[type(event)] += 1
        if isinstance(event, JobCreated):
            if event.job_id in self.history:
                self.report("illegal state", event)
            at = microseconds(event.at)
            self.history[event.job_id] = [(str(JobStatus.AWAITING_PAYMENT), at)]
        elif isinstance(event, JobTransitioned):
            versions = self.history[event.job_id]
            status, since = versions[-1]
            at = microseconds(event.at)
            legal = event.target in LEGAL_TRANSITIONS[JobStatus(status)]
            if not legal or event.version != len(versions) or at < since:
                self.report("illegal state", event)
            versions.append((str(event.target), at))
        elif isinstance(event, LeaseGranted):
            if event.lease in self._tokens:
                self.report("token given twice", event)
            self._tokens[event.lease] = event.job_id

    def logs(self, paths: Sequence[Path]) -> None:
        for logged in _read(paths):
            self._check_request(logged)
        for path in paths:
            self.seen(seen_log(path))

    def seen(self, path: Path, since: int = 0) -> None:
        """Check what one producer saw: each job was so once, and never went back.

        What it saw is not older than the record `since`, nor than the record of its request, unless
        the answer tells of no effect, as an empty claim: then a repeat has made that record.
        """
        decoder = msgspec.json.Decoder(Seen)
        reached: dict[str, int] = {}
        for line in path.read_bytes().splitlines():
            seen = decoder.decode(line)
            key = (seen.session, seen.seq)
            place = max(since, self.places.get(key, 0)) if seen.has_effect else since
            for job_id, shown, *more in seen.found:
                self.figures["jobs seen"] += 1
                job = self.model.jobs.get(job_id)
                if job is None:
                    self.report("lost", (job_id, shown))
                elif len(more) == 1:
                    (left_out,) = more
                    length = len(shown) + left_out
                    if job.history(length) != (shown, left_out):
                        self.report("lost history", (job_id, shown, job.happened[:length]))
                else:
                    version, rounds = more
                    if job.rounds_at.get(version, []) != rounds:
                        self.report("lost round", (job_id, version, rounds, job.rounds_at))
                    first = max(reached.get(job_id, 0), bisect_left(job.places, place) - 1)
                    try:
                        reached[job_id] = job.shown.index(shown, first)
                    except ValueError:
                        about = (seen.session, seen.seq, place, first)
                        self.report("lost", (about, shown, job))

    def _check_request(self, logged: Logged) -> None:
        key = (logged.session, logged.seq)
        self.figures["requests"] += 1
        self.figures["repeats answered alike"] += logged.same
        for changed in logged.again:
            if not self._are_alike(logged.first or [], changed):
                self.report("another answer", (key, logged.first, changed))
            self.figures["repeats answered alike"] += 1
        for code in logged.refused:
            self.report("refused", (key, code))
        if logged.first is None:
            self.report("never answered", key)
            return
        if any(outcome != NOTHING for outcome in logged.first):
            found = self.effects.get(key)
            if found is None:
                self.report("lost", (key, logged.first))
            elif not self._are_alike(found, logged.first):
                self.report("another outcome", (key, logged.first, found))
        for outcome in (*logged.first, *logged.seen):
            self.check_job(key, outcome)

    def _are_alike(self, first: list[Summary], later: list[Summary]) -> bool:
        """Return whether both are the same. A repeat may leave out leases that ended."""
        return len(first) == len(later) and all(
            one == other or (one[0] == other[0] == "leases" and self._is_rest(one[1], other[1]))
            for one, other in zip(first, later, strict=True)
        )

    def _is_rest(self, granted: Summary, shown: Summary) -> bool:
        gone = [lease for lease in granted if lease not in shown]
        rest = [lease for lease in granted if lease in shown]
        return rest == shown and not any(token in self._standing for _, token in gone)

    def check_job(self, key: object, outcome: Summary) -> None:
        """Check that a job in an answer had that state in the journal. `key` names the request."""
        if outcome[0] == "leases":
            for job_id, token in outcome[1]:
                if self._tokens.get(token) != job_id:
                    self.report("lost", (key, outcome))
            return
        if outcome[0] != "job":
            return
        _, job_id, version, status, at = outcome
        versions = self.history.get(job_id, [])
        if len(versions) < version or versions[version - 1] != (status, at):
            self.report("lost", (key, outcome))

    def undelivered(self, logs: Iterable[Path], last_of_life: list[int]) -> int:
        """Count the requests that one broker executed and a later one answered.

        `last_of_life` holds the sequence number of the last record of each broker, in order.
        """
        undelivered = 0
        for logged in _read(logs):
            place = self.places.get((logged.session, logged.seq))
            if place is None:
                continue
            life = 1 + sum(place > last for last in last_of_life)
            if logged.life != life:
                undelivered += 1
                self.report("reply not delivered", (logged, f"record {place}, life {life}"))
        return undelivered


def _read(logs: Iterable[Path]) -> Iterator[Logged]:
    decoder = msgspec.json.Decoder(Logged)
    for path in logs:
        yield from map(decoder.decode, path.read_bytes().splitlines())
