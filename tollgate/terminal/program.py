"""Runs a command line as a program of its own: what goes wrong is one line, and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final, NoReturn

import click

from tollgate import signals
from tollgate.streams import protect
from tollgate.terminal import streams

FAILED: Final = 1


def run(
    command: click.Command, program: str, *, aborted: int = FAILED, serves: bool = False
) -> NoReturn:
    """Run a command with the arguments of this process, and exit.

    `aborted` is the exit code after an interrupt, or after the answer no to a question. What goes
    wrong in a command that `serves` is logged, not put into a line, once its arguments are read.
    """
    protect(threaded=False)
    try:
        code = _code_of(command, program, aborted, serves=serves)
    finally:
        if serves and signals.is_program():
            signals.ignore_stops()
        else:
            signals.end_again()
    sys.exit(code)


def _code_of(command: click.Command, program: str, aborted: int, *, serves: bool) -> int:
    try:
        with _writing():
            context = command.make_context(program, sys.argv[1:])
        signals.raise_from_now()
        if serves:
            signals.serve_on(program)
        with context, nullcontext() if serves else _writing():
            command.invoke(context)
            streams.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as fault:
        click.echo(f"{program}: {message_of(fault)}", err=True)
        return fault.exit_code
    except (click.Abort, KeyboardInterrupt):
        return aborted
    return 0


def message_of(fault: click.ClickException) -> str:
    """Return what is wrong; of a value from the environment with the name of its variable."""
    if isinstance(fault, click.BadParameter) and fault.ctx and fault.param and fault.param.name:
        source = fault.ctx.get_parameter_source(fault.param.name)
        if source is click.core.ParameterSource.ENVIRONMENT:
            fault.param_hint = str(fault.param.envvar)
    return fault.format_message()


@contextmanager
def _writing() -> Iterator[None]:
    """Report a full disk under standard output; a reader that has left is no error."""
    try:
        yield
    except BrokenPipeError:
        raise click.exceptions.Exit(streams.reader_left()) from None
    except OSError as fault:
        streams.drop_output()  # else Python would complain again at exit
        raise click.ClickException(streams.reason(fault)) from None
