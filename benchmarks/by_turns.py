"""Compares this tree with another one, both alive: lifecycles by turns of a fraction of a second.

`python -m benchmarks.by_turns OTHER [--rounds 90] [--jobs 1000] [--per-message 100] [--durable]`,
where OTHER is a checkout in which `make setup` was run. Two brokers and clients of OTHER and one of
each of this tree run all the time, and take turns; the first two turns of each are not counted. So
the load of other programs meets all of them alike, and the start of a broker is left out, when it
touches its memory for the first time: `benchmarks.pairs` measures that too. The ratios are
this/other, above 1 is better; beside them other/other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.pairs import HERE, LIMIT, SIDE, interval

WARM: Final = 2
FIGURES: Final = ("commands/s", "commands a second of the broker's main thread")
_CLIENT: Final = """
import json, sys
sys.path.insert(0, sys.argv[3])
import pair_side, tollgate
def cpu_s():
    with open(f"/proc/{sys.argv[2]}/task/{sys.argv[2]}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9
with tollgate.connect(sys.argv[1], timeout_s=300) as client:
    for line in sys.stdin:
        jobs, per_message = map(int, line.split())
        before = cpu_s()
        rate = pair_side.lifecycle(client, jobs, per_message)
        print(json.dumps([rate, 4 * jobs / (cpu_s() - before)]), flush=True)
"""


class Side:
    """A broker of one tree, and a client of the same tree that works when told to."""

    def __init__(self, tree: Path, endpoint: str, broker: int) -> None:
        """`broker` is the process id of the broker at `endpoint`."""
        self._client = subprocess.Popen(
            [tree / ".venv/bin/python", "-P", "-c", _CLIENT, endpoint, str(broker), SIDE.parent],
            cwd=tree, env=_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self, jobs: int, per_message: int) -> list[float]:
        """Let the client create, run, read and complete so many jobs; return the FIGURES."""
        if self._client.stdin is None or self._client.stdout is None:
            raise ValueError("no pipes")
        self._client.stdin.write(f"{jobs} {per_message}\n")
        self._client.stdin.flush()
        figures: list[float] = json.loads(self._client.stdout.readline())
        return figures

    def close(self) -> None:
        """End the client."""
        self._client.communicate()


@contextmanager
def side(tree: Path, place: Path, *, durable: bool) -> Iterator[Side]:
    """Run a side in a folder of its own."""
    place.mkdir()
    endpoint = f"ipc://{place}/b.sock"
    kept = ["--data-dir", str(place / "data")] if durable else ["--in-memory"]
    broker = subprocess.Popen(
        [tree / ".venv/bin/python", "-P", "-m", "tollgate.broker", "--bind", endpoint, *kept],
        cwd=tree, env=_environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        one = Side(tree, endpoint, broker.pid)  # it waits until the broker is there
        try:
            yield one
        finally:
            one.close()
    finally:
        broker.terminate()
        broker.wait(60)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def main() -> int:
    """Run the rounds, print the ratios, and return 1 if something is slower."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=90)
    parser.add_argument("--jobs", type=int, default=1_000, help="of one turn")
    parser.add_argument("--per-message", type=int, default=100)
    parser.add_argument("--durable", action="store_true")
    options = parser.parse_args()
    other = options.other.resolve()
    turns: list[list[list[float]]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        sides = [
            stack.enter_context(side(tree, folder / str(place), durable=options.durable))
            for place, tree in enumerate((other, HERE, other))
        ]
        for number in range(WARM + options.rounds):
            found: dict[int, list[float]] = {}
            for place in range(len(sides)):  # each comes first as often as the others
                which = (place + number) % len(sides)
                found[which] = sides[which].turn(options.jobs, options.per_message)
            turns.append([found[place] for place in range(len(sides))])
    slower = False
    for place, name in enumerate(FIGURES):
        rounds = [[figures[place] for figures in each] for each in turns[WARM:]]
        mean, low, high = interval([b / (a * c) ** 0.5 for a, b, c in rounds])
        _, same_low, same_high = interval([c / a for a, _, c in rounds])
        slower |= high < LIMIT
        mark = "  <-- slower" if high < LIMIT else ""
        print(
            f"{name:46} {mean:.3f} ({low:.3f} to {high:.3f});"
            f" other/other {same_low:.3f} to {same_high:.3f}{mark}"
        )
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
