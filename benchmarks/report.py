"""Writes the results: JSON for programs, Markdown tables for docs/performance.md."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Comparison, Findings, Spread
from benchmarks.processes import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
FOLDER: Final = ROOT / "docs" / "performance"
BEGIN: Final = "<!-- benchmarks: begin (written by `make bench`, not by hand) -->"
END: Final = "<!-- benchmarks: end -->"
COMMAND: Final = "make bench"
TITLES: Final = {
    "lifecycle": "Lifecycle: create, running, completed, get",
    "budget": "Budget: what the goals leave, and what the parts take",
    "roundtrip": "Round trip: one command at a time",
    "jobs": "Jobs: enqueue, execute an empty handler, see the result",
    "growth": "Growth: many jobs, many clients",
    "recovery": "Recovery: starting again",
}
THOUSAND: Final = 1_000
HUNDRED: Final = 100


def document(context: dict[str, Any], found: list[Findings]) -> dict[str, Any]:
    """Return all results as plain data."""
    parts = {
        part.part: {
            "comparisons": [
                {**asdict(comparison), "verdict": comparison.verdict}
                for comparison in part.comparisons
            ],
            "figures": [{**figure, "spread": asdict(figure["spread"])} for figure in part.figures],
            "settings": part.settings,
            "skipped": part.skipped,
        }
        for part in found
    }
    return {"command": COMMAND, **context, "parts": parts}


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


def write_page(
    context: dict[str, Any], found: list[Findings], pictures: dict[str, list[str]]
) -> None:
    """Put the tables and pictures between the markers of docs/performance.md."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{PAGE.name} has lost its markers {BEGIN} and {END}")
    lines = [BEGIN, "", *_context(context), *_goals(found)]
    for part in found:
        lines += _section(part, pictures.get(part.part, []))
    PAGE.write_text(before + "\n".join([*lines, END]) + after)


def _context(context: dict[str, Any]) -> list[str]:
    said = [
        f"Made by `{COMMAND}`; the figures as data: [results.json](performance/results.json).",
        "",
    ]
    for title in ("machine", "versions", "method"):
        values = ", ".join(f"{name} {value}" for name, value in context[title].items())
        said.append(f"- **{title.capitalize()}**: {values}")
    return [*said, ""]


def _goals(found: list[Findings]) -> list[str]:
    """Return the figures that have a goal, the lost ones among them, before all others."""
    rows = [comparison for part in found for comparison in part.comparisons if comparison.goal]
    if not rows:
        return []
    reached = sum(row.verdict == "reached" for row in rows)
    return ["## Goals", "", f"{reached} of {len(rows)} reached.", "", *_table(rows)]


def _section(part: Findings, pictures: list[str]) -> list[str]:
    lines = [f"## {TITLES[part.part]}", ""]
    for picture in pictures:
        lines += [f"![{TITLES[part.part]}](performance/{picture})", ""]
    lines += _table(part.comparisons)
    if part.figures:
        lines += ["| figure | median | min to max |", "|---|---|---|"]
        lines += [
            f"| {figure['name']} | {_number(figure['spread'].median)} {figure['unit']}"
            f" | {_range(figure['spread'])} |"
            for figure in part.figures
        ]
        lines.append("")
    lines += [f"- {name}: {value}" for name, value in part.settings.items()]
    lines += [f"- **skipped**: {why}" for why in part.skipped]
    return [*lines, ""]


def _table(rows: list[Comparison]) -> list[str]:
    if not rows:
        return []
    head = "| what | tollgate | against | there | ratio | min to max | goal | |"
    return [head, "|---|---|---|---|---|---|---|---|", *map(_row, rows), ""]


def _row(row: Comparison) -> str:
    goal = (
        ""
        if row.goal is None
        else str(row.goal).replace("<", "≤").replace(">", "≥").replace("=", "")
    )
    verdict = f"**{row.verdict}**" if row.verdict == "LOST" else row.verdict
    return (
        f"| {row.name} | {_number(row.ours.median)} {row.unit} | {row.peer}"
        f" | {_number(row.theirs.median)} {row.unit} | {row.ratio.median:.2f}"
        f" | {_range(row.ratio)} | {goal} | {verdict} |"
    )


def _range(spread: Spread) -> str:
    return f"{_number(spread.min)} to {_number(spread.max)}"


def _number(value: float) -> str:
    if abs(value) >= THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= HUNDRED else f"{value:.3g}"
