"""Is `tollgate demo`: shows what tollgate does, with a broker and workers of its own."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Final

import click

from tollgate.cli.errors import NotAllDoneError
from tollgate.cli.kinds import Whole
from tollgate.cli.options import say, write_document
from tollgate.client.sync import Client
from tollgate.demo import inputs
from tollgate.demo.plan import WORKERS, PlannedJob, plan_jobs
from tollgate.demo.processes import Processes
from tollgate.demo.progress import Progress
from tollgate.demo.report import report
from tollgate.demo.run import WAITED_FOR_MAX, Run
from tollgate.demo.screen import Screen
from tollgate.demo.signals import Signals
from tollgate.demo.summary import Summary
from tollgate.demo.svg import Still
from tollgate.domain.exceptions import TollgateError
from tollgate.terminal.style import terminal

SEED: Final = 1
ANSWER_TIMEOUT_S: Final = 3.0
"""A broker that is alive answers within milliseconds."""
KEEP_CHECK_S: Final = 0.5


@click.command("demo", epilog="\b\nExample:\n  tollgate demo --jobs 100 --seed 7")
@click.option(
    "--jobs",
    type=Whole(1, WAITED_FOR_MAX),
    metavar="N",
    help="How many jobs to create.  [default: one for each example input]",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=SEED,
    show_default=True,
    help="Draws the jobs' ids and the fates of their payments; the same seed, the same outcome.",
)
@click.option("--keep", is_flag=True, help="Keep all running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Write the summary as a JSON document.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), hidden=True)
def command(*, jobs: int | None, seed: int, keep: bool, as_json: bool, svg: Path | None) -> None:
    """Watch real jobs go through the gate.

    Starts a broker, two workers and a producer, which all end with it; your own broker is not
    touched. Payments are simulated: some are refused, some never come. Takes about 15 seconds.
    """
    plan = plan_jobs(inputs.load(), jobs, seed)
    progress = Progress(jobs=len(plan), seed=seed, workers=WORKERS)
    still = Still()
    with Signals() as signals, Processes(signals) as processes:
        summary = _run(plan, processes, progress, still)
        if svg is not None:
            still.save(svg, summary)
        if as_json:
            write_document(summary)
        else:
            terminal().print(report(summary))
        if keep:
            _keep(processes)
    if not summary.ok:
        raise NotAllDoneError("the demonstration did not go as it should: see its summary")


def _run(
    plan: Sequence[PlannedJob], processes: Processes, progress: Progress, still: Still
) -> Summary:
    with Screen(terminal(stderr=True)) as screen:
        screen.show(progress)
        processes.start(progress.seed)
        with Client(processes.endpoint, timeout_s=ANSWER_TIMEOUT_S) as client:
            run = Run(client, plan, processes, progress)
            try:
                client.ping()  # connects, so that the first answer measured is like the others
                run.go(screen.show, still.look)
                return run.summary()
            except TollgateError:
                processes.check()  # which says better why nobody answered
                raise


def _keep(processes: Processes) -> None:
    """Leave everything as it is until a signal, or until one of the processes ends."""
    say("All keeps running until Ctrl-C. To look around, in another terminal:")
    say(f"  export TOLLGATE_ENDPOINT={processes.endpoint}")
    say("  tollgate list")
    with suppress(KeyboardInterrupt):  # which is the way to end it, and no failure
        while True:
            processes.check()
            sleep(KEEP_CHECK_S)
