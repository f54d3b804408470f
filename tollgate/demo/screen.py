"""Shows a demonstration while it runs: a picture on a terminal, elsewhere a line now and then."""

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live

from tollgate.cli.options import say
from tollgate.demo.picture import HEIGHT, WIDTH_MIN, picture
from tollgate.demo.progress import Progress

LINE_EVERY_S: Final = 2.0
_HOLD, _RELEASE = "\x1b[?2026h", "\x1b[?2026l"
"""Terminals that know these show what is written between them at once; others ignore them."""


class Screen:
    """Shows progress on standard error, so that standard output has the summary alone."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`, if it is a terminal with room for the picture."""
        self._console = console
        self._live: Live | None = None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        """Begin to show."""
        console = self._console
        has_room = console.width >= WIDTH_MIN and console.height > HEIGHT
        if console.is_terminal and not console.is_dumb_terminal and has_room:
            # Drawn when there is news, by this thread: one write a frame, and nothing flickers.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture where it is, and the cursor below it."""
        if self._live is not None:
            self._live.stop()
            self._console.print()

    def show(self, progress: Progress) -> None:
        """Show how far it has come."""
        if self._live is not None:
            file = self._console.file
            file.write(_HOLD)
            self._live.update(self._drawn(progress), refresh=True)
            file.write(_RELEASE)
            file.flush()
        elif progress.elapsed_s >= self._next_line_s or progress.phase == "done":
            self._next_line_s = progress.elapsed_s + LINE_EVERY_S
            say(line(progress))

    def _drawn(self, progress: Progress) -> Group:
        return picture(progress, self._console.width)


def line(progress: Progress) -> str:
    """Return how far it has come, in one line."""
    if progress.phase == "starting":
        return f"starting a broker and {progress.workers} workers"
    counts = "  ".join(f"{status} {number}" for status, number in progress.by_status.items())
    return f"{progress.elapsed_s:5.1f} s  created {progress.created}/{progress.jobs}  {counts}"
