"""Holds what commands share: the options for reaching a broker, and checks of what was typed."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec

import click

from tollgate.client.sync import Client
from tollgate.domain.commands import UINT_LIMIT
from tollgate.domain.endpoint import check_endpoint
from tollgate.domain.status import JobStatus

P = ParamSpec("P")

ANSWER_TIMEOUT_S: Final = 5.0
"""Long enough for a broker that is starting, short enough for a person who waits."""
YEAR_S: Final = 365 * 24 * 3600
WHOLE_MAX: Final = UINT_LIMIT - 1
STATUS: Final = click.Choice([status.value for status in JobStatus])


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


def seconds(value: str | float) -> float:
    """Take a number of seconds of at most a year."""
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found <= YEAR_S:  # NaN is refused too
        raise click.BadParameter(f"{value} is not a number of seconds from 0 to a year")
    return found


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


def url(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Take an endpoint; an error names the option, or the variable that it comes from."""
    if value is not None:
        try:
            check_endpoint(value)
        except ValueError as fault:
            source = context.get_parameter_source("endpoint")
            is_set = source is click.core.ParameterSource.ENVIRONMENT
            hint = "TOLLGATE_ENDPOINT" if is_set else "'--endpoint'"
            raise click.BadParameter(str(fault), param_hint=hint) from None
    return value


def with_caller(command: Callable[Concatenate[Caller, P], None]) -> Callable[P, None]:
    """Give a command the options that all have, and pass them to it as its first argument."""

    @wraps(command)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        given: dict[str, Any] = kwargs
        names = ("endpoint", "key", "answer_timeout", "as_json")
        command(Caller(*map(given.pop, names)), *args, **kwargs)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Write one JSON document a line."),
        click.option(
            "--answer-timeout",
            type=seconds,
            default=ANSWER_TIMEOUT_S,
            metavar="SECONDS",
            envvar="TOLLGATE_ANSWER_TIMEOUT",
            help=f"How long to wait for the broker's answer.  [default: {ANSWER_TIMEOUT_S:g}]",
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
