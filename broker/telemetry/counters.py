"""What was refused, dropped or cut off, by cause."""

from collections import Counter


class Counters(Counter[str]):
    """How often each thing happened that should not; `news` tells what has changed."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, int] = {}

    def news(self) -> dict[str, int]:
        """Return the counts that are not as they were at the last call."""
        news = {cause: count for cause, count in self.items() if count != self._told.get(cause)}
        self._told = dict(self)
        return news
