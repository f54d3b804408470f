"""Words a demonstration's summary, for a terminal and for a pipe alike."""

from rich.console import Group
from rich.text import Text

from tollgate.demo.summary import Summary
from tollgate.terminal.text import counted, milliseconds

_NAMES = (("creation to end", "creation_to_end_ms"), ("the broker's answer", "round_trip_ms"))
_LABEL_WIDTH = 21


def report(summary: Summary) -> Group:
    """Return the summary as lines of at most 80 cells."""
    return Group(
        _headline(summary),
        Text(),
        *_outcomes(summary),
        Text(),
        *_latencies(summary),
        Text(),
        *_hashes(summary),
        Text(),
    )


def _line(label: str, value: Text | str, style: str = "") -> Text:
    return Text.assemble("  ", (f"{label:{_LABEL_WIDTH}}", style or "dim"), value)


def _headline(summary: Summary) -> Text:
    if summary.ok:
        words = f"  All jobs ended: {summary.jobs:,} in {summary.elapsed_s:.1f} s."
        return Text(words, style="bold")
    wrong = []
    if summary.not_ended:
        wrong.append(f"{summary.not_ended:,} of {counted(summary.jobs, 'job')} did not end")
    if summary.hashes.wrong:
        wrong.append(f"the hash of {counted(len(summary.hashes.wrong), 'job')} is wrong")
    return Text(f"  {' and '.join(wrong)}, after {summary.elapsed_s:.1f} s.", style="bold red")


def _outcomes(summary: Summary) -> list[Text]:
    lines = [_line("completed", f"{summary.completed:>6,}", "green")]
    lines.append(_line("failed", f"{summary.failed:>6,}", "red"))
    lines += [
        _line("", Text(f"{number:>6,}  {reason}", style="dim", no_wrap=True))
        for reason, number in summary.failures.items()
    ]
    return lines


def _latencies(summary: Summary) -> list[Text]:
    header = "".join(f"{percent:>10}" for percent in summary.round_trip_ms)
    lines = [_line("", Text(header, style="dim"))]
    for label, name in _NAMES:
        values = getattr(summary, name).values()
        lines.append(_line(label, "".join(f"{milliseconds(value):>10}" for value in values)))
    return lines


def _hashes(summary: Summary) -> list[Text]:
    hashes = summary.hashes
    verdict = Text(f"{hashes.right:,} of {hashes.checked:,} right, computed anew from the jobs")
    verdict.stylize("red" if hashes.wrong else "green", 0, len(f"{hashes.right:,}"))
    lines = [_line("input hashes", verdict)]
    lines += [_line("", f"wrong: {job_id}") for job_id in hashes.wrong[:3]]
    if hashes.sample:
        sample = hashes.sample
        lines.append(_line("for example, job", sample.job_id))
        lines.append(_line("  its input", _short(sample.input_hash)))
        lines.append(_line("  its output", _short(sample.output_hash)))
    same = f"{_short(hashes.fingerprint)}, the same for seed {summary.seed}"
    lines.append(_line("of all outcomes", same))
    return lines


def _short(digest: str) -> str:
    return f"{digest[:16]}…{digest[-8:]}"
