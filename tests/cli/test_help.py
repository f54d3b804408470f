"""Each command that a help text, a page or a message tells people to type is one that works."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest

from tollgate.broker import __main__ as broker
from tollgate.broker.admin import journal, keys
from tollgate.cli.main import COMMANDS, cli
from tollgate.worker import __main__ as worker

ROOT = Path(__file__).parents[2]
SOURCES = ("tollgate/cli", "tollgate/terminal", "broker", "client", "domain", "worker")
PROCESSES = {
    "broker": broker.main,
    "worker": worker.main,
    "journal": journal.main,
    "keys": keys.main,
}
EXAMPLE = re.compile(r"(?:^ *|\$\(|\| )tollgate ((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
ADVICE = re.compile(r"(?:with|see|try it|run|say|Start with): tollgate ([^\"`;]+)")
PAGE = ROOT / "docs/command-line.md"
QUOTED = re.compile(r"`tollgate ([^`]+)`")
NAMED = re.compile(r"`tollgate ([a-z-]+(?: [a-z]+)?)")


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words begin with, and the rest."""
    command = PROCESSES.get(words[0]) or cli.get_command(click.Context(cli), words[0])
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command, rest = command.commands.get(rest[0]), rest[1:]
    assert command is not None, f"there is no command {words[0]}"
    return command, rest


def leaves() -> Iterator[click.Command]:
    yield cli
    for name in COMMANDS:
        command, _ = command_of([name])
        yield command
        if isinstance(command, click.Group):
            yield from command.commands.values()


def typed() -> Iterator[str]:
    """What follows `tollgate` in help texts and messages, as one would type it."""
    for command in leaves():
        for text in (command.epilog, command.help):
            yield from EXAMPLE.findall(text or "")
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            yield from ADVICE.findall(path.read_text())
    yield from QUOTED.findall(PAGE.read_text())


TYPED = sorted(set(typed()))


def test_there_are_examples() -> None:
    assert len(TYPED) > 15


@pytest.mark.parametrize("line", TYPED)
def test_what_help_says_can_be_typed(line: str) -> None:
    words = shlex.split(line.replace("\\\n", " ").replace("{out}", "alice.key"))
    for stop in ("|", "<", ">", "2>&1", "&"):
        words = words[: words.index(stop)] if stop in words else words
    command, rest = command_of([word.removesuffix(")") for word in words])
    with suppress(click.exceptions.Exit):  # of --help
        try:
            command.make_context("tollgate", rest)
        except click.MissingParameter:
            raise
        except click.BadParameter:  # a directory that is not there
            pass


def test_commands_named_in_messages_exist() -> None:
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for name in NAMED.findall(path.read_text()):
                command_of(name.split())
