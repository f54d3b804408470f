"""Faults of the service and of what lies between it and its caller, chosen by seed."""

import random
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """What goes wrong with one call."""

    ERROR_BEFORE = "error-before"  # 500; nothing was done
    ERROR_AFTER = "error-after"  # 500; it was done
    CONFLICT = "conflict"  # 409; nothing was done
    SLOW = "slow"  # done; the answer comes late
    HTML_OK = "html-200"  # a page with status 200; nothing was done
    HTML_ERROR = "html-502"  # a page with status 502; it was done
    HALF = "half"  # done; the connection ends in the middle of the answer
    TOO_MANY = "too-many"  # 429 with Retry-After; nothing was done


DONE: Final = frozenset({Fault.ERROR_AFTER, Fault.SLOW, Fault.HTML_ERROR, Fault.HALF})
"""With these the call has its effect."""

CHANGING: Final = frozenset({"create", "submit-result", "error-state-recovery", "authorize-refund"})
"""Calls that change something. Only these end with a conflict."""


class Faults:
    """Decides for each call what goes wrong with it.

    Args:
        seed: the same seed and order of calls give the same faults.
        shares: how often each fault happens, 0 to 1; together at most 1.
        slow_s: how late a slow answer is.
        retry_after_s: what `Retry-After` says.
    """

    def __init__(
        self,
        seed: int = 0,
        shares: Mapping[Fault, float] | None = None,
        *,
        slow_s: float = 0.5,
        retry_after_s: int = 1,
    ) -> None:
        self.shares = dict(shares or {})
        if min(self.shares.values(), default=0) < 0 or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares are 0 or more, and together at most 1: {self.shares}")
        self.slow_s = slow_s
        self.retry_after_s = retry_after_s
        self.enabled = True
        self.counts: Counter[tuple[str, Fault]] = Counter()
        self._random = random.Random(seed)
        self._planned: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._lock = threading.Lock()

    @classmethod
    def none(cls) -> "Faults":
        """Return faults that never happen, except those planned with `plan`."""
        return cls()

    @classmethod
    def all(cls, seed: int, share: float, *, slow_s: float = 0.5) -> "Faults":
        """Return faults of every kind; `share` of the calls have one."""
        return cls(seed, dict.fromkeys(Fault, share / len(Fault)), slow_s=slow_s)

    def plan(self, call: str, *faults: Fault) -> None:
        """Let these faults happen to the next calls of this name, in this order."""
        with self._lock:
            self._planned[call].extend(faults)

    def draw(self, call: str) -> Fault | None:
        """Return what goes wrong with this call, and count it."""
        with self._lock:
            fault = self._draw(call)
            if fault is not None:
                self.counts[call, fault] += 1
            return fault

    def _draw(self, call: str) -> Fault | None:
        if self._planned[call]:
            return self._planned[call].popleft()
        value = self._random.random()
        if not self.enabled:
            return None
        for fault, share in self.shares.items():
            if value < share:
                return None if fault is Fault.CONFLICT and call not in CHANGING else fault
            value -= share
        return None
