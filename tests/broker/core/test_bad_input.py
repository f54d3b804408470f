"""Each bound and each wrong combination is refused as the table says, and changes nothing."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.broker.core.bad_input import BAD, GOOD, STARTS, Row
from tests.broker.core.restarts import live_chunks
from tests.core import EPOCH, PEER, Driver
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role

Wire = dict[str, Any]
PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"


def say(driver: Driver, *commands: Wire, role: str = "admin") -> Wire:
    """Send commands in one message, and return the answer as it is on the wire."""
    driver.seq += 1
    frame = {"v": 1, "session": 0, "seq": driver.seq, "acked": 0, "commands": list(commands)}
    principal = Principal("key:x", frozenset({Role(role)}))
    arrival = Arrival(PEER, [msgspec.msgpack.encode(frame)], principal)
    outputs = [driver.pipeline.run([arrival], driver.now)]
    while driver.pipeline.is_deciding:
        outputs.append(driver.pipeline.run([arrival], driver.now))
    driver.records += [record for output in outputs for record in output.records]
    (reply,) = outputs[-1].replies
    answer: Wire = msgspec.msgpack.decode(reply.frame)
    return answer


def started(row: Row) -> Driver:
    driver = Driver()
    driver.run()  # takes note of the time
    commands = STARTS[row.start]
    share = 3 if "full" in row.start and "queues" not in row.start else 500  # of a message's bytes
    for first in range(0, len(commands), share):
        answer = say(driver, *commands[first : first + share])
        assert all(result["type"] != "error" for result in answer["results"]), answer
    assert driver.wall == EPOCH
    return driver


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_changes_nothing(name: str) -> None:
    row = BAD[name]
    driver = started(row)
    records, before = len(driver.records), live_chunks(driver)

    answer = say(driver, row.command, role=row.role)

    refused = answer["type"] == "refused"
    error = answer["error"] if refused else answer["results"][0]
    assert (error.get("code"), error.get("limit")) == (row.code, row.limit), error
    assert refused == (row.code == "malformed")
    assert len(driver.records) == records
    assert live_chunks(driver) == before


@pytest.mark.parametrize("name", GOOD)
def test_the_last_good_value_is_taken(name: str) -> None:
    row = GOOD[name]
    driver = started(row)

    (result,) = say(driver, row.command, role=row.role)["results"]

    assert result["type"] != "error", result


def documented() -> dict[str, tuple[str, int | None]]:
    """Return the rows of the table in docs/protocol.md: code and limit by name."""
    section = PROTOCOL.read_text().split("\n## Bad input\n")[1].split("\n## ")[0]
    rows: dict[str, tuple[str, int | None]] = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        names, _, answer = line.split(" | ")
        (code,) = re.findall(r"`(.*?)`", answer)
        limit = re.search(r"limit ([\d,]+)", answer)
        for name in re.findall(r"`(.*?)`", names):
            assert name not in rows, name
            rows[name] = code, int(limit[1].replace(",", "")) if limit else None
    return rows


def test_the_table_of_the_protocol_has_these_rows() -> None:
    assert documented() == {name: (row.code, row.limit) for name, row in BAD.items()}


def test_every_start_of_the_tables_is_used() -> None:
    assert {row.start for row in (*BAD.values(), *GOOD.values())} == set(STARTS)
