"""docs/protocol.md as data: its examples, its tables, and what is computed in it.

An example is a block fenced as `tg1`. It reads as a dialogue: who sends or is answered, the message
as JSON, and its bytes. In the JSON a text that begins with "@" stands for a timestamp. All examples
run one after another over one broker with a fixed clock and fixed ids.

`python -m tests.protocol_page` keeps the requests that the page has, and writes everything else
anew: bytes, answers, both state diagrams, the tables of rights, and what each revision adds. A new
example needs only its requests, and `null` for each answer.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import msgspec

from tests.core import make_pipeline
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import RIGHTS, Principal, Role
from tollgate.broker.core.timers import Instant
from tollgate.domain.commands import AnyCommand
from tollgate.domain.settlement import CLAIMABLE, LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import LEGAL_TRANSITIONS, TERMINAL, JobStatus

PAGE: Final = Path(__file__).parent.parent / "docs" / "protocol.md"
START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PEERS: Final = {
    "shop": {Role.PRODUCER},
    "worker": {Role.WORKER},
    "payments": {Role.PAYMENTS},
    "operator": {Role.ADMIN},
    "seller": {Role.PRODUCER, Role.WORKER},
}
"""The roles of those who speak in the examples."""
COMMANDS: Final = {command.__struct_config__.tag: command for command in get_args(AnyCommand)}
_BLOCK: Final = re.compile(r"^```tg1\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ (.*)$", re.MULTILINE)
_WIDTH: Final = 88
_BYTES_A_LINE: Final = 40


# --- examples -------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One message of an example: `peer` sends it, or is sent it by the broker."""

    peer: str
    is_request: bool
    value: Any
    frame: bytes


class Example(NamedTuple):
    """A block of the page: where it stands, when it happens, and what is said."""

    title: str
    clock_ms: int
    messages: list[Message]
    text: str


class World:
    """The broker that the examples talk to: nothing in it is left to chance."""

    def __init__(self) -> None:
        self._pipeline = make_pipeline()
        self._pipeline.begin_log(Instant(START, 0))
        self._answers: dict[str, deque[bytes]] = {}

    def pass_to(self, clock_ms: int) -> Instant:
        """Let everything happen that is due `clock_ms` after the start."""
        now = Instant(START + timedelta(milliseconds=clock_ms), clock_ms)
        while self._pipeline.deadlines.is_due(now):
            self._take(self._pipeline.run([], now))
        return now

    def send(self, peer: str, frame: bytes, clock_ms: int) -> None:
        """Let `peer` send a frame `clock_ms` after the start."""
        now = self.pass_to(clock_ms)
        principal = Principal(f"key:{peer}", frozenset(PEERS[peer]))
        self._take(self._pipeline.run([Arrival(peer.encode(), [frame], principal)], now))

    def answer(self, peer: str) -> bytes | None:
        """Return the next frame that `peer` has been sent."""
        queue = self._answers.get(peer)
        return queue.popleft() if queue else None

    def unread(self) -> list[str]:
        """Return the peers that have been sent something that no example shows."""
        return [peer for peer, queue in self._answers.items() if queue]

    def _take(self, output: Any) -> None:
        for reply in output.replies:
            self._answers.setdefault(reply.peer.decode(), deque()).append(reply.frame)


def to_wire(value: Any) -> Any:
    """Return what the JSON of an example stands for: a time for a text that begins with "@"."""
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_wire(item) for item in value]
    if isinstance(value, str) and value.startswith("@"):
        return datetime.fromisoformat(value[1:])
    return value


def from_wire(value: Any) -> Any:
    """Return a decoded message as the JSON of an example."""
    if isinstance(value, dict):
        return {key: from_wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_wire(item) for item in value]
    if isinstance(value, datetime):
        return "@" + value.isoformat().replace("+00:00", "Z")
    return value


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(to_wire(value))


def decode(frame: bytes) -> Any:
    return from_wire(msgspec.msgpack.decode(frame))


def parse(page: str) -> list[Example]:
    """Return the examples of the page, in its order."""
    clock_ms = 0
    examples = []
    for block in _BLOCK.finditer(page):
        headings = _HEADING.findall(page, 0, block.start())
        title = headings[-1] if headings else ""
        messages: list[Message] = []
        for header, body in _paragraphs(block[1]):
            if header.startswith("clock "):
                clock_ms = int(header.removeprefix("clock +").removesuffix(" ms"))
            elif header == "hex":
                messages[-1] = messages[-1]._replace(frame=bytes.fromhex(body))
            else:
                speaker, _, peer = header.partition(" to ")
                is_request = not peer
                name = header.removesuffix(" sends") if is_request else peer
                assert is_request or speaker == "broker", header
                messages.append(Message(name, is_request, json.loads(body), b""))
        examples.append(Example(title, clock_ms, messages, block[0]))
    return examples


def _paragraphs(block: str) -> Iterator[tuple[str, str]]:
    header, body = "", ""
    for line in block.splitlines():
        if line.startswith(" "):
            body += line + "\n"
            continue
        if header:
            yield header, body
        header, body = line, ""
    yield header, body


def replay(example: Example, world: World) -> list[Message]:
    """Return what an example's requests, from their readable form, make the broker say."""
    messages = []
    world.pass_to(example.clock_ms)
    for message in example.messages:
        if message.is_request:
            frame = encode(message.value)
            world.send(message.peer, frame, example.clock_ms)
            messages.append(message._replace(frame=frame))
        else:
            answer = world.answer(message.peer)
            assert answer is not None, f"{example.title}: {message.peer} got no answer"
            messages.append(Message(message.peer, False, decode(answer), answer))
    assert not world.unread(), f"{example.title}: the example leaves out an answer"
    return messages


# --- what is computed -----------------------------------------------------------------------------


def write(page: str) -> str:
    """Return the page with everything that can be computed computed anew."""
    world = World()
    for example in parse(page):
        lines = ["```tg1"]
        if example.text.startswith("```tg1\nclock "):
            lines.append(f"clock +{example.clock_ms} ms")
        for message in replay(example, world):
            who = f"{message.peer} sends" if message.is_request else f"broker to {message.peer}"
            lines += [who, _indented(_pretty(message.value)), "hex", _hex(message.frame)]
        page = page.replace(example.text, "\n".join([*lines, "```"]))
    for pattern, text in computed_parts().items():
        page, count = re.subn(pattern, text, page, flags=re.MULTILINE | re.DOTALL)
        assert count == 1, f"{count} times: {pattern}"
    return page


def computed_parts() -> dict[str, str]:
    """Return the parts of the page that come from the code's tables, by where they stand."""
    diagram = r"^```mermaid\nstateDiagram-v2\n    \[\*\] --> {}\n.*?^```$"
    table = r"^\| {} \|[^\n]*\n\|---.*?(?=\n\n)"
    return {
        diagram.format("awaiting_payment"): job_diagram(),
        diagram.format("pending"): settlement_diagram(),
        table.format("command"): rights_to_commands(),
        table.format("move"): rights_to_moves(),
        table.format("claim of"): rights_to_claims(),
        r"^\| 2 \|[^\n]*$": revision_2(),
        r"^\| 3 \|[^\n]*$": revision_3(),
    }


def _pretty(value: Any) -> str:
    """Return JSON in lines of at most _WIDTH where that is possible, short things side by side."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= _WIDTH or not isinstance(value, dict | list) or not value:
        return line
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_pretty(item)}" for key, item in value.items()]
        opening, closing = "{}"
    else:
        items = [_pretty(item) for item in value]
        opening, closing = "[]"
    lines = [items[0]]
    for item in items[1:]:
        if "\n" in item or "\n" in lines[-1] or len(lines[-1]) + len(item) + 2 > _WIDTH:
            lines.append(item)
        else:
            lines[-1] += ", " + item
    body = ",\n".join(lines).replace("\n", "\n ")
    return opening + body + closing


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def _hex(frame: bytes) -> str:
    return _indented(
        "\n".join(
            frame[place : place + _BYTES_A_LINE].hex()
            for place in range(0, len(frame), _BYTES_A_LINE)
        )
    )


def job_diagram() -> str:
    """Return the state machine of a job as a mermaid diagram."""
    return _diagram(LEGAL_TRANSITIONS, JobStatus.AWAITING_PAYMENT, {})


def settlement_diagram() -> str:
    """Return the state machine of a settlement as a mermaid diagram."""
    because = {
        (SettlementState.PENDING, SettlementState.WANTED): "the job completes",
        (SettlementState.PENDING, SettlementState.CLOSED): "the job fails",
    }
    for move in _settlement_moves():
        if [role for role in Role if move in RIGHTS[role].settles] == [Role.ADMIN]:
            because[move] = "admin alone"
    return _diagram(LEGAL_SETTLEMENTS, SettlementState.PENDING, because)


def _diagram(table: Mapping[Any, Iterable[Any]], first: str, because: Mapping[Any, str]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for state, targets in table.items():
        for target in sorted(targets):
            reason = because.get((state, target))
            lines.append(f"    {state} --> {target}" + (f": {reason}" if reason else ""))
        if not targets:
            lines.append(f"    {state} --> [*]")
    return "\n".join([*lines, "```"])


def _settlement_moves() -> list[tuple[SettlementState, SettlementState]]:
    """Return the moves that `settle` makes: those from `pending` happen by themselves."""
    return [
        (state, target)
        for state in LEGAL_SETTLEMENTS
        if state != SettlementState.PENDING
        for target in sorted(LEGAL_SETTLEMENTS[state])
    ]


def rights_to_commands() -> str:
    """Return the table of who may send which command; those with the same rights share a row."""
    rows: dict[tuple[bool, ...], list[str]] = {}
    for tag, command in COMMANDS.items():
        rows.setdefault(_allowed("commands", command), []).append(tag)
    return _table("command", {_quoted(*tags): allowed for allowed, tags in rows.items()})


def rights_to_moves() -> str:
    """Return the table of who may make which move of a job or of its settlement."""
    rows = {
        f"`{status}` → `{target}`": _allowed("moves", (status, target))
        for status in JobStatus
        for target in sorted(LEGAL_TRANSITIONS[status])
    }
    rows["any of these with `force`"] = tuple(RIGHTS[role].force for role in Role)
    for state, target in _settlement_moves():
        rows[f"settlement `{state}` → `{target}`"] = _allowed("settles", (state, target))
    return _table("move", rows)


def rights_to_claims() -> str:
    """Return the table of who may claim what."""
    rows = {
        f"`{status}`": _allowed("claims", status) for status in JobStatus if status not in TERMINAL
    }
    for state in sorted(CLAIMABLE, reverse=True):
        rows[f"settlement `{state}`"] = _allowed("claims", state)
    return _table("claim of", rows)


def _allowed(kind: str, right: object) -> tuple[bool, ...]:
    """Return for each role whether it has the right, which is of that kind."""
    return tuple(right in getattr(RIGHTS[role], kind) for role in Role)


def _table(title: str, rows: Mapping[str, tuple[bool, ...]]) -> str:
    lines = [f"| {title} | " + " | ".join(f"`{role}`" for role in Role) + " |"]
    lines.append("|---" * (1 + len(Role)) + "|")
    for name, allowed in rows.items():
        lines.append(f"| {name} |" + "".join(" yes |" if it else " |" for it in allowed))
    return "\n".join(lines)


def _quoted(*names: str) -> str:
    return " ".join(f"`{name}`" for name in names)


REVISION_1: Final = {
    "hello": "open_session",
    "create": "input_hash input identifier_from_purchaser job_id blockchain_identifier"
    " pay_by_time submit_result_time",
    "get": "job_id blockchain_identifier",
    "transition": "job_id target result error input_schema expected_version lease",
    "provide_input": "job_id input expected_version",
    "cancel": "job_id expected_version",
    "count": "status",
    "list": "limit status after",
    "wait": "job_ids timeout_ms statuses",
    "claim": "status lease_ms wait_ms limit",
    "touch": "job_id lease lease_ms",
    "release": "job_id lease",
}
"""The commands and fields of revision 1. They never change: that is what a revision is."""


REVISION_3: Final = ("events", "stats", "explain")
"""The commands of revision 3."""


def revision_3() -> str:
    """Return the row of what revision 3 adds."""
    return f"| 3 | the commands {_quoted(*REVISION_3)} |"


def revision_2() -> str:
    """Return the row of what revision 2 adds."""
    commands = [tag for tag in COMMANDS if tag not in {*REVISION_1, *REVISION_3}]
    fields = []
    for tag, old in REVISION_1.items():
        new = [name for name in COMMANDS[tag].__struct_fields__ if name not in old.split()]
        if new:
            fields.append(f"of `{tag}` {_quoted(*new)}")
    return f"| 2 | the commands {_quoted(*commands)}; the fields {', '.join(fields)} |"


# --- tables ---------------------------------------------------------------------------------------


def tables_below(page: str, heading: str) -> list[dict[str, list[str]]]:
    """Return the tables below a heading: the rows of each, by what the first cell names."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE):
        rows = {}
        for line in block.splitlines()[2:]:  # without the head and its rule
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            for name in re.findall(r"`([^`]*)`", first) or [first]:
                rows[name] = cells
        tables.append(rows)
    return tables


if __name__ == "__main__":
    PAGE.write_text(write(PAGE.read_text()))
