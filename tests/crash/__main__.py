"""`python -m tests.crash`: the long runs. Prints figures; exit code 1 if anything is wrong."""

import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.crash.harness import Run, Scenario, summary


@click.command()
@click.option("--kills", default=100, help="how often the broker is killed")
@click.option("--term", default=0, help="how often it is stopped with SIGTERM instead")
@click.option("--seconds", default=0.0, help="shortest duration")
@click.option("--commands", default=0, help="how many commands to send at least")
@click.option("--batch", default=0, help="most commands in one message")
@click.option("--seed", default=1, help="seed of all random choices")
@click.option("--segment-bytes", default=0, help="the broker's option of that name")
@click.option("--fsync", default="always", help="the broker's option of that name")
@click.option("--input-bytes", default=0, help="shortest input of most jobs")
@click.option("--in-snapshot", is_flag=True, help="kill the broker while it writes a snapshot")
@click.option("--keep", is_flag=True, help="keep the files of the run")
def main(  # noqa: PLR0917 - one argument for each option
    kills: int,
    term: int,
    seconds: float,
    commands: int,
    batch: int,
    seed: int,
    segment_bytes: int,
    fsync: str,
    input_bytes: int,
    *,
    in_snapshot: bool,
    keep: bool,
) -> None:
    """Kill a broker repeatedly under load, and check that nothing is lost or done twice."""
    home = Path(tempfile.mkdtemp(prefix="crash-"))
    segments = ("--segment-bytes", str(segment_bytes)) if segment_bytes else ()
    scenario = Scenario(
        home=home,
        ends=term or kills,
        seconds=seconds,
        commands=commands,
        term=bool(term),
        batch=batch or (20 if commands else 4),
        seed=seed,
        input_bytes=input_bytes,
        in_snapshot=in_snapshot,
        options=("--fsync", fsync, *segments),
    )
    run = Run(scenario, click.echo)
    try:
        audit = run.run()
        figures = summary(run, audit)
    finally:
        if keep:
            click.echo(f"kept in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    for name, figure in figures:
        click.echo(f"{name:28} {figure:>12}")
    for example in audit.examples:
        click.echo(example)
    sys.exit(1 if audit.wrong else 0)


if __name__ == "__main__":
    main(prog_name="python -m tests.crash")
