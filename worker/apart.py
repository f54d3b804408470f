"""Runs a coroutine with context variables of its own, without a task of its own."""

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Apart(Generic[T]):
    """What to await instead of a coroutine whose context variables nobody else is to see."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        """Hand all that is awaited through to the task, and take each step in the context."""
        run = copy_context().run
        send, throw = self._coroutine.send, self._coroutine.throw
        step: Any = send
        value: Any = None
        while True:
            try:
                awaited = run(step, value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step, value = send, (yield awaited)
            except BaseException as fault:  # noqa: BLE001 - it is the coroutine's, cancellation too
                step, value = throw, fault
