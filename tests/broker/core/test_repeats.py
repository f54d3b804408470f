"""A command repeated under its number happens once, whatever its kind, over restarts too."""

from typing import Any

import msgspec
import pytest

from tests.broker.core.bad_input import BAD, GOOD, STARTS, Row, Wire
from tests.broker.core.restarts import live_chunks, restart
from tests.core import OTHER, PEER, Driver
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import AnyCommand

CHANGES = {kind.__struct_config__.tag for kind in AnyCommand.__args__ if kind.changes}
ROWS = {
    **{name: row for name, row in GOOD.items() if row.command["type"] in CHANGES},
    **{
        f"refused-{name}": row
        for name, row in BAD.items()
        if row.code not in ("malformed", "not_authorized")
    },
}
ROWS = {name: row for name, row in ROWS.items() if row.command["type"] in CHANGES}
TEXTS = {"message", "allowed"}
"""What the refusal of a repeat may have otherwise, or not at all."""


class Session:
    """A driver with a session of one principal."""

    def __init__(self, row: Row) -> None:
        self.driver = Driver()
        self.driver.run()  # takes note of the time
        self.principal = Principal("key:x", frozenset({Role.ADMIN}))
        self.seq = 0
        for each in [{"type": "hello", "open_session": True}, *STARTS[row.start]]:
            self.say(PEER, 0, self.next_seq(), each)
        self.principal = Principal("key:x", frozenset({Role(row.role)}))

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def say(self, peer: bytes, session: int, seq: int, command: Wire) -> Wire:
        """Send a command, and return its result."""
        frame = {"v": 1, "session": session, "seq": seq, "acked": 0, "commands": [command]}
        arrival = Arrival(peer, [msgspec.msgpack.encode(frame)], self.principal)
        output = self.driver.pipeline.run([arrival], self.driver.now)
        self.driver.records += output.records
        (reply,) = output.replies
        result: Wire = msgspec.msgpack.decode(reply.frame)["results"][0]
        return result


@pytest.mark.parametrize("name", ROWS)
def test_a_repeated_command_has_one_effect(name: str) -> None:
    session = Session(ROWS[name])
    driver, command = session.driver, ROWS[name].command
    first = session.say(PEER, 1, 1, command)
    records, state = len(driver.records), live_chunks(driver)

    again = session.say(OTHER, 1, 1, command)
    assert told(again) == told(first)
    assert (len(driver.records), live_chunks(driver)) == (records, state)

    restart(driver, middle=records // 2)
    assert told(session.say(PEER, 1, 1, command)) == told(first)
    assert (len(driver.records), live_chunks(driver)) == (records, state)


def told(result: Wire) -> Any:
    """Return what a result says, but for what a repeat says otherwise."""
    return {name: value for name, value in result.items() if name not in TEXTS}


def test_every_kind_that_changes_something_is_repeated() -> None:
    good = {row.command["type"] for name, row in ROWS.items() if not name.startswith("refused-")}
    assert good == CHANGES
