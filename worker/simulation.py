"""The command `tollgate payments simulate`: a worker that decides payments, and does no work."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate payments simulate")

import logging
from typing import Any, Final

import click

from tollgate.log import configure, protect_stdout
from tollgate.terminal.options import LOG, with_all
from tollgate.terminal.program import run
from tollgate.worker.__main__ import start
from tollgate.worker.options import (
    CONNECTION,
    DRAIN,
    RUN,
    SIMULATION,
    with_settings,
)
from tollgate.worker.settings import WorkerSettings

log = logging.getLogger("tollgate.worker")

EPILOG: Final = """\
\b
Example:
  tollgate payments simulate --refused-share 0.1 --pay-delay-ms-max 2000

\b
Exit codes:
  0 done                   2 wrong usage
  1 refused by the broker,  3 broker not reached in time
    or a real payment is met
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@with_all(CONNECTION)
@click.option("--jobs", type=click.IntRange(min=1), help="Stop after this many payments.")
@DRAIN
@with_settings(*SIMULATION, *RUN)
@with_all(LOG)
def main(
    endpoint: str,
    log_level: str,
    log_format: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Confirm payments without a real payment. For demonstrations and tests.

    It does what `tollgate worker --simulate-payments` does besides its work. It needs the role
    payments. No money moves: it ends, with exit code 1, at the first job whose creator gave a
    blockchain identifier, and asked for a settlement.
    """
    settings = WorkerSettings(endpoint=endpoint, simulate_payments=True, only="payments", **options)
    configure(log_level, log_format)
    protect_stdout()
    sys.exit(start(settings))


if __name__ == "__main__":
    run(main, "tollgate payments simulate", aborted=130, serves=True)
