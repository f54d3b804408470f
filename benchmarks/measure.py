"""Turns measurements into medians, spreads and ratios, and compares them with goals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """The median of some runs, with their minimum and maximum."""

    median: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Goal:
    """The goal for a ratio, ours over theirs; `op` is ">=" or "<="."""

    op: str
    bound: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.op == ">=" else ratio <= self.bound

    def __str__(self) -> str:
        return f"{self.op} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(">=", bound)


def at_most(bound: float) -> Goal:
    return Goal("<=", bound)


@dataclass(frozen=True)
class Comparison:
    """One figure of ours beside one of a peer; the ratio is taken pair by pair of runs."""

    part: str
    name: str
    unit: str
    peer: str
    ours: Spread
    theirs: Spread
    ratio: Spread
    goal: Goal | None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "reached" if self.goal.met(self.ratio.median) else "LOST"

    def line(self) -> str:
        """Return the comparison as a line of plain text."""
        said = f"{self.part}: {self.name} against {self.peer}: {self.ratio.median:.2f}x"
        said += f" ({self.ratio.min:.2f} to {self.ratio.max:.2f})"
        return said if self.goal is None else f"{said}, goal {self.goal}: {self.verdict}"


@dataclass
class Findings:
    """The results of one part: comparisons, figures without a peer, and what was skipped."""

    part: str
    comparisons: list[Comparison] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def compare(  # noqa: PLR0913, PLR0917 - one argument a column
        self,
        name: str,
        unit: str,
        ours: Sequence[float],
        peer: str,
        theirs: Sequence[float],
        goal: Goal | None = None,
        note: str = "",
    ) -> Comparison | None:
        """Add a comparison of equally many runs of both sides, and print it."""
        if not ours or not theirs or min(theirs) <= 0:
            self.skip(f"{name} against {peer}: too short to be measured")
            return None
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        found = Comparison(
            self.part, name, unit, peer, Spread.of(ours), Spread.of(theirs), Spread.of(ratios),
            goal, note,
        )  # fmt: skip
        self.comparisons.append(found)
        print(found.line(), flush=True)
        return found

    def figure(self, name: str, unit: str, values: Sequence[float], note: str = "") -> None:
        """Add a figure that has no peer."""
        spread = Spread.of(values)
        self.figures.append({"name": name, "unit": unit, "spread": spread, "note": note})
        print(
            f"{self.part}: {name}: {spread.median:.4g} {unit}"
            f" ({spread.min:.4g} to {spread.max:.4g})",
            flush=True,
        )

    def skip(self, why: str) -> None:
        """Note what could not be measured, and why."""
        self.skipped.append(why)
        print(f"{self.part}: skipped: {why}", flush=True)


def in_turns(sides: dict[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run each side once a round, A B A B, and return the result of each run."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            found[name].append(run())
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Effort:
    """How long and how often to measure."""

    is_quick: bool
    rounds: int
    run_s: float

    def pick(self, *, quick: T, full: T) -> T:
        return quick if self.is_quick else full


QUICK = Effort(is_quick=True, rounds=3, run_s=0.4)
FULL = Effort(is_quick=False, rounds=5, run_s=1.0)
