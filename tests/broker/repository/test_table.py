"""The sharded table behaves as one dict, and grows in small steps."""

from random import Random

import pytest

from tollgate.broker.repository.table import MASK, SHARDS, ShardedTable


def test_a_table_is_a_dict_to_its_users() -> None:
    table: ShardedTable[int] = ShardedTable()
    model: dict[str, int] = {}
    random = Random(1)
    for number in range(5_000):
        key = f"key {random.randrange(600)}"
        match random.randrange(5):
            case 0:
                table[key] = model[key] = number
            case 1:
                assert table.setdefault(key, number) == model.setdefault(key, number)
            case 2 if key in model:
                del table[key], model[key]
            case 3:
                table.shards[hash(key) & MASK][key] = model[key] = number
            case _:
                assert table.get(key) == model.get(key)
        assert len(table) == len(model)
        assert (key in table) == (key in model)
    assert sorted(table.values()) == sorted(model.values())
    assert all(table[key] == value for key, value in model.items())
    keys: list[str | None] = [f"key {number}" for number in range(700)]
    assert table.get_all([*keys, None]) == [*[model.get(key or "") for key in keys], None]


def test_a_missing_key_is_an_error() -> None:
    table: ShardedTable[int] = ShardedTable()
    with pytest.raises(KeyError):
        table["nothing"]
    with pytest.raises(KeyError):
        del table["nothing"]
    assert table.get("nothing") is None
    assert [*table.values()] == []


def test_values_are_spread_over_all_shards() -> None:
    table: ShardedTable[int] = ShardedTable()
    for number in range(200 * SHARDS):
        table[f"{number:08x}-0000-4000-8000-000000000000"] = number
    sizes = [len(shard) for shard in table.shards]
    assert len(sizes) == SHARDS
    assert sum(sizes) == len(table) == 200 * SHARDS
    assert max(sizes) < 3 * min(sizes)  # so each grows by itself, in a fraction of the time
