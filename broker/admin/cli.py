"""What the broker's command lines have in common: examples, complaints in one line, exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

FAILED: Final = 1
INTERRUPTED: Final = 130


def example(line: str) -> str:
    """Return the end of a command's help."""
    return f"\b\nExample:\n  {line}"


@contextmanager
def complaining(program: str, *faults: type[Exception], exit_code: int = FAILED) -> Iterator[None]:
    """Turn what goes wrong into one line on standard error and an exit code."""
    try:
        yield
    except faults as fault:
        click.echo(f"{program}: {fault}", err=True)
        sys.exit(exit_code)


def run(command: click.Command, program: str, *, aborted: int = FAILED) -> None:
    """Run a command line; what is wrong with it is said in one line.

    `aborted` is the exit code after an interrupt, or a question that was answered with no.
    """
    try:
        command.main(prog_name=program, standalone_mode=False)
    except click.ClickException as fault:
        click.echo(f"{program}: {fault.format_message()}", err=True)
        sys.exit(fault.exit_code)
    except click.Abort:
        sys.exit(aborted)
