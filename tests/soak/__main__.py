"""`python -m tests.soak`: attacks, many clients and a long run. Prints a table of results.

With --write FILE, the tables replace the text between the markers of that page.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from tests.soak.attacks import ATTACKS, CAP_BYTES, attack
from tests.soak.clients import churn, crowd
from tests.soak.marathon import marathon
from tests.soak.target import MIB

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
FRAMES_A_SECOND: Final = 130_000
"""Less than a process sends, so that all frames are sent while the honest client measures."""
PARTS: Final = ("attacks", "crowd", "marathon")


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="run only this part")
@click.option("--seconds", default=20.0, help="duration of each attack")
@click.option("--frames", default=5_000_000, help="tiny frames to send")
@click.option("--commands", default=10_000_000, help="commands of the marathon")
@click.option("--write", type=click.Path(path_type=Path), help="write the tables into this page")
def main(
    only: tuple[str, ...], seconds: float, frames: int, commands: int, write: Path | None
) -> None:
    """Run attacks, many clients, and millions of commands. Takes about 15 minutes."""
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "attacks": lambda: attacks(seconds, frames),
        "crowd": crowds,
        "marathon": lambda: marathons(commands),
    }
    lines: list[str] = []
    for name in only or PARTS:
        begun = time.monotonic()
        for line in parts[name]():
            click.echo(line)
            lines.append(line)
        click.echo(f"({name}: {time.monotonic() - begun:.0f} s)", err=True)
    if write is not None:
        page = write.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        write.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after)
    sys.exit(any(" **no** " in line for line in lines))


def attacks(seconds: float, frames: int) -> Iterator[str]:
    yield (
        "| attack | done | p50 ms, before → under | p99 ms, before → under | p99 ratio | peak MiB |"
        " acknowledged, lost | stood | counted |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in ATTACKS:
        with tempfile.TemporaryDirectory(prefix="tg-") as home:
            for_s = max(seconds, frames / FRAMES_A_SECOND) if name == "tiny frames" else seconds
            impact = attack(name, Path(home), for_s, frames)
        calm, under = impact.calm, impact.disturbed
        counted = ", ".join(f"{cause} {count:,}" for cause, count in sorted(impact.dropped.items()))
        yield (
            f"| {name} | {impact.done:,} | {calm.percentile(0.5):.2f} → {under.percentile(0.5):.2f}"
            f" | {calm.percentile(0.99):.2f} → {under.percentile(0.99):.2f}"
            f" | {under.percentile(0.99) / calm.percentile(0.99):.1f}"
            f" | {impact.peak_bytes / MIB:.0f} of {CAP_BYTES / MIB:.0f}"
            f" | {len(calm.jobs) + len(under.jobs):,}, {impact.missing}"
            f" | {'yes' if impact.stood else '**no**'} | {counted or 'nothing'} |"
        )
    yield ""


def crowds() -> Iterator[str]:
    yield "| clients | connected in s | all asked and answered in s | answered | KiB each |"
    yield "|---|---|---|---|---|"
    for clients in (1_000, 10_000):
        with tempfile.TemporaryDirectory(prefix="tg-") as home:
            seen = crowd(Path(home), clients)
        yield (
            f"| {clients:,} | {seen.connect_s:.2f} | {seen.answer_s:.2f} | {seen.answered:,}"
            f" | {seen.bytes_each / 1024:.1f} |"
        )
    with tempfile.TemporaryDirectory(prefix="tg-") as home:
        left = churn(Path(home), 50_000)
    yield ""
    yield (
        f"{left.clients:,} clients came, asked ({left.answered:,} answers) and left: the broker"
        f" grew by {left.grown_bytes / MIB:.1f} MiB and {left.grown_files} open files."
    )
    yield ""


def marathons(commands: int) -> Iterator[str]:
    yield "| journal | commands | MiB after each tenth | MiB a million, last half |"
    yield "|---|---|---|---|"
    for durable in (False, True):
        with tempfile.TemporaryDirectory(prefix="tg-") as home:
            ran = marathon(Path(home), commands, durable=durable)
        samples = " ".join(f"{sample / MIB:.0f}" for sample in ran.samples)
        yield (
            f"| {'on disk' if durable else 'in memory'} | {ran.commands:,} | {samples}"
            f" | {ran.grown_mib_per_million:.2f} |"
        )
    yield ""


if __name__ == "__main__":
    main()
