"""`python -m tests.torture`: a durable broker, workers and producers under random faults."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.torture.audit import Account
from tests.torture.harness import Plan, Run


@click.command()
@click.option("--seconds", default=600.0, help="how long faults happen")
@click.option("--seed", default=1, help="seed of the sequence of faults")
@click.option("--every-s", default=0.6, help="average time between two faults")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="keep the journal, all records ever written, and the logs in this new directory",
)
def main(seconds: float, seed: int, every_s: float, keep: Path | None) -> None:
    """Torture a broker, three workers and four producers, and check that nothing is lost."""
    if keep is not None and keep.exists():
        raise click.BadParameter(f"{keep} exists", param_hint="--keep")
    home = Path(tempfile.mkdtemp(prefix="tg-"))
    bar = click.progressbar(length=max(1, int(seconds)), label="torture", file=sys.stderr)
    is_terminal = sys.stderr.isatty()

    def progress(passed_s: float) -> None:
        if is_terminal:
            bar.update(int(passed_s) - bar.pos)

    def say(line: str) -> None:
        if is_terminal and sys.stdout.isatty():
            click.echo("\r\x1b[K", nl=False)
        click.echo(line)

    began = time.monotonic()
    run = Run(Plan(home, seconds, seed, every_s, keep), say, progress)
    try:
        account = run.run()
    finally:
        shutil.rmtree(home, ignore_errors=True)
        if keep is not None:
            click.echo(f"kept in {keep}")
    if is_terminal:
        bar.render_finish()
    click.echo("")
    for name, figure in summary(run, account, time.monotonic() - began):
        click.echo(f"{name:34} {figure:>12}")
    for example in account.examples:
        click.echo(example)
    sys.exit(1 if account.wrong else 0)


def summary(run: Run, account: Account, seconds: float) -> list[tuple[str, int | float | str]]:
    """Return the figures of a run, in the order in which they are printed."""
    return [
        ("faults", len(run.faults)),
        ("processes ended and started again", run.ends),
        *((f"operations {outcome}", count) for outcome, count in sorted(account.outcomes.items())),
        *((f"  {message}", count) for message, count in sorted(account.messages.items())),
        ("operations found in the journal", len(account.applied)),
        ("answers of workers", account.answers),
        ("events in the journal", account.events),
        ("lost", account.wrong["lost"]),
        ("applied twice", account.wrong["applied twice"] + account.wrong["two effects"]),
        ("processes neither served nor right", account.wrong["process"]),
        ("wrong in all", account.wrong.total()),
        ("seconds", round(seconds, 1)),
    ]


if __name__ == "__main__":
    main(prog_name="python -m tests.torture")
