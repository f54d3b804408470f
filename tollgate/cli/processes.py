"""Replaces the command line by a process of its own: what is no client has no place in it."""

import os
import sys

import click


class Replacement(click.Command):
    """A command that becomes `python -m MODULE`, with the arguments as they were typed.

    So the command line imports nothing of it, and `--help` is its own.
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
        """Replace this process."""
        if sys.stdout is not None:
            sys.stdout.flush()
        arguments = [sys.executable, "-m", self._module, *ctx.args]
        os.execv(sys.executable, arguments)  # noqa: S606 - no shell is the point
