"""What lies between service and caller: it answers in its place, or changes what it tells."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the `data` of an answer as the caller gets it."""


class Answer(NamedTuple):
    """An answer over HTTP."""

    status: int
    body: bytes = b"<!doctype html><html><body><h1>Please wait</h1></body></html>"
    headers: Mapping[str, str] = {"Content-Type": "text/html"}


class Proxy:
    """Lets everything through, unless it is told otherwise.

    Calls have the names that `faults` know.
    """

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        """What becomes of each good answer, by the name of the call."""
        self._answers: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._lock = threading.Lock()

    def plan(self, call: str, *answers: Answer) -> None:
        """Answer the next calls of this name like this; they do not reach the service."""
        with self._lock:
            self._answers[call].extend(answers)

    def answer(self, call: str) -> Answer | None:
        """Return what this call is answered here, or None if the service has to answer it."""
        with self._lock:
            return self._answers[call].popleft() if self._answers[call] else None

    def changed(self, call: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the `data` of a good answer."""
        return self.changes[call](data) if call in self.changes else data
