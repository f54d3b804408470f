"""Replaces the command line by a process of its own: a broker or a worker."""

import os
import sys

import click


class Replacement(click.Command):
    """A command that becomes `python -m MODULE`, with the arguments as they were typed.

    So the command line imports neither, and `--help` is theirs.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take all arguments as they are, `--help` and `--` included."""
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> None:
        """Replace this process."""
        if sys.stdout is not None:
            sys.stdout.flush()
        arguments = [sys.executable, "-m", str(self.name), *ctx.args]
        os.execv(sys.executable, arguments)  # noqa: S606 - no shell is the point
