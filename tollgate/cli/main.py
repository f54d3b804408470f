"""Finds the command that was typed, runs it, and exits with its code."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from tollgate.cli import errors
from tollgate.cli.replacement import Replacement
from tollgate.terminal import streams

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM: Final = "tollgate"
COMPLETION_VARIABLE: Final = "_TOLLGATE_COMPLETE"
SECTIONS: Final = {
    "Start": {
        "demo": ("tollgate.cli.demo:demo", "Watch real jobs go through the gate."),
        "broker": ("tollgate.broker", "Run the broker."),
        "worker": ("tollgate.worker", "Run a worker."),
        "payments": (
            "tollgate.cli.payments:payments",
            "Watch a payment service, or simulate one.",
        ),
        "gateway": ("tollgate.gateway", "Let people hire an agent over HTTP (MIP-003)."),
    },
    "Jobs": {
        "create": (
            "tollgate.cli.create:create",
            "Create a job, or with `-` one for each input line.",
        ),
        "get": ("tollgate.cli.query:get", "Show a job, and who holds it."),
        "history": ("tollgate.cli.query:history", "Show what happened to a job, and by whom."),
        "events": (
            "tollgate.cli.events:events",
            "Show what happened, and with --follow what happens.",
        ),
        "list": ("tollgate.cli.query:list_jobs", "List jobs by creation, the oldest first."),
        "count": ("tollgate.cli.query:count", "Count the jobs by status."),
        "explain": (
            "tollgate.cli.operate:explain",
            "Say why a job is where it is, and what comes next.",
        ),
        "wait": ("tollgate.cli.query:wait", "Wait until a job has ended, and show it."),
    },
    "Change jobs": {
        "provide-input": (
            "tollgate.cli.change:provide_input",
            "Answer a job in awaiting_input, which runs again.",
        ),
        "cancel": ("tollgate.cli.change:cancel", "Fail a job that is not paid yet."),
        "request-stop": (
            "tollgate.cli.change:request_stop",
            "Ask the worker that has a job to stop.",
        ),
        "hold": ("tollgate.cli.change:hold", "Give a job to no worker until `resume`."),
        "resume": ("tollgate.cli.change:resume", "Give a job on hold to workers again."),
        "annotate": ("tollgate.cli.change:annotate", "Replace the note of a job, its `meta`."),
        "transition": ("tollgate.cli.change:transition", "Move a job to another status."),
        "settle": (
            "tollgate.cli.change:settle",
            "Move the settlement of a job, or note what is known of it.",
        ),
    },
    "Operate": {
        "ping": ("tollgate.cli.ping:ping", "Check that the broker answers."),
        "stats": ("tollgate.cli.operate:stats", "Show how the broker is, and what is wrong."),
        "metrics": ("tollgate.metrics", "Show the broker's figures to Prometheus over HTTP."),
        "workers": (
            "tollgate.cli.operate:workers",
            "Show who claims jobs, and what they hold.",
        ),
        "pause-queue": (
            "tollgate.cli.change:pause_queue",
            "Give workers no job of a queue until `resume-queue`.",
        ),
        "resume-queue": (
            "tollgate.cli.change:resume_queue",
            "Give workers the jobs of a paused queue again.",
        ),
        "journal": (
            "tollgate.broker.admin.journal",
            "Check, repair or compact a broker's journal.",
        ),
        "keys": ("tollgate.broker.admin.keys", "Manage the keys and roles of tcp clients."),
        "config": ("tollgate.broker.admin.config", "Show each setting and where it came from."),
        "doctor": ("tollgate.broker.admin.doctor", "Check an installation, and say what to do."),
    },
}
"""Where each command is, `module:attribute`, or the module that a process of its own runs.

The first line of each command's help stands here too, so that the list of commands loads none.
"""
COMMANDS: Final = {name: row for rows in SECTIONS.values() for name, row in rows.items()}

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
        """Return the names in the order in which a new user needs them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name from the table above."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        place, summary = COMMANDS[cmd_name]
        module, _, attribute = place.partition(":")
        if not attribute:
            return Replacement(cmd_name, module, help=summary)
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        del ctx
        width = max(map(len, COMMANDS))
        for title, rows in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), summary) for name, (_, summary) in rows.items()]
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before the command. Say so if it belongs after it."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as fault:
            if not (named := [word for word in typed if word in COMMANDS]):
                raise
            put = f"put it after the command, `tollgate {named[0]} {fault.option_name}`"
            told = f"No such option {fault.option_name!r} here: {put}"
            raise click.UsageError(told, ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed. If there is none, name those that look like it."""
        typed = args[0]
        if typed in COMMANDS or ctx.resilient_parsing or typed.startswith("-"):
            return super().resolve_command(ctx, args)
        similar = _similar(typed)
        guess = f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
        raise click.UsageError(f"No such command {typed!r}.{guess}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Complete command names from the table above, and options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - needed here alone

        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in COMMANDS.items()
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
        if instruction := os.environ.get(COMPLETION_VARIABLE):
            from tollgate.cli.completion import complete  # noqa: PLC0415 - needed here alone

            sys.exit(complete(self, PROGRAM, COMPLETION_VARIABLE, instruction))
        sys.exit(self._code_of(list(sys.argv[1:] if args is None else args), extra))

    def _code_of(self, args: list[str], extra: dict[str, Any]) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # what the terminal's encoding cannot show
        try:
            with self.make_context(PROGRAM, args, **extra) as ctx:
                self.invoke(ctx)
            streams.flush()
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        except BrokenPipeError:
            return streams.reader_left()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - never a traceback
            return errors.report(error)
        return 0


def _similar(typed: str) -> list[str]:
    """Return the commands that a misspelt one may stand for, the likeliest first."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    word = typed.lower().replace("_", "-")
    parts = [name for name in COMMANDS if word in (name.split("-") if "-" in name else ())]
    return list(dict.fromkeys([*get_close_matches(word, COMMANDS, cutoff=0.65), *parts]))[:3]


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001
    del param
    if not value or ctx.resilient_parsing:
        return
    from importlib import metadata  # noqa: PLC0415 - slow, and needed here alone

    try:
        click.echo(f"{PROGRAM} {metadata.version(PROGRAM)}")
    except metadata.PackageNotFoundError:
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
