"""What the broker's command lines share: options of settings, examples, errors in one line."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from tollgate.broker.core.roles import Role
from tollgate.broker.settings import SHARED, data_dir, full_path
from tollgate.terminal import streams

FAILED: Final = 1
LISTS: Final = {list[str]: "URL", list[Role]: "ROLE"}
"""Types of settings that may be given more than once, and what their options take."""
INTERRUPTED: Final = 130


def example(line: str) -> str:
    """Return the end of a command's help."""
    return f"\b\nExample:\n  {line}"


def usable(path: str) -> Path:
    """Return a directory that was named in an option or a variable, with `~` replaced."""
    try:
        return full_path(path)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None


def directory_option(
    explanation: str, check: Callable[[Path], None], *, must_exist: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --data-dir of a command that works on a directory, which may have to exist.

    `check` raises click.BadParameter for a directory that cannot be meant.
    """

    def chosen(context: click.Context, parameter: click.Parameter, typed: str | None) -> Path:
        try:
            path = data_dir() if typed is None else full_path(typed)
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from None
        form = click.Path(exists=must_exist, file_okay=False, path_type=Path)
        directory: Path = form.convert(path, parameter, context)
        check(directory)
        return directory

    return click.option(
        "--data-dir",
        "directory",
        metavar="DIRECTORY",
        callback=chosen,
        help=f"{explanation}  [env: {SHARED['data_dir']}; default: the broker's default]",
    )


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
            item = LISTS.get(field.annotation)
            command = click.option(
                option,
                type=int if field.annotation is int else str,
                multiple=item is not None,
                metavar=item,
                help=f"{field.description} [default: {defaults.get(name, field.default)}]",
            )(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `setting_options` that were typed."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value not in (None, ()) and value is not False
    }


@contextmanager
def complaining(program: str, *faults: type[Exception], exit_code: int = FAILED) -> Iterator[None]:
    """Turn these exceptions into one line on standard error and an exit code."""
    try:
        yield
        streams.flush()
    except faults as fault:
        if isinstance(fault, BrokenPipeError):
            sys.exit(streams.reader_left())
        click.echo(f"{program}: {streams.reason(fault)}", err=True)
        sys.exit(exit_code)
