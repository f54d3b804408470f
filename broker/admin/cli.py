"""What the broker's command lines share: options of settings, examples, errors in one line."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import click

from tollgate.streams import protect

FAILED: Final = 1
INTERRUPTED: Final = 130


def example(line: str) -> str:
    """Return the end of a command's help."""
    return f"\b\nExample:\n  {line}"


def setting_options(
    fields: Mapping[str, Any], defaults: Mapping[str, str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each field of a pydantic model.

    `defaults` describes the defaults that are computed.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(list(fields.items())):
            option = f"--{name.replace('_', '-')}"
            if field.annotation is bool:
                command = click.option(option, is_flag=True, help=field.description)(command)
                continue
            is_list = field.annotation == list[str]
            command = click.option(
                option,
                type=int if field.annotation is int else str,
                multiple=is_list,
                metavar="URL" if is_list else None,
                help=f"{field.description} [default: {defaults.get(name, field.default)}]",
            )(command)
        return command

    return decorate


@contextmanager
def complaining(program: str, *faults: type[Exception], exit_code: int = FAILED) -> Iterator[None]:
    """Turn these exceptions into one line on standard error and an exit code."""
    try:
        yield
    except faults as fault:
        click.echo(f"{program}: {fault}", err=True)
        sys.exit(exit_code)


def run(command: click.Command, program: str, *, aborted: int = FAILED) -> None:
    """Run a command line; errors in its arguments are one line on standard error.

    `aborted` is the exit code after an interrupt, or after the answer no to a question.
    """
    protect(threaded=False)
    try:
        command.main(prog_name=program, standalone_mode=False)
    except click.ClickException as fault:
        click.echo(f"{program}: {fault.format_message()}", err=True)
        sys.exit(fault.exit_code)
    except click.Abort:
        sys.exit(aborted)
