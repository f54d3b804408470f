"""What the demonstration shows: a row for each deal, from the hire over the work to the proof."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tests.masumi_demo.buyers import Deal, Kind

EVENTS: Final = 3
FRAME: Final = 11
"""Lines of the picture that are no rows of deals, and one for the cursor."""
ROWS_MIN: Final = 3
WAITING: Final = "awaiting_payment"
WORK: Final = {
    "running": ("works", "cyan"), "awaiting_input": ("asks", "magenta"),
    "completed": ("done", "green"), "failed": ("failed", "red"),
}  # fmt: skip
PROOF: Final = {
    "wanted": ("to submit", "yellow"), "submitted": ("submitted", "cyan"),
    "confirmed": ("on chain", "green"), "refused": ("refused", "red"),
    "manual": ("for a person", "red"),
}  # fmt: skip
COLUMNS: Final = (
    ("job", 8), ("buyer", 14), ("gate", 5), ("work", 6), ("proof", 12), ("chain", 19),
    ("result", 9),
)  # fmt: skip
"""With a space between them, a terminal of 80 columns."""
SIZE_MIN: Final = (sum(width + 1 for _, width in COLUMNS), FRAME + ROWS_MIN)
"""Columns and lines of the smallest terminal that shows the picture."""
FLOW: Final = "buyer ─HTTP─▶ gateway ──▶ gate (payment) ──▶ work ──▶ proof (hash) ──▶ verified"


def where(urls: Sequence[str]) -> str:
    """Return the line that says where buyers hire."""
    url, hasty = urls
    return f"hired over {url}, by late payers over {hasty}"


def picture(
    deals: Sequence[Deal], place: str, faults: int, events: Sequence[str], height: int
) -> Group:
    """Return the screen as it is now, at most `height` lines high. `place` says where to hire."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name, width in COLUMNS:
        table.add_column(name, width=width, no_wrap=True)
    for deal in _shown(deals, max(height - FRAME, ROWS_MIN)):
        table.add_row(*_row(deal))
    news = [Text(event, style="dim", no_wrap=True, overflow="ellipsis") for event in events]
    news += [Text()] * (EVENTS - len(news))
    foot = Text(counts(deals, faults), style="dim", no_wrap=True, overflow="ellipsis")
    flow = Text(FLOW, style="bold", no_wrap=True, overflow="ellipsis")
    head = Text(place, style="dim", no_wrap=True, overflow="ellipsis")
    return Group(flow, head, Text(), table, Text(), *news[-EVENTS:], Text(), foot)


def _shown(deals: Sequence[Deal], rows: int) -> list[Deal]:
    """Return as many deals as there are rows: those that go on first, then the newest."""
    first = sorted(deals, key=lambda deal: (deal.is_over, -deal.number))[:rows]
    return sorted(first, key=lambda deal: deal.number)


def counts(deals: Sequence[Deal], faults: int) -> str:
    """Return how many deals are where, in one line."""
    proofs = Counter(deal.settlement for deal in deals)
    works = Counter(deal.status for deal in deals)
    over = sum(deal.is_over for deal in deals)
    parts = [
        f"{len(deals)} hired",
        f"gate {works[WAITING]}",
        f"work {works['running'] + works['awaiting_input']}",
        f"proof {proofs['wanted'] + proofs['submitted']}",
        f"on chain {proofs['confirmed']}",
        f"failed {works['failed']}",
        f"over {over}",
        f"faults {faults}",
    ]
    return "  ".join(parts)


def _row(deal: Deal) -> list[Text]:
    was_opened = deal.status in WORK and not (deal.status == "failed" and not _was_paid(deal))
    gate = ("open", "green") if was_opened else ("shut", "red")
    if deal.status in {WAITING, ""}:
        gate = ("waits", "yellow") if deal.status else ("", "")
    return [
        Text(deal.name),
        Text(deal.kind.value, style="dim"),
        Text(*gate),
        Text(*(WORK.get(deal.status, ("", "")) if was_opened else ("", ""))),
        Text(*PROOF.get(deal.settlement, ("", ""))),
        Text(deal.on_chain, style="dim"),
        _result(deal),
    ]


def _result(deal: Deal) -> Text:
    if deal.wrong:
        return Text("wrong", style="bold red")
    if not deal.is_over:
        return Text()
    return Text("verified", style="green") if deal.is_verified else Text("none", style="dim")


def _was_paid(deal: Deal) -> bool:
    return deal.on_chain not in {"", "FundsOrDatumInvalid"}


def summary(deals: Sequence[Deal], faults: int, seconds: float) -> list[str]:
    """Return the lines that sum a run up; the two after a buyer's kind are job and payment."""
    verified = sum(deal.is_verified for deal in deals)
    completed = sum(deal.status == "completed" for deal in deals)
    ends = Counter((deal.kind, deal.status, deal.on_chain or "not paid") for deal in deals)
    wrong = [f"  {deal.number}: {text}" for deal in deals for text in deal.wrong]
    order, rest = list(Kind), len(deals) - completed
    rows = sorted(ends.items(), key=lambda end: (order.index(end[0][0]), end[0][1:]))
    return [
        f"{len(deals)} buyers in {seconds:.0f} s; what became of job and payment:",
        *[
            f"  {count:3} {kind.value:14}  {status:16}  {on_chain}"
            for (kind, status, on_chain), count in rows
        ],
        f"{completed} jobs completed, {verified} hashes verified on chain, {rest} without a result",
        f"{faults} faults of the payment service on the way",
        *(["wrong:", *wrong] if wrong else ["nothing is wrong"]),
    ]
