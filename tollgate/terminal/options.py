"""Options that several programs have: where the broker is, who we are, and the log."""

from collections.abc import Callable, Sequence
from typing import Final

import click

from tollgate.domain.endpoint import check_endpoint, default_endpoint
from tollgate.log import FORMAT_VARIABLE, FORMATS, LEVELS

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def with_all(options: Sequence[Decorator]) -> Decorator:
    """Give a command these options, in this order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _endpoint(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    del context, parameter
    endpoint = default_endpoint() if value is None else value
    try:
        check_endpoint(endpoint)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--endpoint") from None
    return endpoint


def connection(key_help: str) -> tuple[Decorator, ...]:
    """Return the options for a broker: its checked endpoint, a key file, and a name."""
    return (
        click.option(
            "--endpoint",
            metavar="URL",
            envvar="TOLLGATE_ENDPOINT",
            show_envvar=True,
            callback=_endpoint,
            help="Address of the broker.  [default: a socket in your runtime directory]",
        ),
        click.option(
            "--key", metavar="FILE", envvar="TOLLGATE_KEY", show_envvar=True, help=key_help
        ),
        click.option(
            "--name", metavar="NAME", help="What histories show.  [default: program@host:pid]"
        ),
    )


LOG: Final[tuple[Decorator, ...]] = (
    click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        envvar=FORMAT_VARIABLE,
        help="console: lines for people; json: a JSON document each.  [env: TOLLGATE_LOG_FORMAT;"
        " default: console on a terminal, otherwise json]",
    ),
    click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="Lowest level to log on standard error; debug logs every job.",
    ),
)
