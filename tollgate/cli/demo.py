"""`tollgate demo`: shows what tollgate does, with its own broker and workers."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Final

import click

from tollgate.cli.errors import NotAllDoneError
from tollgate.cli.options import whole
from tollgate.client.sync import Client
from tollgate.demo.plan import WORKERS, PlannedJob, load_inputs, plan_jobs
from tollgate.demo.processes import Processes, Signals
from tollgate.demo.progress import Progress
from tollgate.demo.run import WAITED_FOR_MAX, Run
from tollgate.demo.screen import Screen
from tollgate.demo.summary import Summary, report, sum_up
from tollgate.demo.svg import Still
from tollgate.domain.exceptions import TollgateError
from tollgate.terminal.output import say, write_document
from tollgate.terminal.style import terminal

SEED: Final = 1
ANSWER_TIMEOUT_S: Final = 3.0
"""A broker that is alive answers within milliseconds."""
KEEP_CHECK_S: Final = 0.5


@click.command(epilog="\b\nExample:\n  tollgate demo --jobs 100 --seed 7")
@click.option(
    "--jobs",
    type=whole(1, WAITED_FOR_MAX),
    metavar="N",
    help="How many jobs to create.  [default: one for each example input]",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=SEED,
    show_default=True,
    help="Decides ids and simulated payments: the same seed gives the same results.",
)
@click.option("--keep", is_flag=True, help="Keep all running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Write the summary as a JSON document.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), hidden=True)
def demo(*, jobs: int | None, seed: int, keep: bool, as_json: bool, svg: Path | None) -> None:
    """Watch real jobs go through the gate.

    Starts a broker, two workers and a producer, and ends them all; your own broker is not used.
    Payments are simulated: some are refused, some never come. Takes about 15 seconds.
    """
    plan = plan_jobs(load_inputs(), jobs, seed)
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
        raise NotAllDoneError("some jobs did not end or have a wrong hash: see the summary")


def _run(
    plan: Sequence[PlannedJob], processes: Processes, progress: Progress, still: Still
) -> Summary:
    with Screen(terminal(stderr=True)) as screen:
        screen.show(progress)
        processes.start(progress.seed)
        with Client(processes.endpoint, timeout_s=ANSWER_TIMEOUT_S) as client:
            try:
                client.ping()  # connects, so that the first measured answer is like the others
                Run(client, plan, processes, progress).go(screen.show, still.look)
                return sum_up([planned.job_id for planned in plan], client.list(), progress)
            except TollgateError:
                processes.check()  # a process that ended explains more than a missing answer
                raise


def _keep(processes: Processes) -> None:
    """Leave everything running until a signal, or until one of the processes ends."""
    say("The broker and its workers keep running until Ctrl-C. In another terminal:")
    say(f"  export TOLLGATE_ENDPOINT={processes.endpoint}")
    say("  tollgate list")
    with suppress(KeyboardInterrupt):  # the expected end, not a failure
        while True:
            processes.check()
            sleep(KEEP_CHECK_S)
