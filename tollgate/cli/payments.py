"""`tollgate payments`: the programs that decide payments, each in a process of its own."""

import click

from tollgate.cli.replacement import Replacement


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.pass_context
def payments(ctx: click.Context) -> None:
    """Watch a payment service, or simulate one.

    \b
    Example:
      tollgate payments masumi --service-url https://payments.example.com/api/v1 \\
          --service-token-file payments.token --network Preprod
    """  # noqa: D301 - click's mark for a block that keeps its lines
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


payments.add_command(
    Replacement("masumi", "tollgate.masumi", help="Watch a Masumi payment service.")
)
payments.add_command(
    Replacement(
        "simulate", "tollgate.worker.simulation", help="Confirm payments without a real payment."
    )
)
