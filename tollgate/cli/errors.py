"""Says in one line what went wrong and what to do about it, and gives the exit code for it."""

import os
from typing import Final

import click

from tollgate.client.errors import BrokerUnreachableError, KeyFileError, OutcomeUnknown
from tollgate.domain.exceptions import ArgumentError, Refusal, TollgateError
from tollgate.terminal.program import message_of
from tollgate.terminal.streams import drop_output
from tollgate.terminal.text import one_line
from tollgate.terminal.uncaught import OUT_OF_MEMORY, is_out_of_memory

REFUSED: Final = 1
WRONG_USAGE: Final = 2
NOT_REACHED: Final = 3
INTERRUPTED: Final = 130
"""128 + SIGINT, as in shells."""

_ADVICE: Final = {
    "events_gone": "see `tollgate list`, and go on with `--since oldest`",
    "job_not_found": "see `tollgate list`",
    "lease_held": "`tollgate get` shows the holder; pass its token with --lease, or wait",
    "lease_lost": "check the token; another worker may hold the job now",
    "overloaded": "try again",
    "draining": "the broker is stopping; try again when it is back",
    "repository_full": "there is room again when finished jobs have been pruned",
    "unsupported_version": "update tollgate here or at the broker",
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
        "; check with `tollgate get` or `tollgate list` before you try again",
        NOT_REACHED,
    ),
    (KeyFileError, "", WRONG_USAGE),
    (UnicodeEncodeError, "; check the encoding of your terminal", WRONG_USAGE),
    (TollgateError, "", REFUSED),
)
"""A class of error, what to do about it, and the exit code. The first row that fits counts."""


class NotAllDoneError(click.ClickException):
    """Only a part was done; each part that was not has been reported."""

    exit_code = REFUSED


def report(error: BaseException) -> int:
    """Write `error` to standard error in one line, and return the exit code for it."""
    message, code = _explained(error)
    if code == INTERRUPTED:
        drop_output()
    click.echo(f"tollgate: {one_line(message)}", err=True)
    return code


def refusal_line(refusal: Refusal) -> str:
    """Return a refusal as its code, its message and, if something can be done, advice."""
    if isinstance(refusal, ArgumentError):
        return refusal.message  # no broker has seen it
    advice = _ADVICE.get(refusal.code)
    if refusal.code == "version_conflict" and refusal.version is not None:
        advice = f"it is {refusal.status} at version {refusal.version} now"
    line = f"{refusal.code}: {refusal.message}"
    return f"{line}; {advice}" if advice else line


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, click.ClickException):
        message = message_of(error).rstrip(".")
        context = getattr(error, "ctx", None)
        if context is not None:
            see = " See" if message.endswith("?") else "; see"
            message += f"{see} `{context.command_path} --help`"
        return message, error.exit_code
    if isinstance(error, Refusal):
        code = WRONG_USAGE if isinstance(error, ArgumentError) else REFUSED
        return refusal_line(error), code
    if isinstance(error, OSError):
        return error.strerror or str(error), REFUSED
    return _explained_by_kind(error)


def _explained_by_kind(error: BaseException) -> tuple[str, int]:
    if is_out_of_memory(type(error)):
        return f"{OUT_OF_MEMORY}; a change may have been made: see `tollgate list`", REFUSED
    for kind, advice, code in _KINDS:
        if isinstance(error, kind):
            return f"{error}{advice}", code
    if os.environ.get("TOLLGATE_TRACEBACK"):
        raise error
    advice = "for a bug report, run it again with TOLLGATE_TRACEBACK=1"
    return f"internal error: {type(error).__name__}: {error}; {advice}", REFUSED
