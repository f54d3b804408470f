"""The program behind `tollgate payments masumi`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate payments masumi")

from importlib.util import find_spec

import click

from tollgate.terminal.program import run

PROGRAM = "tollgate payments masumi"

if __name__ == "__main__":
    if find_spec("httpx") is None:
        click.echo(f"{PROGRAM}: httpx is not installed: pip install 'tollgate[masumi]'", err=True)
        sys.exit(2)
    from tollgate.masumi.command import main

    run(main, PROGRAM, aborted=130, serves=True)
