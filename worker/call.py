"""One call of a handler: what the handler may raise, and how the call ended."""

import traceback
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from tollgate.client.arguments import seconds

TRACE_MAX: Final = 32 * 1024
"""Longest traceback in the log, in characters."""


class Retry(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a handler to have the job tried again later.

    It counts as a try. `after_s` is the pause in seconds; without it the worker's backoff decides.
    `reason` is shown in the history of the job, and is its error if no try is left.

    Raises:
        ArgumentError: `after_s` is no number of seconds, and no timedelta.

    """

    reason = ""  # for subclasses that do not call `__init__`
    after_s: float | None = None

    def __init__(self, reason: str = "", *, after_s: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = None if after_s is None else seconds(after_s, "Retry: after_s")


class Fail(Exception):  # noqa: N818 - a decision, not an error
    """Raise it in a handler to fail the job now, without another try; `reason` is its error."""

    reason = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Suspended(BaseException):
    """Ends a call whose job waits for an answer. The job is called again when it has come.

    It is raised by `ask` and by the end of a worker. It is no Exception, so that a handler that
    catches those does not catch it.
    """


class CallResult(msgspec.Struct, frozen=True, gc=False):
    """How a call of a handler ended. It can be sent to another process."""

    value: Any = None
    """What the handler returned."""
    error: str | None = None
    """Why it failed, or None if it returned."""
    trace: str | None = None
    """The traceback, for the log."""
    is_final: bool = False
    """Whether the handler has decided that the job fails: no other try, no hold."""
    is_retry: bool = False
    """Whether the handler asked for another try: no traceback is logged."""
    after_s: float | None = None
    """When to try again, if the handler said so."""
    is_suspended: bool = False
    """Whether the call was ended without a result: it is no try of the job."""

    @classmethod
    def of_exception(cls, fault: BaseException) -> Self:
        """Return the result of a call that raised `fault`."""
        fault = _decision(fault)
        if isinstance(fault, Suspended):
            return cls(is_suspended=True)
        if isinstance(fault, Retry):
            return cls(error=_reason(fault) or "Retry", is_retry=True, after_s=_pause_s(fault))
        if isinstance(fault, Fail):
            return cls(error=_reason(fault) or "Fail", is_final=True)
        return cls(error=describe(fault), trace=_trace(fault))


def _decision(fault: BaseException) -> BaseException:
    """Return what a group of exceptions comes to: a task group makes one of what its tasks raise.

    It ends the call, or fails the job, if one of them does; it is a retry if all of them are.
    """
    if not isinstance(fault, BaseExceptionGroup):
        return fault
    single = _single(fault)
    for each in single:
        if isinstance(each, Suspended | Fail):
            return each
    return single[0] if all(isinstance(each, Retry) for each in single) else fault


def _single(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the exceptions in a group and in the groups in it, in order."""
    single: list[BaseException] = []
    left: list[BaseException] = [group]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            # Not by the instance: a subclass may have put anything in its place.
            left.extend(reversed(BaseExceptionGroup.exceptions.__get__(each)))
        else:
            single.append(each)
    return single


def describe(fault: BaseException) -> str:
    """Return the type and the message of an exception, and of the first one in a group.

    It raises nothing itself.
    """
    name = type(fault).__name__
    message = _text(fault)
    text = f"{name}: {message}" if message else name
    if isinstance(fault, BaseExceptionGroup):
        text += f": {describe(_single(fault)[0])}"
    return text


def _text(value: object) -> str:
    try:
        return "" if value is None else str.strip(str(value))
    except BaseException:  # noqa: BLE001 - the __str__ of a user's exception may raise anything
        return ""


def _reason(fault: Retry | Fail) -> str:
    try:
        return _text(fault.reason)
    except BaseException:  # noqa: BLE001 - a subclass may have anything in its place
        return ""


def _pause_s(fault: Retry) -> float | None:
    try:
        return None if fault.after_s is None else seconds(fault.after_s, "Retry: after_s")
    except BaseException:  # noqa: BLE001 - as above
        return None


_HERE: Final = str(Path(__file__).parent)


def _is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(_HERE)


def _trace(fault: BaseException) -> str:
    """Return the traceback from the handler on, without the frames of the worker."""
    try:
        trace = fault.__traceback__
        while trace is not None and trace.tb_next is not None and _is_ours(trace):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(fault), fault, trace))
        if len(text) > TRACE_MAX:  # it would push other lines out of the log
            text = f"{text[: TRACE_MAX // 2]}\n…\n{text[-TRACE_MAX // 2 :]}"
    except BaseException:  # noqa: BLE001 - as above
        return type(fault).__name__
    return text
