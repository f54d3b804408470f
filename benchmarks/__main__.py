"""Runs the whole benchmark, a quick form of it, or one part; see README.md beside this file."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, pictures, report
from benchmarks.measure import FULL, QUICK, Effort, Findings
from benchmarks.processes import Missing, workplace

PARTS: Final = ("lifecycle", "budget", "roundtrip", "jobs", "growth", "recovery")
EXTRA: Final = ("walk",)
"""Parts that run only when named: they count code, and are not in docs/performance.md."""
PEERS_S: Final = "medians of interleaved runs, ratios taken pair by pair"


def main() -> int:
    """Measure, print the ratios, and write them to files; return 1 if something failed."""
    options = _options()
    effort = QUICK if options.quick else FULL
    with workplace(options.work_dir) as directory:
        context = {
            "machine": machine.machine(directory),
            "versions": machine.versions(),
            "method": {"rounds": effort.rounds, "seconds a run": effort.run_s, "figures": PEERS_S},
        }
        found, broken = _measure(options.only or PARTS, effort, directory)
    if not options.quick and not options.only and not broken:
        _publish(context, found)
    elif options.json:
        report.write_json(options.json, report.document(context, found))
    if options.quick:
        _sum_up(found)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: under 2 minutes")
    parser.add_argument("--only", action="append", choices=PARTS + EXTRA, help="this part alone")
    parser.add_argument("--json", type=Path, help="where to write the figures of a partial run")
    parser.add_argument(
        "--work-dir", type=Path, help="where sockets and journals go; a short path on a real disk"
    )
    return parser.parse_args()


def _measure(
    names: tuple[str, ...] | list[str], effort: Effort, directory: Path
) -> tuple[list[Findings], bool]:
    """Measure the parts; return what was found, and whether a part could not be measured."""
    found: list[Findings] = []
    broken = False
    for name in names:
        begun = time.monotonic()
        try:
            measure: Callable[[Effort, Path], Findings] = import_module(
                f"benchmarks.{name}"
            ).measure
            found.append(measure(effort, directory))
        except Missing as reason:
            empty = Findings(name)
            empty.skip(str(reason))
            found.append(empty)
        except Exception as fault:  # noqa: BLE001 - the other parts can still be measured
            print(f"{name}: could not be measured: {fault}", file=sys.stderr, flush=True)
            broken = True
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return found, broken


def _publish(context: dict[str, Any], found: list[Findings]) -> None:
    drawn: dict[str, list[str]] = {}
    with suppress(Missing):
        for part in found:
            drawn[part.part] = pictures.draw(part, report.FOLDER)
    report.write_json(report.FOLDER / "results.json", report.document(context, found))
    report.write_page(context, found, drawn)


def _sum_up(found: list[Findings]) -> None:
    """Print the ratios that have a goal again, together."""
    rows = [row for part in found for row in part.comparisons if row.goal is not None]
    print("\nGoals:")
    for row in rows:
        print(f"  {row.line()}")


if __name__ == "__main__":
    sys.exit(main())
