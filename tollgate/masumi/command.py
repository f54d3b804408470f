"""The command `tollgate payments masumi`: reads and checks the options, and starts the watcher."""

import asyncio
import logging
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import click

from tollgate.log import configure, protect_stdout
from tollgate.masumi.payment import SOURCE_TYPES
from tollgate.masumi.service_url import check_service_url
from tollgate.signals import obeyed_stops
from tollgate.streams import exit_now
from tollgate.terminal.options import LOG, connection, with_all
from tollgate.token_file import TokenError, read_token

log = logging.getLogger("tollgate.payments")

STOPPED: Final = 0
REFUSED: Final = 1
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
GRACE_S: Final = 8.0
"""How long the steps that are going on may take after a stop signal."""
EPILOG: Final = """\
\b
Example:
  tollgate payments masumi --service-url https://payments.example.com/api/v1 \\
      --service-token-file /etc/tollgate/payments.token --network Preprod

\b
Exit codes:
  0 stopped by a signal    1 refused by the broker or the service    2 wrong usage
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@with_all(connection("Key file with the role payments, for a broker on tcp."))
@click.option(
    "--service-url",
    metavar="URL",
    required=True,
    envvar="TOLLGATE_SERVICE_URL",
    show_envvar=True,
    help="The payment service, up to /api/v1.",
)
@click.option(
    "--service-token-file",
    metavar="FILE",
    required=True,
    show_envvar=True,
    envvar="TOLLGATE_SERVICE_TOKEN_FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with the API key of the payment service.",
)
@click.option(
    "--network",
    type=click.Choice(["Preprod", "Mainnet"]),
    required=True,
    envvar="TOLLGATE_NETWORK",
    show_envvar=True,
    help="The network of the payments.",
)
@click.option(
    "--source-type",
    "source_types",
    type=click.Choice(SOURCE_TYPES),
    multiple=True,
    help="Kind of payment source to read; may be repeated.  [default: both]",
)
@click.option("--smart-contract-address", help="Read the changes of this contract only.")
@click.option(
    "--hash-form",
    type=click.Choice(["escaped", "raw"]),
    default="escaped",
    show_default=True,
    help="What is hashed of a result: its text as JSON escapes it, which buyers check, or raw.",
)
@click.option(
    "--recoveries",
    type=click.IntRange(min=0, max=1_000),
    default=3,
    show_default=True,
    help="How often what failed at the service is tried again before a person is asked.",
)
@click.option(
    "--poll-s",
    type=click.FloatRange(min=0.1, max=3_600),
    default=5.0,
    show_default=True,
    help="How often the service is asked.",
)
@click.option(
    "--call-s",
    type=click.FloatRange(min=0.1, max=600),
    default=15.0,
    show_default=True,
    help="Longest time of one call of the service.",
)
@click.option(
    "--webhook",
    metavar="HOST:PORT",
    help="Take webhooks of the service here: each is a hint to look at once.",
)
@with_all(LOG)
def main(log_format: str | None, log_level: str, **options: Any) -> None:  # noqa: ANN401
    """Watch a Masumi payment service: open the gate for paid jobs, and prove results on chain.

    Run as many as you like, and stop them when you like: none of them keeps anything. A broker
    belongs to one service and one network. It must give the watcher's key, or its user, the role
    payments.
    """
    options["token"] = _token(options.pop("service_token_file"))
    _check_url(options["service_url"])
    options["webhook"] = _address(options["webhook"])
    configure(log_level, log_format)
    protect_stdout()
    _start(options)


def _token(file: str) -> str:
    try:
        return read_token(Path(file), "API key")
    except TokenError as fault:
        raise click.BadParameter(str(fault), param_hint="--service-token-file") from None


def _check_url(url: str) -> None:
    try:
        check_service_url(url)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--service-url") from None


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
        message = f"{text!r} is no address such as 127.0.0.1:9300"
        raise click.BadParameter(message, param_hint="--webhook")
    return host.strip("[]"), int(port)


def _start(options: dict[str, Any]) -> NoReturn:
    # Imported late: --help and wrong options do not need these modules.
    from tollgate.client.connection import check_key  # noqa: PLC0415
    from tollgate.client.errors import KeyFileError  # noqa: PLC0415

    try:
        check_key(options["endpoint"], options["key"])
    except KeyFileError as fault:
        raise click.BadParameter(str(fault), param_hint="--key") from None
    parts = urlsplit(options["service_url"])
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        log.warning("the API key goes over the network in clear text: use https")
    runner = asyncio.Runner()  # never closed: that would wait for threads
    exit_now(runner.run(_watch(options)))


async def _watch(options: dict[str, Any]) -> int:
    from tollgate.client.aio import AsyncClient  # noqa: PLC0415
    from tollgate.domain.exceptions import TollgateError  # noqa: PLC0415
    from tollgate.masumi.api import PaymentService, ServiceRefusedError  # noqa: PLC0415
    from tollgate.masumi.watcher import Watcher, WatcherSettings  # noqa: PLC0415
    from tollgate.masumi.webhook import Webhook  # noqa: PLC0415

    settings = WatcherSettings(
        source_types=options["source_types"] or SOURCE_TYPES,
        poll_s=options["poll_s"],
        hash_form=options["hash_form"],
        recoveries_max=options["recoveries"],
        call_s=options["call_s"],
    )
    service = PaymentService(
        options["service_url"],
        options["token"],
        options["network"],
        timeout_s=options["call_s"],
        smart_contract_address=options["smart_contract_address"],
    )
    client = AsyncClient(options["endpoint"], key=options["key"], name=options["name"])
    watcher = Watcher(client, service, settings)

    async def run() -> int:
        async with service, client:
            webhook = None
            if options["webhook"] is not None:
                host, port = options["webhook"]
                webhook = Webhook(host, port, watcher.hint)
                try:
                    log.info("webhooks are taken at %s:%d", host, await webhook.start())
                except OSError as fault:
                    log.error("no webhooks at %s:%d: %s", host, port, fault)  # noqa: TRY400
                    return REFUSED
            parts = urlsplit(options["service_url"])
            url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password
            log.info("payments: %s for the broker at %s", url, options["endpoint"])
            try:
                await watcher.run()
            except* (TollgateError, ServiceRefusedError) as faults:
                log.error("the watcher ends: %s", faults.exceptions[0])  # noqa: TRY400 - one line
                return_code = REFUSED
            else:
                return_code = STOPPED
            finally:
                if webhook is not None:
                    webhook.close()
        return return_code

    return await _until_signal(watcher, asyncio.ensure_future(run()))


async def _until_signal(watcher: Any, running: "asyncio.Future[int]") -> int:  # noqa: ANN401 - imported late
    """Return the exit code of a watcher that runs.

    SIGTERM, SIGINT and SIGHUP stop it; a second one ends the process at once.
    """
    loop = asyncio.get_running_loop()
    stops = 0

    def stop() -> None:
        nonlocal stops
        stops += 1
        if stops > 1:
            exit_now(STOPPED)
        log.info("stopping")
        watcher.stop()
        loop.call_later(GRACE_S, running.cancel)

    for sign in obeyed_stops():
        loop.add_signal_handler(sign, stop)
    try:
        return await running
    except asyncio.CancelledError:
        if not stops:
            raise
        return STOPPED
