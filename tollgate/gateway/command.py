"""The command `tollgate gateway`: reads its options and the agent, and starts the server."""

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from tollgate.gateway.agent import Agent
from tollgate.gateway.agent_file import AgentFileError, load, located
from tollgate.log import configure, protect_stdout
from tollgate.terminal.options import LOG, connection, with_all
from tollgate.token_file import TokenError, read_token

log = logging.getLogger("tollgate.gateway")

WRONG: Final = 2
EPILOG: Final = """\
\b
Example:
  tollgate gateway agent.toml --check
  tollgate gateway agent.toml --port 8000

\b
Exit codes:
  0 stopped by a signal, or the check found nothing
  1 the port or the broker's key cannot be used    2 wrong usage, or a wrong agent
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("agent", metavar="AGENT")
@click.option("--check", is_flag=True, help="Only check the agent, and show every error.")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: the agent's]")
@click.option(
    "--port",
    type=click.IntRange(0, 2**16 - 1),
    help="Port to listen on; 0 takes any free one.  [default: the agent's]",
)
@click.option(
    "--reuse-port", is_flag=True, help="Share the port with other gateways of this agent."
)
@with_all(connection("Key file with the role producer, for a broker on tcp."))
@with_all(LOG)
def main(agent: str, log_format: str | None, log_level: str, **options: Any) -> None:  # noqa: ANN401
    """Let people hire an agent over HTTP, as MIP-003 defines it.

    AGENT is a file such as agent.toml, or module:name for an Agent in Python. Run as many gateways
    as you like: none of them keeps anything. The broker must give its key, or its user, the role
    producer, and for a free agent payments too.
    """
    try:
        loaded = load(agent)
    except AgentFileError as fault:
        _tell(fault.problems)
        sys.exit(WRONG)
    if options["check"]:
        _check_token(agent, loaded)
        click.echo(f"{agent}: {described(loaded)}")
        return
    configure(log_level, log_format)
    protect_stdout()
    sys.exit(_start(loaded, options))


def described(agent: Agent) -> str:
    """Return what an agent is, in one line."""
    count = len(agent.input_schema.fields)
    fields = "1 field" if count == 1 else f"{count} fields"
    price = agent.price if isinstance(agent.price, str) else "set at each hire"
    return f"{agent.name}: queue {agent.queue}, price {price}, {fields} of input; nothing is wrong"


def _check_token(source: str, agent: Agent) -> None:
    """Exit if there is no API key for the payment service: it is read at the start alone."""
    settings = agent.payment_service
    try:
        if settings is not None and not agent.is_free:
            read_token(settings.token_file, "API key")
    except TokenError as fault:
        _tell([located(source, ("payment_service", "token_file"), str(fault))])
        sys.exit(WRONG)


def _tell(problems: Sequence[str]) -> None:
    for each in problems:
        click.echo(each, err=True)
    count = len(problems)
    click.echo(f"{count} error{'s' if count > 1 else ''}", err=True)


def _start(agent: Agent, options: dict[str, Any]) -> int:
    # Imported late: --help and --check do not need these modules.
    from tollgate.client.connection import check_key  # noqa: PLC0415
    from tollgate.client.errors import KeyFileError  # noqa: PLC0415
    from tollgate.gateway.server import bind, serve  # noqa: PLC0415

    host = options["host"] or agent.http.host
    port = agent.http.port if options["port"] is None else options["port"]
    try:
        check_key(options["endpoint"], options["key"])
        bound = bind(host, port, reuse_port=options["reuse_port"])
        serve(agent, bound, options["endpoint"], key=options["key"], name=options["name"])
    except (KeyFileError, TokenError) as fault:
        log.error("%s", fault)  # noqa: TRY400 - one line
        return 1
    except OSError as fault:
        log.error("cannot listen on %s port %d: %s", host, port, fault.strerror)  # noqa: TRY400
        return 1
