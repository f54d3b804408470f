"""A dict in shards, so that it grows in small steps: a dict of millions stops the loop to grow."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

SHARDS: Final = 256
MASK: Final = SHARDS - 1


class ShardedTable(Generic[Value]):
    """Values by their texts, in 256 dicts. The order of iteration is not that of insertion."""

    __slots__ = ("_gets", "shards")

    def __init__(self) -> None:
        self.shards: list[dict[str, Value]] = [{} for _ in range(SHARDS)]
        """The dict of a key is at `hash(key) & MASK`."""
        self._gets = [shard.get for shard in self.shards]

    def __len__(self) -> int:
        """Return how many values there are."""
        return sum(map(len, self.shards))

    def __contains__(self, key: str) -> bool:
        """Return whether a key has a value."""
        return key in self.shards[hash(key) & MASK]

    def __getitem__(self, key: str) -> Value:
        """Return the value of a key. Raises KeyError."""
        return self.shards[hash(key) & MASK][key]

    def __setitem__(self, key: str, value: Value) -> None:
        """Set the value of a key."""
        self.shards[hash(key) & MASK][key] = value

    def __delitem__(self, key: str) -> None:
        """Remove a key. Raises KeyError."""
        del self.shards[hash(key) & MASK][key]

    def get(self, key: str) -> Value | None:
        """Return the value of a key, or None."""
        return self._gets[hash(key) & MASK](key)

    def get_all(self, keys: Iterable[str | None]) -> list[Value | None]:
        """Return the values of many keys, None for each that is missing."""
        gets = self._gets
        return [gets[hash(key) & MASK](key) for key in keys]  # type: ignore[arg-type]

    def setdefault(self, key: str, value: Value) -> Value:
        """Return the value of a key; set it first if it has none."""
        return self.shards[hash(key) & MASK].setdefault(key, value)

    def values(self) -> Iterator[Value]:
        """Yield all values."""
        return chain.from_iterable(shard.values() for shard in self.shards)
