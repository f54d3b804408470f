"""Draws the comparisons as SVG: a bar for each ratio, its spread, and its goal."""

from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Comparison, Findings
from benchmarks.processes import Missing

WIDTH_INCHES: Final = 9.0
BAR_INCHES: Final = 0.28
MARGIN_INCHES: Final = 1.4
REACHED: Final = "#2f7d4f"
LOST: Final = "#b3402f"
PLAIN: Final = "#5b7a99"


def draw(found: Findings, folder: Path) -> list[str]:
    """Write the pictures of a part, one for each unit; return their names. Raises Missing."""
    plt = _pyplot()
    names = []
    for number, unit in enumerate(dict.fromkeys(row.unit for row in found.comparisons)):
        rows = [row for row in found.comparisons if row.unit == unit]
        name = f"{found.part}.svg" if number == 0 else f"{found.part}-{number + 1}.svg"
        folder.mkdir(parents=True, exist_ok=True)
        _draw(plt, found.part, unit, rows, folder / name)
        names.append(name)
    return names


def _pyplot() -> Any:  # noqa: ANN401 - a module
    try:
        import matplotlib as mpl  # noqa: PLC0415 - slow to load, and optional
    except ImportError:
        raise Missing("matplotlib is not installed: no pictures") from None
    mpl.use("svg")
    # Text stays text, and the same figures make the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tollgate", "font.size": 8})
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of its backend

    return plt


def _draw(plt: Any, part: str, unit: str, rows: list[Comparison], path: Path) -> None:  # noqa: ANN401
    figure, axes = plt.subplots(
        figsize=(WIDTH_INCHES, MARGIN_INCHES + BAR_INCHES * len(rows)), layout="constrained"
    )
    places = range(len(rows))
    medians = [row.ratio.median for row in rows]
    errors = [
        [row.ratio.median - row.ratio.min for row in rows],
        [row.ratio.max - row.ratio.median for row in rows],
    ]
    axes.barh(places, medians, xerr=errors, color=[*map(_colour, rows)], height=0.65,
              error_kw={"linewidth": 0.8, "capsize": 2})  # fmt: skip
    for place, row in zip(places, rows, strict=True):
        axes.annotate(f" {row.ratio.median:.2f}", (row.ratio.max, place), va="center")
        if row.goal is not None:
            axes.plot([row.goal.bound] * 2, [place - 0.45, place + 0.45], color="black", lw=1.6)
    axes.axvline(1.0, color="grey", lw=0.8, ls=":")
    axes.set_yticks(places, [f"{row.name} / {row.peer}" for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=6)
    axes.set_xlabel("tollgate / peer, by pairs of runs: median, least and most; black: the goal")
    axes.set_title(f"{part}, {unit}")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _colour(row: Comparison) -> str:
    return {"reached": REACHED, "LOST": LOST}.get(row.verdict, PLAIN)
