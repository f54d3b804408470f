"""docs/protocol.md is replayed against the code: examples byte by byte, tables name by name."""

from itertools import chain
from typing import Any, get_args

import msgspec
import pytest

from tests.broker.core.bad_input import BAD
from tests.protocol_page import (
    COMMANDS,
    PAGE,
    REVISION_1,
    World,
    computed_parts,
    parse,
    replay,
    tables_below,
    write,
)
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.roles import Role
from tollgate.broker.repository import history
from tollgate.domain.exceptions import REFUSALS
from tollgate.domain.figures import (
    ClientFigures,
    Histogram,
    JournalFigures,
    LoopFigures,
    QueueFigures,
    StateFigures,
)
from tollgate.domain.messages import PROTOCOL_VERSION, WINDOW
from tollgate.domain.models import Job
from tollgate.domain.results import (
    AnyResult,
    HistoryEntry,
    InputRound,
    JobEvent,
    LeaseInfo,
    Progress,
    Settlement,
)
from tollgate.domain.settlement import SettlementState

TEXT = PAGE.read_text()
RESULTS = {result.__struct_config__.tag: result for result in get_args(AnyResult)}


def check(page: str) -> None:
    world = World()
    for example in parse(page):
        assert replay(example, world) == example.messages, example.title


def names(kind: Any) -> list[str]:
    """Return the names of a structure's fields on the wire."""
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def test_every_example_is_what_the_broker_says() -> None:
    check(TEXT)


def test_the_document_is_as_it_is_written() -> None:
    assert write(TEXT) == TEXT, "run: make protocol"


def test_pictures_and_rights_are_those_of_the_code() -> None:
    for part in computed_parts().values():
        assert part in TEXT


def test_every_command_and_kind_of_answer_is_shown() -> None:
    commands: set[str] = set()
    results: set[str] = set()
    envelopes: set[str] = set()
    most = 0
    for message in chain.from_iterable(example.messages for example in parse(TEXT)):
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
    fields = {field.name: field.required for field in msgspec.structs.fields(COMMANDS[tag])}
    table = tables_below(TEXT, f"`{tag}`")[0]
    assert {name: cells[1] == "yes" for name, cells in table.items()} == fields


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("hello", "hello"),
        ("count", "count"),
        ("list", "jobs"),
        ("claim", "leases"),
        ("touch", "lease"),
        ("history", "history"),
        ("events", "events"),
        ("explain", "explained"),
        ("stats", "stats"),
    ],
)
def test_a_results_table_has_its_fields(command: str, result: str) -> None:
    assert list(tables_below(TEXT, f"`{command}`")[1]) == names(RESULTS[result])


@pytest.mark.parametrize(
    ("heading", "part"),
    [
        ("Progress", Progress),
        ("A round of input", InputRound),
        ("A settlement in a job", Settlement),
        ("A lease in a job", LeaseInfo),
        ("An entry of the history", HistoryEntry),
        ("An event", JobEvent),
        ("Figures of a state", StateFigures),
        ("Figures of a queue", QueueFigures),
        ("A client", ClientFigures),
        ("A histogram", Histogram),
        ("The loop", LoopFigures),
        ("The journal in figures", JournalFigures),
    ],
)
def test_a_parts_table_has_its_fields(heading: str, part: type[msgspec.Struct]) -> None:
    assert list(tables_below(TEXT, heading)[0]) == names(part)


def test_the_job_table_has_the_fields_of_a_job() -> None:
    assert list(tables_below(TEXT, "The job")[0]) == list(Job.model_fields)


def test_tables_of_states_roles_and_entries_are_complete() -> None:
    assert list(tables_below(TEXT, "Settlement")[0]) == list(SettlementState)
    assert list(tables_below(TEXT, "Roles")[0]) == list(Role)
    entries = tables_below(TEXT, "An entry of the history")[1]
    assert set(entries) == {"created", *history._WHAT[1:]}
    assert set(tables_below(TEXT, "An event")[1]) == {
        *entries, "progress", "removed", "queue_paused", "queue_resumed",
    }  # fmt: skip


def test_the_table_of_errors_is_complete() -> None:
    assert {code: cells[:2] for code, cells in tables_below(TEXT, "Error codes")[0].items()} == {
        code: [_of(code), "yes" if refusal.retryable else "no"]
        for code, refusal in REFUSALS.items()
    }


def _of(code: str) -> str:
    if code in {"too_large", "draining", "session_evicted"}:
        return "both"
    return "message" if REFUSALS[code].refuses_message else "command"


def test_the_table_of_limits_is_complete() -> None:
    defaults = {**msgspec.structs.asdict(Limits()), "window": WINDOW}
    table = tables_below(TEXT, "Limits")[0]
    assert {name: int(cells[0].replace(",", "")) for name, cells in table.items()} == defaults


def test_commands_of_revision_1_keep_their_fields() -> None:
    for tag, fields in REVISION_1.items():
        assert set(fields.split()) <= set(COMMANDS[tag].__struct_fields__)


def test_the_table_of_bad_input_is_the_tested_one() -> None:
    answers = {name: cells[1] for name, cells in tables_below(TEXT, "Bad input")[0].items()}
    assert answers == {
        name: f"`{row.code}`" + ("" if row.limit is None else f", limit {row.limit:,}")
        for name, row in BAD.items()
    }


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
