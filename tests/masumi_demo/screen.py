"""What the demonstration shows: a row for each deal, from the gate over the work to the proof."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tests.masumi_demo.buyers import Deal

ROWS: Final = 24
GATE: Final = {"awaiting_payment": ("waits", "yellow"), "": ("", "")}
WORK: Final = {
    "running": ("works", "cyan"), "awaiting_input": ("asks", "magenta"),
    "completed": ("done", "green"), "failed": ("failed", "red"),
}  # fmt: skip
PROOF: Final = {
    "pending": ("", ""), "wanted": ("to submit", "yellow"), "submitted": ("submitted", "cyan"),
    "confirmed": ("on chain", "green"), "closed": ("", ""), "refused": ("refused", "red"),
    "manual": ("for a person", "red"),
}  # fmt: skip
FLOW: Final = "buyer ──▶ gate (payment) ──▶ work ──▶ proof (hash on chain) ──▶ buyer verifies"


def picture(deals: Sequence[Deal], faults: int) -> Group:
    """Return the screen as it is now."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in (("job", 8), ("buyer", 18), ("gate", 8), ("work", 8), ("proof", 12)):
        table.add_column(name, width=width)
    table.add_column("chain", width=20)
    table.add_column("buyer sees", width=12)
    for deal in deals[-ROWS:]:
        table.add_row(*_row(deal))
    counts = Counter(deal.status or "hired" for deal in deals)
    line = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    foot = f"{line}; {faults} faults of the payment service"
    return Group(Text(FLOW, style="bold"), Text(), table, Text(), Text(foot, style="dim"))


def _row(deal: Deal) -> list[Text]:
    was_opened = deal.status in WORK and not (deal.status == "failed" and not _was_paid(deal))
    gate = ("open", "green") if was_opened else GATE.get(deal.status, ("shut", "red"))
    seen = ("", "")
    if deal.wrong:
        seen = ("wrong", "bold red")
    elif deal.is_over:
        seen = ("verified", "green") if deal.is_verified else ("not charged", "dim")
    return [
        Text(deal.job.job_id[:8] if deal.job else ""),
        Text(deal.kind.value, style="dim"),
        _cell(*gate),
        _cell(*(WORK.get(deal.status, ("", "")) if was_opened else ("", ""))),
        _cell(*PROOF.get(deal.settlement, ("", ""))),
        Text(deal.on_chain, style="dim"),
        _cell(*seen),
    ]


def _was_paid(deal: Deal) -> bool:
    return deal.on_chain not in {"", "FundsOrDatumInvalid"}


def _cell(text: str, style: str) -> Text:
    return Text(text, style=style)


def summary(deals: Sequence[Deal], faults: int, seconds: float) -> list[str]:
    """Return the lines that sum a run up."""
    verified = sum(deal.is_verified for deal in deals)
    completed = sum(deal.status == "completed" for deal in deals)
    kinds = Counter(deal.kind.value for deal in deals)
    wrong = [f"  {deal.number}: {text}" for deal in deals for text in deal.wrong]
    ended = len(deals) - completed
    return [
        f"{len(deals)} buyers in {seconds:.0f} s:",
        *[f"  {count:3} {kind}" for kind, count in sorted(kinds.items())],
        f"{completed} jobs completed, {verified} hashes verified on chain, {ended} not charged",
        f"{faults} faults of the payment service on the way",
        *(["wrong:", *wrong] if wrong else ["nothing is wrong"]),
    ]
