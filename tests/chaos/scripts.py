"""The script of each job: what its handler does, call by call, and how the job must end."""

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

THREAD_QUEUES: Final = ("alpha", "beta")
PROCESS_QUEUES: Final = ("gamma", "delta")
"""Their jobs may crash their process, or hold its interpreter."""
QUEUES: Final = (*THREAD_QUEUES, *PROCESS_QUEUES)
HOLD_QUEUE: Final = "delta"
"""The workers of this queue put a job on hold when its tries are exhausted; others fail it."""

MAX_ATTEMPTS: Final = 10
"""More than the kills of a run cost one job; a job that always fails reaches it soon."""
LEASES_A_CALL: Final = 5
"""The time limit of a call, in lease times."""


class Fault(StrEnum):
    """How a call of a handler fails before the one that ends the job."""

    RAISE = "raise"
    RETRY = "retry"
    HANG = "hang"
    """It waits for ever, so that its time limit ends it."""
    EXIT = "exit"
    SEGFAULT = "segfault"
    SIGKILL = "sigkill"
    HOLD = "hold"
    """It waits for ever in a C call that holds the interpreter."""


class End(StrEnum):
    """What ends the job."""

    RESULT = "result"
    FAIL = "fail"
    EXHAUST = "exhaust"
    """Every call raises."""
    OTHER_QUESTION = "other question"
    """It asks something else under a key that was answered."""
    TOO_LARGE = "too large"
    NO_TEXT = "no text"
    STOP = "stop"
    """It works until somebody asks it to stop, and then returns."""


class Work(StrEnum):
    """What takes time in each call."""

    NONE = "none"
    WAIT = "wait"
    """It waits for a moment, as for an answer over a network."""
    BLOCK = "block"
    """It blocks its thread for some lease times, in an async handler as well."""
    HOLD = "hold"
    """It holds the interpreter for some lease times."""


class Script(msgspec.Struct, frozen=True):
    """What happens to one job. It is the input of the job, as JSON."""

    number: int
    queue: str
    end: End
    faults: tuple[Fault, ...] = ()
    """The calls that fail, in order; the next one goes on to the end."""
    fault_after: int = 0
    """How many questions are asked before a fault."""
    questions: int = 0
    is_named: bool = False
    """Whether the questions have names, and are asked in another order each time."""
    work: Work = Work.NONE
    work_ms: int = 0
    priority: int = 0
    delay_ms: int = 0

    @property
    def status(self) -> str:
        """The status in which the job ends, or `on hold`."""
        if self.end in {End.RESULT, End.STOP}:
            return "completed"
        may_be_held = self.end in {End.EXHAUST, End.TOO_LARGE, End.NO_TEXT}
        return "on hold" if may_be_held and self.queue == HOLD_QUEUE else "failed"

    @property
    def asked(self) -> int:
        """How many questions the job has asked at its end."""
        if self.end is End.EXHAUST:
            return self.fault_after
        return max(self.questions, 1) if self.end is End.OTHER_QUESTION else self.questions

    def key(self, number: int) -> str | None:
        """Return the name of a question, or None."""
        return f"name-{number}" if self.is_named else None

    def question(self, number: int) -> str:
        return f"question {number} of job {self.number}"

    def reason(self, fault: int) -> str:
        """Return the text of a fault of its own."""
        return f"fault {fault} of job {self.number}"


def answer(question: str) -> str:
    """Return the answer of the human to a question."""
    return f"answer to {question}"


class Deck(Generic[T]):
    """Draws kinds in their proportions: every kind comes soon, in an order by the seed."""

    def __init__(self, random: Random, cards: Mapping[T, int]) -> None:
        self._random = random
        self._cards = [card for card, times in cards.items() for _ in range(times)]
        self._left: list[T] = []

    def draw(self) -> T:
        if not self._left:
            self._left = self._random.sample(self._cards, len(self._cards))
        return self._left.pop()


_ENDS: Final = {
    End.RESULT: 14, End.FAIL: 1, End.EXHAUST: 1, End.OTHER_QUESTION: 1, End.TOO_LARGE: 1,
    End.NO_TEXT: 1, End.STOP: 1,
}  # fmt: skip
_THREAD_FAULTS: Final = {Fault.RAISE: 5, Fault.RETRY: 4, Fault.HANG: 1}
_PROCESS_FAULTS: Final = {
    Fault.RAISE: 3, Fault.RETRY: 3, Fault.HANG: 1, Fault.EXIT: 2, Fault.SEGFAULT: 2,
    Fault.SIGKILL: 2, Fault.HOLD: 1,
}  # fmt: skip
_THREAD_WORK: Final = {Work.NONE: 8, Work.WAIT: 9, Work.BLOCK: 3}
_PROCESS_WORK: Final = {Work.NONE: 8, Work.WAIT: 8, Work.BLOCK: 2, Work.HOLD: 2}


class Scripts:
    """Draws scripts by a seed."""

    def __init__(self, random: Random, lease_ms: int) -> None:
        self._random = random
        self._lease_ms = lease_ms
        self._number = 0
        self._faults = {
            queue: Deck(random, _THREAD_FAULTS if queue in THREAD_QUEUES else _PROCESS_FAULTS)
            for queue in QUEUES
        }
        self._works = {
            queue: Deck(random, _THREAD_WORK if queue in THREAD_QUEUES else _PROCESS_WORK)
            for queue in QUEUES
        }
        self._ends = {queue: Deck(random, _ENDS) for queue in QUEUES}

    def draw(self) -> Script:
        """Return the next script; the queues take turns."""
        random, number = self._random, self._number
        self._number += 1
        queue = QUEUES[number % len(QUEUES)]
        end = self._ends[queue].draw()
        faults = random.choices((0, 1, 2, 3), (11, 5, 3, 1))[0] if end is not End.EXHAUST else 0
        questions = random.choices((0, 1, 2, 4), (6, 2, 1, 1))[0]
        work = self._works[queue].draw()
        return Script(
            number=number,
            queue=queue,
            end=end,
            faults=tuple(self._faults[queue].draw() for _ in range(faults)),
            fault_after=random.randint(0, questions),
            questions=questions,
            is_named=random.random() < 0.5 and end is not End.EXHAUST,
            work=work,
            work_ms=self._work_ms(work),
            priority=random.randint(0, 9),
            delay_ms=random.randint(100, 2 * self._lease_ms) if random.random() < 0.3 else 0,
        )

    def _work_ms(self, work: Work) -> int:
        if work in {Work.BLOCK, Work.HOLD}:
            return self._random.randint(2 * self._lease_ms, 3 * self._lease_ms)
        return self._random.randint(5, 300) if work is Work.WAIT else 0
