"""The command `tollgate metrics`: reads its options, and starts the server."""

import ipaddress
import logging
import sys
from pathlib import Path
from typing import Any, Final

import click

from tollgate.log import configure, protect_stdout
from tollgate.terminal.options import LOG, connection, with_all
from tollgate.token_file import TokenError, read_token

log = logging.getLogger("tollgate.metrics")

HOST: Final = "127.0.0.1"
PORT: Final = 9108
EPILOG: Final = """\
\b
Examples:
  tollgate metrics
  tollgate metrics --host 0.0.0.0 --token-file metrics.token

\b
Exit codes:
  0 stopped by a signal
  1 the port, the token or the broker's key cannot be used    2 wrong usage
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host", metavar="ADDRESS", default=HOST, show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 2**16 - 1),
    default=PORT,
    show_default=True,
    help="Port to listen on; 0 takes any free one.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the token that each request must bring, as `Authorization: Bearer TOKEN`."
    " Needed for an address that other machines can reach.",
)
@with_all(connection("Key file with the role observer, for a broker on tcp."))
@with_all(LOG)
def main(
    host: str,
    port: int,
    token_file: Path | None,
    log_format: str | None,
    log_level: str,
    **options: Any,  # noqa: ANN401 - those of the connection
) -> None:
    """Show the figures of a broker to Prometheus.

    /metrics asks the broker at each scrape and keeps nothing: it answers 503 while the broker is
    away. /readyz is 200 if the broker answers within 2 seconds, else 503. /healthz is 200 while
    this program runs. The role observer is enough.
    """
    if token_file is None and not is_loopback(host):
        raise click.UsageError(
            f"other machines can reach {host or 'all addresses'}: give a --token-file,"
            f" or listen on {HOST}"
        )
    configure(log_level, log_format)
    protect_stdout()
    sys.exit(_start(host, port, token_file, options))


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach an address.

    A name counts as reachable by others, except `localhost`: what it means may change.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _start(host: str, port: int, token_file: Path | None, options: dict[str, Any]) -> int:
    # Imported late: --help and wrong usage do not need these modules.
    from tollgate.client.connection import check_key  # noqa: PLC0415
    from tollgate.client.errors import KeyFileError  # noqa: PLC0415
    from tollgate.client.sync import Client  # noqa: PLC0415
    from tollgate.metrics.server import serve  # noqa: PLC0415

    try:
        check_key(options["endpoint"], options["key"])
        token = None if token_file is None else read_token(token_file).encode()
        client = Client(options["endpoint"], key=options["key"], name=options["name"])
        serve((host, port), client, token)
    except (KeyFileError, TokenError) as fault:
        log.error("%s", fault)  # noqa: TRY400 - one line
        return 1
    except OSError as fault:
        log.error("cannot listen on %s port %d: %s", host, port, fault.strerror)  # noqa: TRY400
        return 1
    return 0
