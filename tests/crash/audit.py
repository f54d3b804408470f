"""Compares the journal with the answers that the producers got."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tests.crash.summaries import NOTHING, Logged, Summary, microseconds, of_outcome
from tollgate.broker.core.events import AnyEvent, JobCreated, JobTransitioned, LeaseGranted
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

    def __init__(self) -> None:
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.figures: Counter[str] = Counter()
        self.history: dict[str, list[tuple[str, int]]] = {}
        """For each job: status and time, by version."""
        self.effects: dict[tuple[int, int], list[Summary]] = {}
        """For each request: the outcomes of its commands."""
        self.places: dict[tuple[int, int], int] = {}
        """For each request: the sequence number of its record."""
        self._tokens: dict[int, str] = {}
        self._standing: set[int] = set()
        """Tokens of the leases that stand at the end."""

    def report(self, kind: str, detail: object) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {detail}")

    def journal(self, archive: Path, data: Path) -> None:
        """Check all records, and that a start from snapshot and tail restores the same state."""
        whole, started = State(), State()
        replay(self._checked(Replay(archive)), whole)
        replay(dump(data), started)
        self._standing = {slot.lease.token for slot in whole.jobs.slots() if slot.lease}
        if list(snapshot_chunks(whole)) != list(snapshot_chunks(started)):
            self.report("another state", "a start does not restore what the records make")

    def _checked(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        for entry in entries:
            if entry.kind != RECORD:
                self.report("no record", entry.sequence)
                continue
            record = decode_record(entry.payload)
            for event in record.events:
                self._apply(event)
            self._check_record(record, entry.sequence)
            yield entry

    def _check_record(self, record: Record, sequence: int) -> None:
        self.figures["records"] += 1
        if not record.session or not (record.events or record.outcomes):
            return
        key = (record.session, record.seq)
        if key in self.effects:
            self.report("two effects", key)
        self.effects[key] = [of_outcome(outcome) for outcome in record.full_outcomes()]
        self.places[key] = sequence

    def _apply(self, event: AnyEvent) -> None:
        """Apply an event to a simpler state machine than the broker's."""
        self.figures["events"] += 1
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

    def logs(self, paths: Iterable[Path]) -> None:
        decoder = msgspec.json.Decoder(Logged)
        for path in paths:
            for line in path.read_bytes().splitlines():
                self._check_request(decoder.decode(line))

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
            self._check_job(key, outcome)

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

    def _check_job(self, key: tuple[int, int], outcome: Summary) -> None:
        """Check that a job in an answer had that state in the journal."""
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
        decoder = msgspec.json.Decoder(Logged)
        undelivered = 0
        for path in logs:
            for line in path.read_bytes().splitlines():
                logged = decoder.decode(line)
                place = self.places.get((logged.session, logged.seq))
                if place is None:
                    continue
                life = 1 + sum(place > last for last in last_of_life)
                if logged.life != life:
                    undelivered += 1
                    self.report("reply not delivered", (logged, f"record {place}, life {life}"))
        return undelivered
