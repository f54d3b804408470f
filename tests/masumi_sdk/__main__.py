"""Runs the real SDK over the storage: python -m tests.masumi_sdk --jobs 40 --kills 12."""

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.masumi_sdk.harness import Scenario, SdkRun


def main() -> int:
    """Run, and print what came of it; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.masumi_sdk",
        description=__doc__,
        epilog="It needs the SDK: make masumi-sdk installs it in a venv of its own.",
    )
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--asking", type=int, default=12, help="how many of them ask a human")
    parser.add_argument("--kills", type=int, default=0, help="of web workers and brokers")
    parser.add_argument("--workers", type=int, default=3, help="web workers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.0, help="share of faulty calls, 0 to 1")
    parser.add_argument("--seconds", type=float, default=180.0, help="longest time of the run")
    parser.add_argument("--keep", type=Path, help="a directory for the logs, which stay there")
    options = parser.parse_args()
    if find_spec("masumi") is None:
        parser.error("the SDK is not installed: make masumi-sdk")
    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        home = Path(scratch)
        if options.keep is not None:
            home = options.keep
            home.mkdir(parents=True)
        scenario = Scenario(
            home,
            jobs=options.jobs,
            asking=options.asking,
            kills=options.kills,
            seed=options.seed,
            workers=options.workers,
            fault_share=options.faults,
            seconds=options.seconds,
        )

        def show(ended: int, kills: int) -> None:
            sys.stderr.write(f"\r{ended}/{options.jobs} jobs, {kills}/{options.kills} kills  ")

        outcome = SdkRun(scenario, show).run()
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.kills.items()))
    lines = [
        (
            f"seed {options.seed}: {outcome.completed} of {options.jobs} jobs completed and"
            f" proved, {outcome.asked} of them with human input, in {outcome.seconds:.0f} s;"
            f" {outcome.polls} polls, {outcome.unavailable} answers without a server;"
            f" {outcome.runs} runs of the handler; killed: {kills or 'nothing'};"
            f" wrong: {len(outcome.wrong)}"
        )
    ]
    lines += [f"  {line}" for line in outcome.wrong[:20]]
    sys.stderr.write("\n")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if outcome.wrong or outcome.completed < options.jobs else 0


if __name__ == "__main__":
    sys.exit(main())
