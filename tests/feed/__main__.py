"""Holds replicas made from events against the broker: python -m tests.feed --events 1000000."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.feed.harness import Run


def main() -> int:
    """Run, and print what came of it; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python -m tests.feed --events 100000 --kills 5"
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1_800.0, help="longest time of the run")
    options = parser.parse_args()

    def show(events: int, kills: int) -> None:
        sys.stderr.write(f"\r{f'{events:,} events, {kills} kills':60}")

    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        run = Run(Path(scratch), options.events, options.kills, options.seed)
        outcome = run.run(show, options.seconds)
    sys.stderr.write("\n")
    told = (
        f"seed {options.seed}: {outcome.events:,} events and {outcome.kills} kills in"
        f" {outcome.seconds:.0f} s; {outcome.gone} times a reader had to list anew;"
        f" {outcome.compared:,} jobs compared; differences: {len(outcome.wrong)}"
    )
    lines = [told]
    lines += [f"  {line}" for line in outcome.wrong[:20]]
    sys.stdout.write("\n".join(lines) + "\n")
    short = outcome.events < options.events or outcome.kills < options.kills
    return 1 if outcome.wrong or short else 0


if __name__ == "__main__":
    sys.exit(main())
