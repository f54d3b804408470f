"""`tollgate ping`: asks whether the broker answers, with as little to load as possible."""

from time import perf_counter

import click
import msgspec

from tollgate.cli.options import Caller, with_caller
from tollgate.terminal.output import write_document, write_line


@click.command(epilog="\b\nExample:\n  tollgate ping --json")
@with_caller
def ping(caller: Caller) -> None:
    """Check that the broker answers."""
    with caller.client() as client:
        client.ping()  # includes the connection, which is not measured
        started = perf_counter()
        hello = client.ping()
        round_trip_ms = (perf_counter() - started) * 1_000
    if caller.as_json:
        answer = {"endpoint": client.endpoint, "round_trip_ms": round(round_trip_ms, 3)}
        write_document(answer | msgspec.structs.asdict(hello))
    else:
        write_line(f"{hello.server} at {client.endpoint} answered in {round_trip_ms:.2f} ms")
