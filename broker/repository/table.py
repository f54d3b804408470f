"""A table that grows in small steps: to grow a dict of millions would stop the loop.

Up to FIRST_MAX values are in a first dict, at the speed of a dict; all others are in 256 dicts.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

FIRST_MAX: Final = 160_000
"""A dict of more values would grow once more, in more than 10 ms."""
SHARDS: Final = 256
MASK: Final = SHARDS - 1


class ShardedTable(Generic[Value]):
    """Values by their texts. The order of iteration is not that of insertion."""

    __slots__ = ("first", "shards")

    def __init__(self) -> None:
        self.first: dict[str, Value] = {}
        self.shards: list[dict[str, Value]] = []
        """Empty until there are too many values for the first dict."""

    def __len__(self) -> int:
        """Return how many values there are."""
        return len(self.first) + sum(map(len, self.shards))

    def __contains__(self, key: str) -> bool:
        """Return whether a key has a value."""
        return key in self.first or (bool(self.shards) and key in self._shard(key))

    def __getitem__(self, key: str) -> Value:
        """Return the value of a key. Raises KeyError."""
        if key in self.first or not self.shards:
            return self.first[key]
        return self._shard(key)[key]

    def __setitem__(self, key: str, value: Value) -> None:
        """Set the value of a key."""
        self.home(key)[key] = value

    def __delitem__(self, key: str) -> None:
        """Remove a key. Raises KeyError."""
        if key in self.first or not self.shards:
            del self.first[key]
        else:
            del self._shard(key)[key]

    def __bool__(self) -> bool:
        """Return whether there are any values."""
        return bool(self.first) or any(self.shards)

    def get(self, key: str) -> Value | None:
        """Return the value of a key, or None."""
        value = self.first.get(key)
        if value is None and self.shards:
            return self._shard(key).get(key)
        return value

    def get_all(self, keys: Iterable[str | None]) -> list[Value | None]:
        """Return the values of many keys, None for each that is missing."""
        if not self.shards:
            return [*map(self.first.get, keys)]  # type: ignore[arg-type]  # the speed of C
        keys = [*keys]
        values = [*map(self.first.get, keys)]  # type: ignore[arg-type]
        shards = self.shards
        return [
            shards[hash(key) & MASK].get(key) if value is None else value  # type: ignore[arg-type]
            for key, value in zip(keys, values, strict=True)
        ]

    def setdefault(self, key: str, value: Value) -> Value:
        """Return the value of a key; set it first if it has none."""
        return self.home(key).setdefault(key, value)

    def is_large(self, more: int) -> bool:
        """Return whether new keys may not all belong in the first dict."""
        return bool(self.shards) or len(self.first) + more > FIRST_MAX

    def home(self, key: str) -> dict[str, Value]:
        """Return the dict that has a key, or that a new key belongs in."""
        first = self.first
        if key in first or (len(first) < FIRST_MAX and not self.shards):
            return first
        if not self.shards:
            self.shards = [{} for _ in range(SHARDS)]
        shard = self._shard(key)
        return first if len(first) < FIRST_MAX and key not in shard else shard

    def discard(self, key: str) -> None:
        """Remove a key, if it has a value."""
        if self.first.pop(key, None) is None and self.shards:
            self._shard(key).pop(key, None)

    def values(self) -> Iterator[Value]:
        """Yield all values."""
        return chain(self.first.values(), *[shard.values() for shard in self.shards])

    def items(self) -> Iterator[tuple[str, Value]]:
        """Yield all keys with their values."""
        return chain(self.first.items(), *[shard.items() for shard in self.shards])

    def _shard(self, key: str) -> dict[str, Value]:
        return self.shards[hash(key) & MASK]
