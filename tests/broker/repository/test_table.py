"""The table of jobs behaves as one dict, and grows in small steps."""

from random import Random

import pytest

from tollgate.broker.repository import table as table_module
from tollgate.broker.repository.table import SHARDS, ShardedTable


@pytest.mark.parametrize("first_max", [0, 1, 100, 10_000])
def test_a_table_is_a_dict_to_its_users(first_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "FIRST_MAX", first_max)
    table: ShardedTable[int] = ShardedTable()
    model: dict[str, int] = {}
    random = Random(1)
    for number in range(1, 5_000):
        key = f"key {random.randrange(600)}"
        match random.randrange(6):
            case 0:
                table[key] = model[key] = number
            case 1:
                assert table.setdefault(key, number) == model.setdefault(key, number)
            case 2 if key in model:
                del table[key], model[key]
            case 3:
                table.home(key)[key] = model[key] = number
            case 4:
                table.discard(key)
                model.pop(key, None)
            case _:
                assert table.get(key) == model.get(key)
        assert len(table) == len(model)
        assert bool(table) is bool(model)
        assert len(table.first) <= first_max
        assert (key in table) == (key in model)
        assert table.is_large(1) == (bool(table.shards) or len(model) >= first_max)
    assert sorted(table.values()) == sorted(model.values())
    assert sorted(table.items()) == sorted(model.items())
    assert all(table[key] == value for key, value in model.items())
    keys: list[str | None] = [f"key {number}" for number in range(700)]
    assert table.get_all([*keys, None]) == [*[model.get(key or "") for key in keys], None]


@pytest.mark.parametrize("first_max", [0, 9])
def test_a_missing_key_is_an_error(first_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "FIRST_MAX", first_max)
    table: ShardedTable[int] = ShardedTable()
    for _ in range(2):
        with pytest.raises(KeyError):
            table["nothing"]
        with pytest.raises(KeyError):
            del table["nothing"]
        assert table.get("nothing") is None
        table.discard("nothing")
        table["one"] = 1
    assert [*table.values()] == [1]


def test_values_are_spread_over_all_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "FIRST_MAX", 1_000)
    table: ShardedTable[int] = ShardedTable()
    for number in range(1_000 + 200 * SHARDS):
        table[f"{number:08x}-0000-4000-8000-000000000000"] = number
    sizes = [len(shard) for shard in table.shards]
    assert len(sizes) == SHARDS
    assert (len(table.first), sum(sizes)) == (1_000, 200 * SHARDS)
    assert max(sizes) < 3 * min(sizes)  # so each grows by itself, in a fraction of the time


def test_a_run_of_new_keys_is_large_before_the_dict_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_module, "FIRST_MAX", 10)
    table: ShardedTable[int] = ShardedTable()
    for number in range(8):
        table[str(number)] = number
    assert [table.is_large(more) for more in (1, 2, 3)] == [False, False, True]
    assert table.shards == []
