"""`python -m tests.chaos`: the long run. Prints figures; exit code 1 if anything is wrong."""

import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.audit import Audit
from tests.chaos.harness import Run, Scenario

EXAMPLE_CHARACTERS = 2_000


@click.command()
@click.option("--jobs", default=200, help="how many jobs, in 4 queues")
@click.option("--kills", default=30, help="how often something is killed, stopped or frozen")
@click.option("--seed", default=1, help="seed of all random choices")
@click.option("--lease-ms", default=1_500, help="the workers' option of that name")
@click.option("--concurrency", default=3, help="the workers' option of that name")
@click.option("--seconds", default=300.0, help="longest time until all jobs have ended")
@click.option("--keep", is_flag=True, help="keep the files of the run")
def main(  # noqa: PLR0917 - one argument for each option
    jobs: int,
    kills: int,
    seed: int,
    lease_ms: int,
    concurrency: int,
    seconds: float,
    *,
    keep: bool,
) -> None:
    """Kill workers, brokers and children while jobs go wrong in every way, and audit the end."""
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    scenario = Scenario(home, jobs, kills, seed, lease_ms, concurrency, seconds)
    try:
        with click.progressbar(length=jobs, label="jobs ended") as bar:

            def show(ended: int, killed: int) -> None:
                bar.label = f"{killed} of {kills} kills, jobs ended"
                bar.update(ended - bar.pos)

            run = Run(scenario, show)
            audit = run.run()
    finally:
        if keep:
            click.echo(f"kept in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    for name, figure in summary(run, audit):
        click.echo(f"{name:60} {figure:>8}")
    for example in audit.examples:
        click.echo(example if keep else example[:EXAMPLE_CHARACTERS])
    sys.exit(1 if audit.wrong else 0)


def summary(run: Run, audit: Audit) -> list[tuple[str, int | float]]:
    """Return the figures of a run, in the order in which they are printed."""
    return [
        *sorted(run.figures.acts.items()),
        *sorted(audit.seen.items()),
        *sorted(audit.wrong.items()),
        ("standstills of the machine", len(run.figures.standstills)),
        ("wrong in all", audit.wrong.total()),
        ("seconds", round(run.figures.seconds, 1)),
    ]


if __name__ == "__main__":
    main(prog_name="python -m tests.chaos")
