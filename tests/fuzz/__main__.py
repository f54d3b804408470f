"""`python -m tests.fuzz`: a million damaged frames for the core, and 100,000 for a broker."""

import os
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import click

from tests.fuzz.core import feed
from tests.fuzz.mutate import Mutator
from tests.fuzz.wire import fuzz
from tests.soak.target import MIB, broker, in_process, missing, observe

CHUNK = 50_000


@click.command()
@click.option("--inputs", default=1_000_000, help="frames for the core")
@click.option("--wire", default=100_000, help="inputs sent through raw sockets")
@click.option("--seed", default=1, help="first seed")
def main(inputs: int, wire: int, seed: int) -> None:
    """Search for a frame that breaks the broker. Exit code 1 if there is one."""
    crews = os.cpu_count() or 1
    begun = time.monotonic()
    waiting = [in_process(_feed, seed + crew, inputs // crews)[0] for crew in range(crews)]
    seen: Counter[str] = sum((result() for result in waiting), Counter())
    click.echo(f"core: {sum(seen.values()):,} frames, {time.monotonic() - begun:.0f} s, 0 faults")
    click.echo("  " + ", ".join(f"{kind} {count:,}" for kind, count in seen.most_common()))
    with tempfile.TemporaryDirectory(prefix="tg-") as home, broker(Path(home)) as target:
        calm = observe(target.endpoint, 5)()
        before = target.memory()
        begun = time.monotonic()
        fuzzing = [in_process(fuzz, str(target.path), wire // crews, seed + crew)[0]
                   for crew in range(crews)]  # fmt: skip
        observing = observe(target.endpoint, 10)
        sent: Counter[str] = sum((result() for result in fuzzing), Counter())
        disturbed = observing()
        lost = missing(target.endpoint, calm.jobs + disturbed.jobs)
        click.echo(
            f"wire: {sum(sent.values()):,} inputs ({dict(sent)}), {time.monotonic() - begun:.0f} s:"
            f" restarts {target.starts - 1}, acknowledged and lost {lost},"
            f" p99 {calm.percentile(0.99):.2f} → {disturbed.percentile(0.99):.2f} ms,"
            f" memory {before / MIB:.0f} → {target.memory() / MIB:.0f} MiB"
        )
        target.leave()
        if lost or disturbed.failures:
            raise SystemExit(1)


def _feed(seed: int, inputs: int) -> Counter[str]:
    frames = iter(Mutator(seed))
    seen: Counter[str] = Counter()
    for done in range(0, inputs, CHUNK):
        seen += feed(islice(frames, min(CHUNK, inputs - done)))
        click.echo(f"  seed {seed}: {done + CHUNK:,} of {inputs:,}", err=True)
    return seen


if __name__ == "__main__":
    main()
