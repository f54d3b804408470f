"""The program behind `tollgate gateway`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate gateway")

from importlib.util import find_spec

import click

from tollgate.terminal.program import run

PROGRAM = "tollgate gateway"
NEEDED = ("httptools", "httpx", "starlette", "uvicorn", "uvloop")

if __name__ == "__main__":
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        told = f"{', '.join(missing)} not installed: pip install 'tollgate[gateway]'"
        click.echo(f"{PROGRAM}: {told}", err=True)
        sys.exit(2)
    from tollgate.gateway.command import main

    run(main, PROGRAM, aborted=130, serves=True)
