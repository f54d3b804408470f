"""The program behind `tollgate metrics`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate metrics")

from importlib.util import find_spec

import click

from tollgate.terminal.program import run

PROGRAM = "tollgate metrics"

if __name__ == "__main__":
    if find_spec("prometheus_client") is None:
        told = "prometheus-client is not installed: pip install 'tollgate[metrics]'"
        click.echo(f"{PROGRAM}: {told}", err=True)
        sys.exit(2)
    from tollgate.metrics.command import main

    run(main, PROGRAM, aborted=130, serves=True)
