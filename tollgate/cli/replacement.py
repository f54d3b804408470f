"""A command of the command line that is another program."""

import os
import sys

import click

from tollgate import signals
from tollgate.terminal import streams


class Replacement(click.Command):
    """A command that becomes `python -m MODULE`, with the arguments as they were typed.

    The command line imports nothing of the module, and `--help` is the module's own.
    """

    def __init__(self, name: str, module: str, *, help: str) -> None:  # noqa: A002 - as click has it
        """Name the command and the module that it becomes."""
        super().__init__(name, help=help)
        self._module = module

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take all arguments as they are, `--help` and `--` included."""
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> None:
        """Replace this process. `-P` keeps the current directory off the module search path."""
        streams.flush()
        arguments = [sys.executable, "-P", "-m", self._module, *ctx.args]
        signals.hold()
        try:
            os.execv(sys.executable, arguments)  # noqa: S606 - no shell is the point
        finally:  # it could not be replaced
            signals.let_go()
