"""Compares the journal with what the producers were told of their operations."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.crash.audit import Audit
from tests.torture.handlers import answer_to
from tests.torture.operations import TAG, Operation, Outcome, read
from tollgate.broker.core.events import AnyEvent, JobAnnotated, JobCreated, JobTransitioned
from tollgate.broker.core.records import decode_record
from tollgate.broker.journal.recovery import Replay

_NOT_EXECUTED: Final = {Outcome.REFUSED, Outcome.NOT_DONE}


class Account:
    """What was acknowledged and what was applied, and all that is wrong with it."""

    def __init__(self, journal: Audit) -> None:
        self._journal = journal
        self.outcomes: Counter[str] = Counter()
        """How many operations ended how."""
        self.applied: Counter[str] = Counter()
        """How often each operation whose tag is stored is in the journal."""
        self.answers = 0
        """How many answers of workers were compared."""
        self.problems: list[str] = []
        """Processes that did not serve, or ended in a way that no fault explains."""
        self.messages: Counter[str] = Counter()
        """What producers were told when an operation was not acknowledged."""

    @property
    def wrong(self) -> Counter[str]:
        """How often something was wrong, by kind."""
        return self._journal.wrong + Counter(process=len(self.problems))

    @property
    def examples(self) -> list[str]:
        """All problems of processes, and some examples of everything else that is wrong."""
        return [*self.problems, *self._journal.examples]

    @property
    def events(self) -> int:
        return self._journal.figures["events"]

    def report(self, kind: str, detail: object) -> None:
        self._journal.report(kind, detail)

    def read_journal(self, archive: Path) -> None:
        inputs: dict[str, str | None] = {}
        for entry in Replay(archive):
            for event in decode_record(entry.payload).events:
                self.applied.update({*TAG.findall(_stored(event))})
                if isinstance(event, JobCreated):
                    inputs[event.job_id] = event.input
                elif isinstance(event, JobTransitioned) and event.result:
                    self._check_answer(inputs[event.job_id] or "", event.result)

    def _check_answer(self, text: str, result: str) -> None:
        if result.startswith("worker-"):
            self.answers += 1
            if result.partition(" ")[2] != answer_to(text):
                self.report("answer to another input", (text, result))

    def check(self, log: Path) -> None:
        """Check the operations of one producer."""
        begun: dict[str, Operation] = {}
        versions: dict[str, int] = {}
        for operation in read(log):
            if operation.outcome is Outcome.BEGUN:
                begun[operation.tag] = operation
                continue
            del begun[operation.tag]
            self.outcomes[operation.outcome] += 1
            self._check_effect(operation)
            if operation.message:
                self.messages[f"{operation.outcome}: {operation.message.partition(':')[0]}"] += 1
            if operation.job is not None:
                self._journal.check_job(operation.tag, operation.job)
                _, job_id, version, *_ = operation.job
                if version < versions.get(job_id, 0):
                    self.report("went back", operation)
                versions[job_id] = version
            if operation.leases:
                self._journal.check_job(operation.tag, ["leases", operation.leases])
        for operation in begun.values():  # the producer was killed
            self.outcomes["cut off"] += 1
            self._check_effect(operation)

    def _check_effect(self, operation: Operation) -> None:
        times = self.applied[operation.tag]
        if times > 1:
            self.report("applied twice", operation)
        if operation.outcome in _NOT_EXECUTED and times:
            self.report("applied, though refused", operation)
        if operation.outcome is Outcome.ACKNOWLEDGED and operation.is_tagged and not times:
            self.report("lost", operation)


def audited(archive: Path, data: Path, logs: Sequence[Path]) -> Account:
    """Check all records, and all operations of the producers against them."""
    journal = Audit(has_workers=True)
    journal.journal(archive, data)
    account = Account(journal)
    account.read_journal(archive)
    for log in logs:
        account.check(log)
    return account


def _stored(event: AnyEvent) -> str:
    """Return the texts of an event that an operation names itself in."""
    texts: tuple[str | None, ...]
    match event:
        case JobCreated():
            texts = (event.rest.meta if event.rest else None,)
        case JobAnnotated():
            texts = (event.meta,)
        case JobTransitioned():
            texts = (event.result, event.input_schema, event.provided_input)
        case _:
            texts = (getattr(event, "reason", None),)
    return " ".join(text for text in texts if text)
