"""Finds the command that was asked for, runs it, and ends with its exit code."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from tollgate.cli import errors as failures

PROGRAM: Final = "tollgate"
COMPLETION_VARIABLE: Final = "_TOLLGATE_COMPLETE"
COMMANDS: Final = {
    "demo": "Watch real jobs go through the gate.",
    "broker": "Run the broker.",
    "worker": "Run a worker.",
    "create": "Create a job, or with `-` one for each line of a pipe.",
    "get": "Show a job.",
    "transition": "Move a job to another status.",
    "count": "Count the jobs by status.",
    "list": "List jobs by creation, the oldest first.",
    "wait": "Wait until a job has ended, and show it.",
    "ping": "Ask the broker for a sign of life.",
    "journal": "Look after a broker's journal.",
    "keys": "Say who may come in by tcp, and as what.",
}
"""Each command's first line of help stands here as well, so that listing them loads none."""

EPILOG: Final = """\
\b
Exit codes:
  0 done            2 wrong usage       130 interrupted
  1 refused, the    3 broker not
    code on stderr    reached in time

\b
Completion in the shell, from its next start:
  bash  echo 'eval "$(_TOLLGATE_COMPLETE=bash_source tollgate)"' >> ~/.bashrc
  zsh   echo 'eval "$(_TOLLGATE_COMPLETE=zsh_source tollgate)"' >> ~/.zshrc
  fish  _TOLLGATE_COMPLETE=fish_source tollgate \\
          > ~/.config/fish/completions/tollgate.fish

Start with: tollgate demo
"""


class CommandLine(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer meets them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the module of that name, and take its `command`."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"tollgate.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table above, and options."""
        names = [
            CompletionItem(name, help=summary)
            for name, summary in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> NoReturn:
        """Run the command in `args`, and exit with its code; nothing is raised but SystemExit."""
        del prog_name, complete_var, standalone_mode, windows_expand_args
        instruction = os.environ.get(COMPLETION_VARIABLE)
        if instruction:
            sys.exit(shell_complete(self, extra, PROGRAM, COMPLETION_VARIABLE, instruction))
        sys.exit(self._code_of(list(sys.argv[1:] if args is None else args), extra))

    def _code_of(self, args: list[str], extra: dict[str, Any]) -> int:
        _replace_what_the_terminal_lacks()
        try:
            with self.make_context(PROGRAM, args, **extra) as ctx:
                self.invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader who left is still noticed
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        except BrokenPipeError:
            return failures.reader_left()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - never a traceback
            return failures.report(error)
        return 0


def _replace_what_the_terminal_lacks() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001
    del param
    if value and not ctx.resilient_parsing:
        from importlib.metadata import (  # noqa: PLC0415 - slow, and wanted here alone
            PackageNotFoundError,
            version,
        )

        try:
            click.echo(f"{PROGRAM} {version(PROGRAM)}")
        except PackageNotFoundError:
            click.echo(f"{PROGRAM} (not installed: run from its source)")
        ctx.exit()


@click.command(
    cls=CommandLine,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Tollgate: a local, payment-gated job broker.

    A job waits at the gate until it is paid, then runs, then completes or fails.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
