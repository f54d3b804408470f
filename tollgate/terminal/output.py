"""Writes lines and JSON documents to standard output, and messages to standard error."""

import sys

import click
import msgspec


def document(value: object) -> bytes:
    """Return a value as one JSON document on one line."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    return msgspec.json.encode(value)


def write_document(value: object) -> None:
    """Write one JSON document as one line to standard output, in UTF-8 whatever the locale."""
    click.echo(document(value))


def write_line(line: str) -> None:
    """Write one line to standard output."""
    click.echo(line)


def say(message: str) -> None:
    """Write a message to standard error, where it stays out of a pipe."""
    click.echo(message, err=True)


def stdout_is_terminal() -> bool:
    """Return whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Return whether a person reads standard error."""
    return sys.stderr is not None and sys.stderr.isatty()
