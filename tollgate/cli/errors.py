"""Says in one line what went wrong and what to do about it, and which exit code that is."""

import os
import sys
from typing import Final

import click

from tollgate.client.errors import BrokerUnreachableError, KeyFileError, OutcomeUnknown
from tollgate.domain.exceptions import Refusal, TollgateError
from tollgate.terminal.text import one_line

REFUSED: Final = 1
WRONG_USAGE: Final = 2
NOT_REACHED: Final = 3
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

_ADVICE: Final = {
    "job_not_found": "see `tollgate list`",
    "lease_held": "a worker has it; pass its token with --lease, or wait",
    "lease_lost": "the job was taken over; look with `tollgate get`",
    "overloaded": "try again",
    "draining": "the broker is about to leave; try again when it is back",
    "repository_full": "the broker stores as many jobs as its settings allow",
    "unsupported_version": "update tollgate here or there",
    "wait_timeout": "wait again, or longer with --timeout",
}


_KINDS: Final[tuple[tuple[type[Exception], str, int], ...]] = (
    (
        BrokerUnreachableError,
        "; start a broker with `tollgate broker`, or say with --endpoint where it is",
        NOT_REACHED,
    ),
    (
        OutcomeUnknown,
        "; look before you try again: `tollgate get` or `tollgate list`",
        NOT_REACHED,
    ),
    (KeyFileError, "", WRONG_USAGE),
    (UnicodeEncodeError, "; check the encoding of your terminal", WRONG_USAGE),
    (TollgateError, "", REFUSED),
)
"""What went wrong, what to do about it, and the exit code: the first that fits."""


class NotAllDoneError(click.ClickException):
    """A part was done and a part was not; each part that was not has been reported."""

    exit_code = REFUSED


def is_watched() -> bool:
    """Whether a person sees standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def report(error: BaseException) -> int:
    """Write `error` to standard error in one line, and return the exit code that goes with it."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        say("interrupted")
        return INTERRUPTED
    message, code = _explained(error)
    say(message)
    return code


def say(message: str) -> None:
    """Write a message to standard error, as one line."""
    click.echo(f"tollgate: {one_line(message)}", err=True)


def reader_left() -> int:
    """End quietly when whatever read the output has seen enough; return the exit code."""
    # Python flushes standard output once more at exit, and would complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 0


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, click.ClickException):
        return _usage(error), error.exit_code
    if isinstance(error, Refusal):
        return refusal_line(error), REFUSED
    if isinstance(error, OSError):
        return error.strerror or str(error), REFUSED
    for kind, advice, code in _KINDS:
        if isinstance(error, kind):
            return f"{error}{advice}", code
    return _unexpected(error), REFUSED


def refusal_line(refusal: Refusal) -> str:
    """Return a refusal as its code, its message and, where there is something to do, advice."""
    advice = _ADVICE.get(refusal.code)
    if refusal.code == "version_conflict" and refusal.version is not None:
        advice = f"it is {refusal.status} at version {refusal.version} now"
    line = f"{refusal.code}: {refusal.message}"
    return f"{line}; {advice}" if advice else line


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if context is None:
        return message
    return f"{message}; see `{context.command_path} --help`"


def _unexpected(error: BaseException) -> str:
    if os.environ.get("TOLLGATE_TRACEBACK"):
        raise error
    return (
        f"this should not happen: {type(error).__name__}: {error}; "
        "for a report, run it again with TOLLGATE_TRACEBACK=1"
    )
