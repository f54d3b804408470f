"""Holds what all commands share: the options for reaching a broker, and the two ways out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

import click
import msgspec

from tollgate.cli.kinds import SECONDS
from tollgate.client.sync import Client

P = ParamSpec("P")

ANSWER_TIMEOUT_S: Final = 5.0
"""Long enough for a broker that is starting, short enough for somebody who looks on."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called a command: where their broker is, and in which form they want the answer."""

    endpoint: str | None
    key: str | None
    answer_timeout_s: float
    as_json: bool

    def client(self) -> Client:
        """Return a client of their broker, to be used in a `with`."""
        return Client(self.endpoint, key=self.key, timeout_s=self.answer_timeout_s)


def with_caller(command: Callable[Concatenate[Caller, P], None]) -> Callable[P, None]:
    """Give a command the options that all have, and hand them to it as its first argument."""

    @wraps(command)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        given: dict[str, Any] = kwargs
        caller = Caller(
            given.pop("endpoint"), given.pop("key"), given.pop("answer_timeout"),
            given.pop("as_json"),
        )  # fmt: skip
        command(caller, *args, **kwargs)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Write one JSON document a line."),
        click.option(
            "--answer-timeout",
            type=SECONDS,
            default=ANSWER_TIMEOUT_S,
            metavar="SECONDS",
            envvar="TOLLGATE_ANSWER_TIMEOUT",
            help=f"How long to wait for the broker's answer.  [default: {ANSWER_TIMEOUT_S:g}]",
        ),
        click.option(
            "--key",
            metavar="FILE",
            envvar="TOLLGATE_KEY",
            help="Your key, for a broker at tcp.  [env: TOLLGATE_KEY]",
        ),
        click.option(
            "--endpoint",
            metavar="URL",
            envvar="TOLLGATE_ENDPOINT",
            help="Where the broker is.  [env: TOLLGATE_ENDPOINT; default: a socket in your "
            "runtime directory]",
        ),
    ):
        called = option(called)
    return called


def document(value: object) -> bytes:
    """Return a value as one JSON document on one line."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    return msgspec.json.encode(value)


def write_document(value: object) -> None:
    """Write one JSON document as one line to standard output, in UTF-8 whatever the locale."""
    click.echo(document(value))


def write_line(line: str) -> None:
    """Write one line to standard output."""
    click.echo(line)


def say(message: str) -> None:
    """Write a message to standard error, where it stays out of a pipe."""
    click.echo(message, err=True)
