"""docs/protocol.md is replayed against the code: examples byte by byte, tables name by name.

An example is a block fenced as `tg1`. It reads as a dialogue: who sends or is answered, the message
as JSON, and its bytes. In the JSON a text that begins with "@" stands for a timestamp. All examples
run one after another over one broker with a fixed clock and fixed ids.

`python -m tests.test_protocol_examples --write` keeps the requests that the document has, and
writes everything else anew: bytes, answers, and the state diagram.
"""

import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest

from tests.core import ADMIN, make_pipeline
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.timers import Instant
from tollgate.domain.commands import AnyCommand
from tollgate.domain.exceptions import REFUSALS
from tollgate.domain.messages import PROTOCOL_VERSION, WINDOW
from tollgate.domain.models import Job
from tollgate.domain.results import AnyResult
from tollgate.domain.status import LEGAL_TRANSITIONS

DOCUMENT = Path(__file__).parent.parent / "docs" / "protocol.md"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BLOCK = re.compile(r"^```tg1\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIAGRAM = re.compile(r"^```mermaid\nstateDiagram-v2\n.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
WIDTH = 88
BYTES_A_LINE = 40


class Message(NamedTuple):
    """One message of an example: `peer` sends it, or is sent it by the broker."""

    peer: str
    is_request: bool
    value: Any
    frame: bytes


class Example(NamedTuple):
    """A block of the document: where it stands, when it happens, and what is said."""

    title: str
    clock_ms: int
    messages: list[Message]
    text: str


class World:
    """The broker that the examples talk to: nothing in it is left to chance."""

    def __init__(self) -> None:
        self._pipeline = make_pipeline()
        self._answers: dict[str, deque[bytes]] = {}

    def send(self, peer: str, frame: bytes, clock_ms: int) -> None:
        """Let `peer` send a frame `clock_ms` after the start."""
        now = Instant(START + timedelta(milliseconds=clock_ms), clock_ms)
        while self._pipeline.deadlines.is_due(now):
            self._take(self._pipeline.run([], now))
        self._take(self._pipeline.run([Arrival(peer.encode(), [frame], ADMIN)], now))

    def answer(self, peer: str) -> bytes | None:
        """Return the next frame that `peer` has been sent."""
        queue = self._answers.get(peer)
        return queue.popleft() if queue else None

    def unread(self) -> list[str]:
        """Return who has been sent something that no example shows."""
        return [peer for peer, queue in self._answers.items() if queue]

    def _take(self, outcome: Any) -> None:
        for reply in outcome.replies:
            self._answers.setdefault(reply.peer.decode(), deque()).append(reply.frame)


def to_wire(value: Any) -> Any:
    """Put what the JSON of an example stands for: a time for a text that begins with "@"."""
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_wire(item) for item in value]
    if isinstance(value, str) and value.startswith("@"):
        return datetime.fromisoformat(value[1:])
    return value


def from_wire(value: Any) -> Any:
    """Put a decoded message as the JSON of an example."""
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


def parse(document: str) -> list[Example]:
    """Return the examples of the document, in its order."""
    clock_ms = 0
    examples = []
    for block in BLOCK.finditer(document):
        headings = HEADING.findall(document, 0, block.start())
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


def write(document: str) -> str:
    """Return the document with everything that can be computed computed anew."""
    world = World()
    for example in parse(document):
        lines = ["```tg1"]
        if example.text.startswith("```tg1\nclock "):
            lines.append(f"clock +{example.clock_ms} ms")
        for message in replay(example, world):
            who = f"{message.peer} sends" if message.is_request else f"broker to {message.peer}"
            lines += [who, _indented(pretty(message.value)), "hex", _hex(message.frame)]
        document = document.replace(example.text, "\n".join([*lines, "```"]))
    return DIAGRAM.sub(lambda _: diagram(), document)


def pretty(value: Any) -> str:
    """Return JSON in lines of at most WIDTH where that is possible, short things side by side."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {pretty(item)}" for key, item in value.items()]
        opening, closing = "{}"
    else:
        items = [pretty(item) for item in value]
        opening, closing = "[]"
    lines = [items[0]]
    for item in items[1:]:
        if "\n" in item or "\n" in lines[-1] or len(lines[-1]) + len(item) + 2 > WIDTH:
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
            frame[place : place + BYTES_A_LINE].hex()
            for place in range(0, len(frame), BYTES_A_LINE)
        )
    )


def diagram() -> str:
    """Return the state machine as a mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> awaiting_payment"]
    for status, targets in LEGAL_TRANSITIONS.items():
        lines += [f"    {status.value} --> {target}" for target in sorted(targets)]
        if not targets:
            lines.append(f"    {status.value} --> [*]")
    return "\n".join([*lines, "```"])


def table_after(document: str, heading: str) -> dict[str, list[str]]:
    """Return the first table below a heading: its rows, by what the first cell names."""
    after = re.split(rf"^#+ {re.escape(heading)}$", document, flags=re.MULTILINE)[1]
    rows: dict[str, list[str]] = {}
    for line in after.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0].strip("`")] = cells[1:]
        elif rows or line.startswith("#"):
            break
    return dict(itertools.islice(rows.items(), 2, None))  # without the head and its rule


TEXT = DOCUMENT.read_text()
COMMANDS = {command.__struct_config__.tag: command for command in get_args(AnyCommand)}
RESULTS = {result.__struct_config__.tag: result for result in get_args(AnyResult)}


def check(document: str) -> None:
    world = World()
    for example in parse(document):
        assert replay(example, world) == example.messages, example.title


def test_every_example_is_what_the_broker_says() -> None:
    check(TEXT)


def test_the_document_is_as_it_is_written() -> None:
    assert write(TEXT) == TEXT, "run: python -m tests.test_protocol_examples --write"


def test_the_state_diagram_is_the_state_machine() -> None:
    assert diagram() in TEXT


def test_every_command_is_shown_and_every_kind_of_answer() -> None:
    commands: set[str] = set()
    results: set[str] = set()
    envelopes: set[str] = set()
    most = 0
    for message in itertools.chain.from_iterable(example.messages for example in parse(TEXT)):
        if not message.is_request:
            envelopes.add(message.value["type"])
            results |= {result["type"] for result in message.value.get("results", ())}
        elif isinstance(message.value, dict) and message.value.get("v") == PROTOCOL_VERSION:
            shown = message.value["commands"]
            commands |= {command.get("type") for command in shown}
            most = max(most, len(shown))
    assert commands >= set(COMMANDS)
    assert results == set(RESULTS)
    assert envelopes == {"reply", "refused"}
    assert most >= 2


@pytest.mark.parametrize("tag", COMMANDS)
def test_a_commands_table_has_its_fields(tag: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(COMMANDS[tag])}
    assert {name: cells[1] == "yes" for name, cells in table_after(TEXT, f"`{tag}`").items()} == {
        name: field.required for name, field in fields.items()
    }


def test_the_job_table_has_the_fields_of_a_job() -> None:
    assert list(table_after(TEXT, "The job")) == list(Job.model_fields)


def test_the_table_of_errors_is_complete() -> None:
    assert {code: cells[:2] for code, cells in table_after(TEXT, "Error codes").items()} == {
        code: [_of(code), "yes" if refusal.retryable else "no"]
        for code, refusal in REFUSALS.items()
    }


def _of(code: str) -> str:
    if code in {"too_large", "draining", "session_evicted"}:
        return "both"
    return "message" if REFUSALS[code].refuses_message else "command"


def test_the_table_of_limits_is_complete() -> None:
    defaults = {**msgspec.structs.asdict(Limits()), "window": WINDOW}
    assert {
        name: int(cells[0].replace(",", "")) for name, cells in table_after(TEXT, "Limits").items()
    } == defaults


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('"job_not_found"', '"job_not_there"'),  # an answer, as it reads
        ('"timeout_ms": 60000', '"timeout_ms": 60001'),  # a request, as it reads
        ("85a17601a77365", "85a17602a77365"),  # a request's bytes
        ("84a474797065a57265706c79a17601", "84a474797065a57265706c79a17602"),  # an answer's
    ],
)
def test_a_changed_example_is_noticed(good: str, bad: str) -> None:
    start = TEXT.index("```tg1")
    changed = TEXT[:start] + TEXT[start:].replace(good, bad, 1)
    assert changed != TEXT
    with pytest.raises(AssertionError):
        check(changed)


def test_a_change_in_what_the_broker_says_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REFUSALS["job_not_found"], "retryable", True)
    with pytest.raises(AssertionError):
        check(TEXT)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    DOCUMENT.write_text(write(TEXT))
