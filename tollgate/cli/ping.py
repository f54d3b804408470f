"""Is `tollgate ping`: one sign of life from the broker, and how long it took."""

from time import perf_counter

import click
import msgspec

from tollgate.cli.options import Caller, with_caller, write_document, write_line


@click.command("ping", epilog="\b\nExample:\n  tollgate ping --json")
@with_caller
def command(caller: Caller) -> None:
    """Ask the broker for a sign of life."""
    with caller.client() as client:
        client.ping()  # connects as well, which is not what is measured
        started = perf_counter()
        hello = client.ping()
        round_trip_ms = (perf_counter() - started) * 1_000
    if caller.as_json:
        answer = msgspec.structs.asdict(hello)
        write_document(
            {"endpoint": client.endpoint, "round_trip_ms": round(round_trip_ms, 3), **answer}
        )
    else:
        write_line(f"{hello.server} at {client.endpoint} answered in {round_trip_ms:.2f} ms")
