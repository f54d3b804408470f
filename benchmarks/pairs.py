"""Compares this tree with another one, in interleaved pairs: is anything slower?

`python -m benchmarks.pairs OTHER [PAIRS [SCALE]]`, where OTHER is a checkout in which `make setup`
was run. Each round runs the other tree, this tree, and the other tree again. The table has for each
figure the geometric mean of this/other with its 95 % interval (Student's t over the logarithms of
the pairs), and the same for other/other: it shows how much the machine varies. All figures are
rates or inverses, so above 1 is better. "Not slower" means that the upper end of the interval is at
least 0.97.
"""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

SIDE = Path(__file__).with_name("pair_side.py")
HERE = Path(__file__).parents[1]
LIMIT = 0.97
# Two-sided 95 % of Student's t, by degrees of freedom.
T = {4: 2.776, 9: 2.262, 14: 2.145, 19: 2.093, 24: 2.064, 29: 2.045}


def run(tree: Path, scale: str) -> dict[str, float]:
    """Run one side in a tree's own environment."""
    done = subprocess.run(
        [tree / ".venv/bin/python", "-P", SIDE, scale], cwd=tree, check=True, capture_output=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios, and its 95 % interval."""
    logs = list(map(math.log, ratios))
    mean = statistics.fmean(logs)
    degrees = max(key for key in T if key <= max(4, len(logs) - 1))
    half = T[degrees] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def main() -> None:
    """Run the pairs, and print the table."""
    other = Path(sys.argv[1]).resolve()
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    scale = sys.argv[3] if len(sys.argv) > 3 else "1"
    rounds = []
    for number in range(pairs):
        rounds.append((run(other, scale), run(HERE, scale), run(other, scale)))
        print(f"\rpair {number + 1} of {pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    head = f"this / other, {pairs} pairs"
    print(f"{head:44} {'ratio':>6}  95 % interval    other/other")
    slower = []
    for name in rounds[0][0]:
        mean, low, high = interval([b[name] / math.sqrt(a[name] * c[name]) for a, b, c in rounds])
        _, same_low, same_high = interval([c[name] / a[name] for a, _, c in rounds])
        if high < LIMIT:
            slower.append(name)
        mark = "  SLOWER" if high < LIMIT else ""
        same = f"{same_low:.3f} to {same_high:.3f}"
        print(f"{name:44} {mean:6.3f}  {low:.3f} to {high:.3f}   {same}{mark}")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
