"""Arguments of other types are converted, or refused with an error that names the argument."""

import asyncio
import enum
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from tollgate.client import aio, commands, rows, sync, waits
from tollgate.client.arguments import seconds
from tollgate.client.connection import Connection
from tollgate.domain.commands import Create
from tollgate.domain.exceptions import ArgumentError, MalformedError, TollgateError
from tollgate.domain.messages import encode_command
from tollgate.domain.status import JobStatus

from .peers import HASH

# Wrong types on purpose: a type checker would find them.
calls: Any = commands
SlicedWait: Any = waits.SlicedWait
creates: Any = rows.creates
Client: Any = sync.Client
AsyncClient: Any = aio.AsyncClient

ID = uuid.UUID("3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34")
NOWHERE = "ipc:///nonexistent/socket"
DUE = datetime(2030, 1, 1, tzinfo=UTC)
DUE_S = 1_893_456_000
INTERNALS = re.compile(r"\$|`str|got `|msgspec|attribute|unsupported|positional|object is not|null")


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Stamp(datetime):
    """Its arithmetic gives the subclass again, as pandas.Timestamp's does."""


class NotATime(datetime):
    @property
    def year(self) -> int:
        return float("nan")  # type: ignore[return-value]


class Word(enum.Enum):
    RUNNING = "running"
    ID = str(ID)


class Named(str, enum.Enum):  # noqa: UP042 - its str() and hash() are not those of the value
    RUNNING = "running"
    TEXT = "a text"


class Settling(enum.Enum):
    WANTED = "wanted"


class Level(enum.IntEnum):
    THREE = 3


class Index:
    """An integer that is no `int`, as numpy's are."""

    def __index__(self) -> int:
        return 7


NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - what users pass by mistake
NAIVE_STAMP = Stamp(2030, 1, 1)


class Clash:
    """A value that refuses to be compared, as arrays and missing values of other libraries do."""

    def __eq__(self, _: object) -> NoReturn:
        raise TypeError

    __hash__ = None  # type: ignore[assignment]


class Unshowable:
    def __repr__(self) -> NoReturn:
        raise RuntimeError


@pytest.mark.parametrize(
    ("made", "plain"),
    [
        (lambda: calls.get(Text("a")), lambda: calls.get("a")),
        (lambda: calls.get(ID), lambda: calls.get(str(ID))),
        (lambda: calls.get(Word.ID), lambda: calls.get(str(ID))),
        (lambda: calls.get(None, Text("b")), lambda: calls.get(None, "b")),
        (lambda: calls.transition(ID, Word.RUNNING), lambda: calls.transition(str(ID), "running")),
        (
            lambda: calls.transition("a", Named.RUNNING),
            lambda: calls.transition("a", JobStatus.RUNNING),
        ),
        (
            lambda: calls.transition("a", Text("completed"), result=Named.TEXT, lease=Index()),
            lambda: calls.transition("a", "completed", result="a text", lease=7),
        ),
        (
            lambda: calls.transition(
                "a", "failed", error=Text("größer"), expected_version=Whole(2)
            ),
            lambda: calls.transition("a", "failed", error="größer", expected_version=2),
        ),
        (
            lambda: calls.transition("a", "awaiting_input", input_schema=Text("{}")),
            lambda: calls.transition("a", "awaiting_input", input_schema="{}"),
        ),
        (
            lambda: calls.provide_input(ID, Text("x"), Level.THREE),
            lambda: calls.provide_input(str(ID), "x", 3),
        ),
        (lambda: calls.cancel(ID, Index()), lambda: calls.cancel(str(ID), 7)),
        (lambda: calls.count(Named.RUNNING), lambda: calls.count("running")),
        (
            lambda: calls.list_page(None, Text("12"), Whole(5)),
            lambda: calls.list_page(None, "12", 5),
        ),
        (
            lambda: calls.claim(
                Word.RUNNING, lease_ms=Index(), wait_ms=Whole(1), limit=Level.THREE
            ),
            lambda: calls.claim("running", lease_ms=7, wait_ms=1, limit=3),
        ),
        (lambda: calls.touch(ID, Whole(7), Index()), lambda: calls.touch(str(ID), 7, 7)),
        (lambda: calls.release(Text("a"), Index()), lambda: calls.release("a", 7)),
        (
            lambda: calls.release("a", 7, delay_s=timedelta(milliseconds=1_500), reason=Text("x")),
            lambda: calls.release("a", 7, delay_s=1.5, reason="x"),
        ),
        (
            lambda: calls.touch("a", 7, progress=Named.TEXT, fraction=Whole(1)),
            lambda: calls.touch("a", 7, progress="a text", fraction=1.0),
        ),
        (
            lambda: calls.claim("running", queues=Text("a")),
            lambda: calls.claim("running", queues=["a"]),
        ),
        (
            lambda: calls.claim("running", queues=iter([Text("a"), "b"]), limit=Index()),
            lambda: calls.claim("running", queues=["a", "b"], limit=7),
        ),
        (
            lambda: calls.claim("running", job_ids={ID}),
            lambda: calls.claim("running", job_ids=[str(ID)], limit=1),
        ),
        (
            lambda: calls.claim(settlement=Settling.WANTED),
            lambda: calls.claim(settlement="wanted", queues=None),
        ),
        (
            lambda: calls.settle(ID, to=Text("manual"), lease=Index(), retry_after_s=timedelta(1)),
            lambda: calls.settle(str(ID), to="manual", lease=7, retry_after_s=86_400),
        ),
        (
            lambda: calls.create(HASH, job_id=ID, queue=Text("a"), priority=Level.THREE),
            lambda: calls.create(HASH, job_id=str(ID), queue="a", priority=3),
        ),
        (
            lambda: calls.create(HASH, job_id=ID, meta=Named.TEXT, not_before=DUE_S),
            lambda: calls.create(HASH, job_id=str(ID), meta="a text", not_before=DUE),
        ),
        (lambda: calls.annotate(ID, Text("a")), lambda: calls.annotate(str(ID), "a")),
        (lambda: calls.hold(ID, reason=Text("a")), lambda: calls.hold(str(ID), reason="a")),
        (lambda: calls.pause_queue(Text("a")), lambda: calls.pause_queue("a")),
        (
            lambda: SlicedWait([ID, Text("b"), "c"], [Word.RUNNING], None, 1).slice(0)[0],
            lambda: SlicedWait([str(ID), "b", "c"], ["running"], None, 1).slice(0)[0],
        ),
        (
            lambda: SlicedWait(ID, Named.RUNNING, None, 1).slice(0)[0],
            lambda: SlicedWait(str(ID), "running", None, 1).slice(0)[0],
        ),
        (
            lambda: SlicedWait({"a"}, ("running",), None, 1).slice(0)[0],
            lambda: SlicedWait("a", ["running"], None, 1).slice(0)[0],
        ),
        (
            lambda: calls.create(Text(HASH), job_id=ID, input=Named.TEXT),
            lambda: calls.create(HASH, job_id=str(ID), input="a text"),
        ),
        (
            lambda: calls.create(
                input=Text('{"a":1}'), identifier_from_purchaser=Text("ab"), job_id=Text(ID)
            ),
            lambda: calls.create(input='{"a":1}', identifier_from_purchaser="ab", job_id=str(ID)),
        ),
        (
            lambda: calls.create(input="x", identifier_from_purchaser=ID, job_id=ID),
            lambda: calls.create(input="x", identifier_from_purchaser=str(ID), job_id=str(ID)),
        ),
    ],
)
def test_other_types_make_the_same_command(made: Any, plain: Any) -> None:
    assert made() == plain()
    assert encode_command(made()) == encode_command(plain())


class Odd(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=5, minutes=30)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("given", "time"),
    [
        (Stamp(2030, 1, 1, tzinfo=UTC), DUE),
        (Stamp(2030, 1, 1, 5, 30, tzinfo=Odd()), DUE),
        (Stamp(2030, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), DUE),
        (DUE_S, DUE),
        (Whole(DUE_S), DUE),
        (DUE_S * 1_000 + 250, DUE + timedelta(milliseconds=250)),
        (1_000_000_000, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        (100_000_000_000, datetime(5138, 11, 16, 9, 46, 40, tzinfo=UTC)),
        (100_000_000_001, datetime(1973, 3, 3, 9, 46, 40, 1_000, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("name", ["pay_by_time", "submit_result_time", "not_before"])
def test_times_in_other_forms(name: str, given: Any, time: datetime) -> None:
    command = calls.create(HASH, **{name: given})
    assert getattr(command, name) == time
    assert type(getattr(command, name)) is datetime
    assert encode_command(command)
    (row,) = creates([{"input_hash": HASH, name: given}])
    assert isinstance(row, Create)
    assert getattr(row, name) == time


WRONG: list[tuple[str, str, Callable[[], object]]] = [
    ("get: job_id", "bytes", lambda: calls.get(b"a")),
    ("get: job_id", "int", lambda: calls.get(7)),
    ("get: job_id", "str", lambda: calls.get("")),
    ("get: job_id", "Unshowable", lambda: calls.get(Unshowable())),
    ("get: blockchain_identifier", "str ''", lambda: calls.get(None, "")),
    ("create: job_id", "UUID", lambda: calls.create(HASH, job_id="")),
    ("create: job_id", "int", lambda: calls.create(HASH, job_id=7)),
    ("create: input", "dict", lambda: calls.create(input={"a": 1})),
    ("create: input", "bytes", lambda: calls.create(input=b"x")),
    ("create: input", "Path", lambda: calls.create(input=Path("x"))),
    ("create: input", "int", lambda: calls.create(HASH, input=7)),
    ("create: input_hash", "bytes", lambda: calls.create(b"x")),
    (
        "create: identifier_from_purchaser",
        "str ''",
        lambda: calls.create(input="x", identifier_from_purchaser=""),
    ),
    (
        "create: identifier_from_purchaser",
        "int 7",
        lambda: calls.create(input="x", identifier_from_purchaser=7),
    ),
    (
        "create: identifier_from_purchaser",
        "str 'a",
        lambda: calls.create(HASH, identifier_from_purchaser="a\0"),
    ),
    ("create: pay_by_time", "datetime", lambda: calls.create(HASH, pay_by_time=NAIVE)),
    ("create: pay_by_time", "Stamp", lambda: calls.create(HASH, pay_by_time=NAIVE_STAMP)),
    (
        "create: pay_by_time",
        "NotATime",
        lambda: calls.create(HASH, pay_by_time=NotATime(2030, 1, 1, tzinfo=UTC)),
    ),
    ("create: pay_by_time", "date", lambda: calls.create(HASH, pay_by_time=date(2030, 1, 1))),
    ("create: pay_by_time", "str", lambda: calls.create(HASH, pay_by_time="2030-01-01T00:00:00Z")),
    ("create: pay_by_time", "float", lambda: calls.create(HASH, pay_by_time=1.9e9)),
    ("create: pay_by_time", "bool", lambda: calls.create(HASH, pay_by_time=True)),
    ("create: pay_by_time", "int 600", lambda: calls.create(HASH, pay_by_time=600)),
    ("create: pay_by_time", "int -1", lambda: calls.create(HASH, pay_by_time=-1)),
    ("create: pay_by_time", "int", lambda: calls.create(HASH, pay_by_time=DUE_S * 1_000_000)),
    ("create: pay_by_time", "int", lambda: calls.create(HASH, pay_by_time=10**400)),
    (
        "create: submit_result_time",
        "timedelta",
        lambda: calls.create(HASH, submit_result_time=timedelta(1)),
    ),
    ("transition: result", "dict", lambda: calls.transition("a", "completed", result={})),
    (
        "transition: expected_version",
        "bool",
        lambda: calls.transition("a", "running", expected_version=True),
    ),
    (
        "transition: expected_version",
        "int 0",
        lambda: calls.transition("a", "running", expected_version=0),
    ),
    ("transition: lease", "str", lambda: calls.transition("a", "running", lease="7")),
    ("provide_input: input", "None", lambda: calls.provide_input("a", None, 1)),
    ("provide_input: expected_version", "float", lambda: calls.provide_input("a", "x", 1.0)),
    ("touch: lease_ms", "int", lambda: calls.touch("a", 1, 86_400_001)),
    ("claim: limit", "int 1001", lambda: calls.claim("running", limit=1_001)),
    ("claim: wait_ms", "float", lambda: calls.claim("running", wait_ms=0.5)),
    ("list: after", "str 'yesterday'", lambda: calls.list_page(None, "yesterday")),
    ("create: queue", "int 7", lambda: calls.create(HASH, queue=7)),
    ("create: priority", "bool", lambda: calls.create(HASH, priority=True)),
    ("create: priority", "str '3'", lambda: calls.create(HASH, priority="3")),
    ("create: not_before", "str", lambda: calls.create(HASH, not_before="tomorrow")),
    ("create: delay_s", "str '5'", lambda: calls.create(HASH, delay_s="5")),
    ("create: delay_s", "bool", lambda: calls.create(HASH, delay_s=True)),
    ("create: delay_s", "int", lambda: calls.create(HASH, delay_s=10**400)),
    ("create: meta", "dict", lambda: calls.create(HASH, meta={})),
    ("create: settle", "int 1", lambda: calls.create(HASH, settle=1, queue="a")),
    ("create: traceparent", "str '00'", lambda: calls.create(HASH, traceparent="00")),
    ("create: pay_by_time", "Clash", lambda: calls.create(HASH, pay_by_time=Clash())),
    ("get: lease", "int 7", lambda: calls.get("a", lease=7)),
    ("list: lease", "str", lambda: calls.list_page(lease="yes")),
    ("list: newest", "int", lambda: calls.list_page(newest=1)),
    ("list: queue", "list", lambda: calls.list_page(queue=["a"])),
    ("transition: keep_lease", "int", lambda: calls.transition("a", "running", keep_lease=1)),
    ("transition: force", "str", lambda: calls.transition("a", "running", force="no")),
    ("claim: queues", "int", lambda: calls.claim("running", queues=7)),
    ("claim: queues", "bytes", lambda: calls.claim("running", queues=b"a")),
    ("claim: queues", "list ['a b']", lambda: calls.claim("running", queues="a b")),
    ("claim: job_ids", "list", lambda: calls.claim("running", job_ids=["a" * 65])),
    ("touch: progress", "None", lambda: calls.touch("a", 1, fraction=0.5)),
    ("touch: progress", "int", lambda: calls.touch("a", 1, progress=50)),
    ("touch: fraction", "float 1.5", lambda: calls.touch("a", 1, progress="x", fraction=1.5)),
    ("touch: fraction", "str", lambda: calls.touch("a", 1, progress="x", fraction="1/2")),
    ("release: delay_s", "float -1.0", lambda: calls.release("a", 1, delay_s=-1.0)),
    ("release: hold", "int 1", lambda: calls.release("a", 1, hold=1)),
    ("release: reason", "bytes", lambda: calls.release("a", 1, reason=b"x")),
    ("settle: retry_after_s", "str", lambda: calls.settle("a", retry_after_s="1")),
    ("settle: on_chain_state", "str ''", lambda: calls.settle("a", on_chain_state="")),
    ("annotate: meta", "dict", lambda: calls.annotate("a", {})),
    ("pause_queue: queue", "None", lambda: calls.pause_queue(None)),
    ("history: job_id", "int", lambda: calls.history(7)),
    ("explain: job_id", "int", lambda: calls.explain(7)),
    ("stats: queue", "int", lambda: calls.stats(7)),
    ("hold: reason", "int", lambda: calls.hold("a", reason=7)),
    ("wait: job_ids", "int", lambda: SlicedWait(7, None, None, 1)),
    ("wait: job_ids", "bytes", lambda: SlicedWait(b"a", None, None, 1)),
    ("wait: job_ids", "None", lambda: SlicedWait([None], None, None, 1)),
    ("wait: job_ids", "list", lambda: SlicedWait([], None, None, 1)),
    ("wait: job_ids", "list", lambda: SlicedWait(["a"] * 1_001, None, None, 1)),
    ("wait: statuses", "int", lambda: SlicedWait("a", 7, None, 1)),
    ("create_many: jobs", "str", lambda: creates("text")),
    ("create_many: jobs", "dict", lambda: creates({"input": "x"})),
    ("create_many: jobs", "int", lambda: creates(7)),
    ("timeout_s", "str '5'", lambda: Client(NOWHERE, timeout_s="5")),
    ("timeout_s", "None", lambda: AsyncClient(NOWHERE, timeout_s=None)),
    ("timeout_s", "float nan", lambda: seconds(float("nan"))),
    ("timeout_s", "bool", lambda: seconds(True)),
    ("endpoint", "''", lambda: Client("")),
    ("endpoint", "7", lambda: Client(7)),
    ("key", "b'k'", lambda: Client(NOWHERE, key=b"k")),
    ("key", "''", lambda: Client(NOWHERE, key="")),
    ("spin_us", "'x'", lambda: Client(NOWHERE, spin_us="x")),
    ("spin_us", "nan", lambda: Client(NOWHERE, spin_us=float("nan"))),
]


@pytest.mark.parametrize(("name", "kind", "call"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_argument_is_named(name: str, kind: str, call: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    message = str(caught.value)
    assert re.match(f"{name} (must be|is no)", message)
    assert kind in message
    assert not INTERNALS.search(message)
    assert len(message) < 300


CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.ping(timeout_s="5"),
    lambda client: client.create(HASH, timeout_s=float("nan")),
    lambda client: client.wait(7),
    lambda client: client.wait("a", timeout_s="5"),
    lambda client: client.claim("running", wait_ms="5"),
    lambda client: client.claim("running", timeout_s=[]),
    lambda client: client.create_many("text"),
    lambda client: client.create_many(7),
    lambda client: client.create_many([HASH], on_progress=7),
    lambda client: client.create_many([HASH], message_commands="7"),
    lambda client: client.create_many([HASH], timeout_s="7"),
    lambda client: client.batch(message_commands=1.5),
]


@pytest.mark.parametrize("call", CALLS)
def test_the_client_refuses_before_it_connects(call: Callable[[Any], Any]) -> None:
    with Client(NOWHERE, timeout_s=0) as client, pytest.raises(ArgumentError):
        call(client)

    async def same() -> None:
        async with AsyncClient(NOWHERE, timeout_s=0) as client:
            await call(client)

    with pytest.raises(ArgumentError):
        asyncio.run(same())


@pytest.mark.parametrize(
    "row", [7, None, b"x", ["input"], {"inputs": "x"}, {7: 8}, Unshowable()], ids=range(7)
)
def test_a_row_of_another_kind_says_what_it_may_be(row: Any) -> None:
    (refusal,) = creates([row])
    assert isinstance(refusal, ArgumentError)
    assert "create_many: a job must be a" in str(refusal)
    assert not INTERNALS.search(str(refusal))


@pytest.mark.parametrize(
    "fields",
    [
        {"input_hash": 7},
        {"input_hash": HASH, "pay_by_time": "tomorrow"},
        {"input_hash": HASH, "submit_result_time": DUE_S},
    ],
)
def test_a_create_made_by_hand_says_what_is_wrong(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|must be a datetime") as caught:
        Create(**fields)
    assert not INTERNALS.search(str(caught.value))


def test_timeouts_may_be_of_any_type_of_number() -> None:
    assert [seconds(each) for each in (5, 5.0, Whole(5), timedelta(seconds=5))] == [5.0] * 4
    assert seconds(float("inf")) == seconds(10**400) == seconds(timedelta.max) == 365 * 86_400
    assert type(seconds(Whole(5))) is float


def test_an_endpoint_may_be_a_path() -> None:
    assert Connection(Path("/run/b.sock")).endpoint == "ipc:///run/b.sock"
    assert Connection(Path("b.sock")).endpoint == f"ipc://{Path.cwd()}/b.sock"
    assert type(Connection(Text(NOWHERE)).endpoint) is str


def test_an_argument_error_is_of_all_useful_classes() -> None:
    for kind in (TollgateError, MalformedError, ValueError):
        assert issubclass(ArgumentError, kind)
    assert ArgumentError("x").code == "malformed"
    assert msgspec.structs.fields(Create)[0].name == "input_hash"
