"""What a command wrote, checked as a whole: its exit code and both streams."""

import subprocess
from typing import Any

import msgspec
from click.testing import Result


def line_of(result: Result) -> str:
    """The only line of a command that did what it was told."""
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    return line


def document(result: Result) -> Any:
    """The only JSON document of a command."""
    return msgspec.json.decode(line_of(result))


def documents(result: Result) -> list[Any]:
    """The JSON documents of a command, one a line."""
    assert result.exit_code == 0, result.stderr
    return [msgspec.json.decode(line) for line in result.stdout.splitlines()]


def read_line(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Return the next JSON document that a running command writes."""
    assert process.stdout is not None
    found: dict[str, Any] = msgspec.json.decode(process.stdout.readline())
    return found


def refused(result: Result, code: str) -> str:
    """The line that says that the broker refused."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"tollgate: {code}: ")
    return line


def misused(result: Result) -> str:
    """The line that says what was typed wrongly, and which help to read."""
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("tollgate: ")
    assert "--help" in line
    return line
