"""Turns signals into exceptions, except where they would leave a process or a directory behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """While this is entered, SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP SystemExit."""

    def __init__(self) -> None:
        """Begin with nothing held back."""
        self.came: int | None = None
        """The last signal that came while they were held back."""
        self._held = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over, but for what is ignored: nohup stays in force."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back; one that came is raised at the end, unless an exception is under way.

        What waits in here looks at `came`, and hurries.
        """
        self._begin_to_hold()
        try:
            yield
        finally:
            self._held = False
        if self.came is not None:
            self._raise(self.came)

    def _begin_to_hold(self) -> None:
        self._held, self.came = True, None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._held:
            self.came = number
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)  # as shells have it
