"""Runs the scenario: python -m tests.settlement --jobs 200 --kills 60 --seed 1."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.settlement.harness import Run, Scenario


def main(kind: type[Run], description: str, kills: int) -> int:
    """Run, and print what came of it; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="longest time of the run")
    parser.add_argument("--keep", type=Path, help="a directory for the logs, which stay there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        home = Path(scratch)
        if options.keep is not None:
            home = options.keep
            home.mkdir(parents=True)
        scenario = Scenario(home, options.jobs, options.kills, options.seed)
        scenario.seconds = options.seconds

        def show(confirmed: int, kills: int) -> None:
            text = f"{confirmed}/{options.jobs} confirmed, {kills}/{options.kills} kills"
            sys.stderr.write(f"\r{text:60}")

        outcome = kind(scenario, show).run()
    sys.stderr.write("\n")
    killed = ", ".join(f"{count} {kind}s" for kind, count in sorted(outcome.kills.items()))
    lines = [
        (
            f"seed {options.seed}: {outcome.confirmed} of {options.jobs} confirmed in"
            f" {outcome.seconds:.0f} s; killed: {killed}; {outcome.faults} faults of the service,"
            f" {outcome.failures} failures on chain; wrong: {len(outcome.wrong)}"
        )
    ]
    lines += [f"  {line}" for line in (*outcome.details(), *outcome.wrong[:20])]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if outcome.wrong or outcome.confirmed < options.jobs else 0


if __name__ == "__main__":
    sys.exit(main(Run, __doc__, kills=60))
