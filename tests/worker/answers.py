"""Handlers that return or raise what is hard to store. A worker calls them by name."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Never
from unittest.mock import Mock

from tollgate import Fail, Retry
from tollgate.domain.models import Job

CASES: dict[str, tuple[Callable[[], Any], str | None, str | None]] = {}
"""What to call, and the result or the beginning of the error that its job gets."""


def plain(job: Job) -> Any:
    return CASES[job.input or ""][0]()


async def in_loop(job: Job) -> Any:
    return CASES[job.input or ""][0]()


def case(error: str | None, result: str | None = None) -> Callable[[Callable[[], Any]], Any]:
    def keep(function: Callable[[], Any]) -> Callable[[], Any]:
        CASES[function.__name__] = function, result, error
        return function

    return keep


class NoText(Exception):  # noqa: N818 - its name is the whole error
    def __str__(self) -> str:
        raise ValueError("no text for you")


class ExitingText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise SystemExit(9)


class WrongText(Exception):  # noqa: N818
    def __str__(self) -> Any:
        return 7  # noqa: PLE0307 - what is tested


class NeedsArguments(Exception):  # noqa: N818
    def __init__(self, one: object, *, two: object) -> None:
        super().__init__(lambda: (one, two))  # cannot be pickled


class Busy(Retry):
    def __init__(self, one: object) -> None:
        self.one = one


class Odd(Retry):
    """Its attributes raise."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name in {"reason", "after_s"}:
            raise ValueError(name)
        return super().__getattribute__(name)


class Soon(Retry):
    after_s: Any = "soon"

    def __init__(self) -> None:
        pass


class Refused(Fail):
    def __init__(self, one: object) -> None:
        self.one = one


class Loud(str):
    __slots__ = ()

    def encode(self, *_: object) -> Never:
        raise ArithmeticError

    def strip(self, *_: object) -> Never:
        raise ArithmeticError


@case("NoText")
def raises_without_text() -> None:
    raise NoText


@case("ExitingText")
def raises_what_exits() -> None:
    raise ExitingText


@case("WrongText")
def raises_with_wrong_text() -> None:
    raise WrongText


@case("NeedsArguments: ")
def raises_what_cannot_be_pickled() -> None:
    raise NeedsArguments(1, two=2)


@case("ValueError: xxxxxxxxxxxxx")
def raises_much() -> None:
    raise ValueError("x" * 10_000_000)


@case("ValueError: a ? b")
def raises_a_surrogate() -> None:
    raise ValueError("a \ud800 b")


@case("ValueError: a\x00b")
def raises_a_zero() -> None:
    raise ValueError("a\x00b")


@case("ValueError")
def raises_a_loud_text() -> None:
    raise ValueError(Loud("loud"))


@case("RecursionError: maximum recursion depth exceeded")
def recurses() -> Any:
    return recurses()


@case("MemoryError")
def needs_memory() -> None:
    raise MemoryError


@case("KeyboardInterrupt")
def interrupts() -> None:
    raise KeyboardInterrupt


@case("SystemExit: 3")
def exits() -> None:
    raise SystemExit(3)


@case("GeneratorExit")
def raises_generator_exit() -> None:
    raise GeneratorExit


@case("CancelledError")
def cancels_itself() -> None:
    raise asyncio.CancelledError


@case("StopAsyncIteration")
def stops_iteration() -> None:
    raise StopAsyncIteration


@case("BaseExceptionGroup: many (2 sub-exceptions)")
def raises_many() -> None:
    raise BaseExceptionGroup("many", [ValueError("a"), KeyboardInterrupt()])


@case("ValueError: a circle")
def raises_a_circle() -> None:
    one, two = ValueError("a circle"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    one.add_note("with a note")
    raise one


@case("TimeoutError")
def raises_timeout() -> None:
    raise TimeoutError


@case("Fail")
def fails_for_none() -> None:
    raise Fail(None)  # type: ignore[arg-type]


@case("Fail")
def fails_without_text() -> None:
    raise Fail(NoText())  # type: ignore[arg-type]


@case("Retry")
def retries_by_a_subclass() -> None:
    raise Busy(1)


@case("Retry")
def retries_oddly() -> None:
    raise Odd


@case("Retry")
def retries_at_no_time() -> None:
    raise Soon


@case("Fail")
def fails_by_a_subclass() -> None:
    raise Refused(1)


@case("out of words")
def fails() -> None:
    raise Fail("out of words")


@case("ArgumentError: Retry: after_s")
def retries_soon() -> None:
    raise Retry(after_s="soon")  # type: ignore[arg-type]


@case("ArgumentError: Retry: after_s")
def retries_never() -> None:
    raise Retry(after_s=math.nan)


@case("Retry")
def retries_at_the_end_of_time() -> None:
    raise Retry(after_s=math.inf)


@case("the handler returned NoneType instead of a str")
def returns_none() -> None:
    return None


@case("the handler returned bytes instead of a str")
def returns_bytes() -> bytes:
    return b"bytes"


@case("the handler returned generator instead of a str")
def returns_a_generator() -> Generator[str]:
    yield "text"


@case("the handler returned async_generator instead of a str")
async def returns_an_async_generator() -> AsyncIterator[str]:
    yield "text"


@case("the handler returned Mock instead of a str")
def returns_a_mock() -> Any:
    return Mock(spec=str)


@case("the handler's result is not valid text: it has a lone surrogate")
def returns_a_surrogate() -> str:
    return "a\ud800"


@case(None, "loud")
def returns_a_loud_text() -> str:
    return Loud("loud")


@case(None, "")
def returns_nothing_much() -> str:
    return ""


@case(None, "a\x00b")
def returns_a_zero() -> str:
    return "a\x00b"


@case("the handler's result has 10000000 bytes, and the broker takes 65536")
def returns_much() -> str:
    return "x" * 10_000_000
