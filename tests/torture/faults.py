"""What can happen to the processes of a run, and the sequence of it that a seed stands for."""

from collections.abc import Iterator
from random import Random
from typing import Final

import msgspec

BROKER: Final = "broker"
WORKERS: Final = ("worker-1", "worker-2", "worker-3")
PRODUCERS: Final = ("producer-1", "producer-2", "producer-3", "producer-4")
EVERYONE: Final = (BROKER, *WORKERS, *PRODUCERS)

PAUSE: Final = "pause"
"""SIGSTOP, and SIGCONT after a while."""
KILL: Final = "kill"
TERM: Final = "term"
LOG_STUCK: Final = "log stuck"
"""The reader of its log stops reading for a while."""
LOG_CLOSED: Final = "log closed"
"""The reader of its log goes away."""
SOCKET_REMOVED: Final = "socket removed"
LOCK_REMOVED: Final = "lock removed"
CLOCK_SET: Final = "clock set"
DISK_FULL: Final = "disk full"
FEW_FILES: Final = "few files"
"""It may open no more files for a while."""

PAUSE_S_MAX: Final = 6.0
CLOCK_S_MAX: Final = 40 * 3_600.0
"""Two such jumps in opposite directions make no job old enough to be forgotten."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that happens to one process."""

    at_s: float
    """When it begins, after the start of the run."""
    kind: str
    target: str
    for_s: float = 0.0
    """How long it lasts; 0 if it has no end."""
    offset_s: float = 0.0
    """Where the clock is set to, from the true time."""

    def __str__(self) -> str:
        text = f"{self.at_s:7.2f} s  {self.target:10}  {self.kind}"
        if self.kind == CLOCK_SET:
            text += f" to {self.offset_s:+.1f} s"
        return text + (f" for {self.for_s:.2f} s" if self.for_s else "")


_SHARES: Final[dict[str, tuple[float, tuple[str, ...]]]] = {
    PAUSE: (22, EVERYONE),
    KILL: (14, EVERYONE),
    TERM: (10, EVERYONE),
    LOG_STUCK: (10, EVERYONE),
    LOG_CLOSED: (6, EVERYONE),
    SOCKET_REMOVED: (5, (BROKER,)),
    LOCK_REMOVED: (3, (BROKER,)),
    CLOCK_SET: (14, EVERYONE),
    DISK_FULL: (6, (BROKER,)),
    FEW_FILES: (10, EVERYONE),
}
_LASTING: Final = {PAUSE: PAUSE_S_MAX, LOG_STUCK: 15.0, DISK_FULL: 6.0, FEW_FILES: 6.0}
"""Longest duration of each kind that ends, in seconds."""
_BROKER_SHARE: Final = 0.2
"""How often the broker is hit, of the faults that can hit any process."""


def faults(seed: int, seconds: float, every_s: float) -> Iterator[Fault]:
    """Yield the faults of a run in order, one every `every_s` seconds on average."""
    random = Random(seed)
    kinds, weights = [*_SHARES], [share for share, _ in _SHARES.values()]
    first = kinds.copy()  # each kind comes once before any of them comes often
    random.shuffle(first)
    at_s = 0.0
    while (at_s := at_s + random.uniform(0.2, 1.8) * every_s) < seconds:
        kind = first.pop() if first else random.choices(kinds, weights)[0]
        targets = _SHARES[kind][1]
        target = BROKER if random.random() < _BROKER_SHARE else random.choice(targets)
        longest_s = min(_LASTING.get(kind, 0.0), seconds / 4)
        for_s = longest_s * random.random() ** 2  # most are short
        offset_s = 0.0
        if kind == CLOCK_SET:
            size = CLOCK_S_MAX ** random.random()  # from a second to the longest
            offset_s = random.choice((-size, size))
        yield Fault(round(at_s, 2), kind, target, round(for_s, 2), round(offset_s, 1))
