"""Holds what commands share: arguments, the options for reaching a broker, checks of values."""

import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

import click

from tollgate import signals
from tollgate.client.sync import Client
from tollgate.domain.commands import UINT_LIMIT
from tollgate.domain.endpoint import check_endpoint
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

P = ParamSpec("P")
_Function = TypeVar("_Function", bound=Callable[..., object])

ANSWER_TIMEOUT_S: Final = 5.0
"""Long enough for a broker that is starting, short enough for a person who waits."""
YEAR_S: Final = 365 * 24 * 3600
WHOLE_MAX: Final = UINT_LIMIT - 1
STATUS: Final = click.Choice([status.value for status in JobStatus])
SETTLEMENT: Final = click.Choice([state.value for state in SettlementState])
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Caller(NamedTuple):
    """The options that all commands have: where the broker is, and the form of the answer."""

    endpoint: str | None
    key: str | None
    answer_timeout_s: float
    as_json: bool

    def client(self) -> Client:
        """Return a client of the caller's broker, to be used in a `with`."""
        return Client(self.endpoint, key=self.key, timeout_s=self.answer_timeout_s)


def whole(lowest: int, highest: int = WHOLE_MAX) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number in this range, both ends included."""
    span = f"from {lowest} on" if highest == WHOLE_MAX else f"from {lowest} to {highest}"

    def number(value: str) -> int:
        try:
            found = int(value)
        except ValueError:
            found = lowest - 1
        if not lowest <= found <= highest:
            raise click.BadParameter(f"{value} is not a whole number {span}")
        return found

    return number


def duration(value: str | float) -> float:
    """Take a span of time of at most a year, and return it in seconds."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)([smhd]?)", str(value))
    length_s = float(found[1]) * _UNITS_S[found[2]] if found else YEAR_S + 1
    if length_s > YEAR_S:
        raise click.BadParameter(
            f"{value} is not a duration, such as 45, 30s, 5m, 2h or 1d, of at most a year"
        )
    return length_s


def digest(value: str) -> str:
    """Take a SHA-256 in hexadecimal digits."""
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise click.BadParameter("a hash has 64 lowercase hexadecimal digits")
    return value


def identifier(value: str) -> str:
    """Take an id, which is not blank."""
    if not value.strip():
        raise click.BadParameter("an id cannot be empty")
    return value


def text_of_option(value: str) -> str:
    """Take a text that is not empty: an empty one comes from a variable that is not set."""
    if not value:
        raise click.BadParameter("it is empty; was a variable not set?")
    return value


def queue_name(value: str) -> str:
    """Take the name of a queue."""
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", value):
        raise click.BadParameter("a queue has a name of 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def job_argument(
    status: JobStatus | None = None, *, required: bool = True
) -> Callable[[_Function], _Function]:
    """Return the argument for a job's id, completed with the jobs of this status, or with all."""

    def complete(ctx: click.Context, _: object, incomplete: str) -> list["CompletionItem"]:
        from tollgate.cli.completion import complete_ids  # noqa: PLC0415 - only completion needs it

        return complete_ids(ctx.params, incomplete, status)

    return click.argument(
        "job_id",
        metavar="ID" if required else "[ID]",
        required=required,
        type=identifier,
        shell_complete=complete,
    )


def full_id(client: Client, typed: str) -> str:
    """Return the id that was typed, or the only one among the newest jobs that begins so.

    What cannot be the beginning of an id is returned as it is: the broker refuses it.

    Raises:
        AmbiguousIdError: several of the newest jobs have an id that begins so, or it is too short.
        JobNotFoundError: none has.

    """
    if not re.fullmatch("[0-9a-fA-F-]{1,35}", typed):
        return typed
    from tollgate.cli.jobs import id_that_begins  # noqa: PLC0415 - a whole id needs none of it

    return id_that_begins(client, typed)


def _complete_queue(ctx: click.Context, _: object, incomplete: str) -> list["CompletionItem"]:
    from tollgate.cli.completion import complete_queues  # noqa: PLC0415 - only completion needs it

    return complete_queues(ctx.params, incomplete)


def queue_argument(function: _Function) -> _Function:
    """Give a command the argument QUEUE."""
    return click.argument(
        "queue", metavar="QUEUE", type=queue_name, shell_complete=_complete_queue
    )(function)


def queue_option(help_text: str) -> Callable[[_Function], _Function]:
    """Return the option `--queue`."""
    return click.option(
        "--queue",
        type=queue_name,
        metavar="QUEUE",
        shell_complete=_complete_queue,
        help=help_text,
    )


version_option: Final = click.option(
    "--expected-version",
    type=whole(1),
    metavar="VERSION",
    help="Refuse unless the job is at this version.",
)


def url(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Take an endpoint."""
    if value is not None:
        try:
            check_endpoint(value)
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from None
    return value


def with_caller(command: Callable[Concatenate[Caller, P], None]) -> Callable[P, None]:
    """Give a command the options that all have, and pass them to it as its first argument."""

    @wraps(command)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        given: dict[str, Any] = kwargs
        names = ("endpoint", "key", "answer_timeout", "as_json")
        signals.raise_from_now()
        command(Caller(*map(given.pop, names)), *args, **kwargs)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Write one JSON document a line."),
        click.option(
            "--answer-timeout",
            type=duration,
            default=ANSWER_TIMEOUT_S,
            metavar="DURATION",
            envvar="TOLLGATE_ANSWER_TIMEOUT",
            help=f"How long to wait for the broker's answer.  [default: {ANSWER_TIMEOUT_S:g}s]",
        ),
        click.option(
            "--key",
            type=text_of_option,
            metavar="FILE",
            envvar="TOLLGATE_KEY",
            help="Your key, for a broker at tcp.  [env: TOLLGATE_KEY]",
        ),
        click.option(
            "--endpoint",
            callback=url,
            metavar="URL",
            envvar="TOLLGATE_ENDPOINT",
            help="Where the broker is.  [env: TOLLGATE_ENDPOINT; default: a socket in your "
            "runtime directory]",
        ),
    ):
        called = option(called)
    return called
