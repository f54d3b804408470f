"""A broker of revision 1: what it does not know is refused here, and everything else works."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tollgate.client import commands as build
from tollgate.client import revision, sending
from tollgate.client.errors import BatchError, BrokerUnreachableError, UnsupportedByBrokerError
from tollgate.domain.commands import Command, Count, Create, Events, Get, Hello, Hold, Touch
from tollgate.domain.exceptions import MalformedError
from tollgate.domain.messages import Request
from tollgate.domain.results import (
    AnyResult,
    CountResult,
    JobsResult,
    LeaseResult,
    LeasesResult,
    OkResult,
)

from .peers import (
    HASH,
    PATIENCE_S,
    SOON_S,
    ScriptedRouter,
    encode,
    greeting,
    hello_result,
    job_id,
    job_result,
    refused,
    reply,
)
from .talk import Talk

ID = job_id(1)
KNOWN: dict[str, set[str]] = {
    "hello": {"open_session"},
    "create": {
        "input_hash",
        "input",
        "identifier_from_purchaser",
        "job_id",
        "blockchain_identifier",
        "pay_by_time",
        "submit_result_time",
    },
    "get": {"job_id", "blockchain_identifier"},
    "transition": {
        "job_id",
        "target",
        "result",
        "error",
        "input_schema",
        "expected_version",
        "lease",
    },
    "provide_input": {"job_id", "input", "expected_version"},
    "cancel": {"job_id", "expected_version"},
    "count": {"status"},
    "list": {"status", "after", "limit"},
    "wait": {"job_ids", "timeout_ms", "statuses"},
    "claim": {"status", "lease_ms", "wait_ms", "limit"},
    "touch": {"job_id", "lease", "lease_ms"},
    "release": {"job_id", "lease"},
}
"""The commands and fields of revision 1, as docs/protocol.md had them."""
RESULTS: dict[str, Callable[[], AnyResult]] = {
    "hello": hello_result,
    "count": lambda: CountResult(0, {}, {}),
    "list": lambda: JobsResult([], None),
    "claim": lambda: LeasesResult([]),
    "touch": lambda: LeaseResult(ID, 1, 1),
    "release": OkResult,
}


def is_known(command: Command) -> bool:
    """Return whether a broker of revision 1 can decode what is sent of a command."""
    sent: dict[str, Any] = msgspec.msgpack.decode(encode(command))
    return sent.keys() <= KNOWN.get(sent["type"], set()) | {"type"}


def answer(request: Request) -> list[bytes]:
    """Answer as a broker of revision 1 does."""
    if not all(map(is_known, request.commands)):
        return [refused(request.seq, MalformedError("not a TG/1 request"))]
    tags = [str(command.__struct_config__.tag) for command in request.commands]
    return [reply(request.seq, *(RESULTS.get(tag, job_result)() for tag in tags))]


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    talk.session._name = lambda: "shop@host:1"
    return talk


def test_a_hello_has_the_name_of_the_client(talk: Talk) -> None:
    for opens in (False, True):
        assert talk.session.hello(open_session=opens) == Hello(
            open_session=opens, client="shop@host:1"
        )


@pytest.mark.parametrize("opens", [False, True])
def test_an_older_broker_is_greeted_without_a_name(talk: Talk, *, opens: bool) -> None:
    call = talk.session.submit_one(talk.session.hello(open_session=opens), deadline=talk.now + 10)
    (named,) = talk.requests()
    talk.hear(refused(named.seq, MalformedError("unknown field")))
    (plain,) = talk.requests()
    assert plain.commands == [Hello(open_session=opens)]
    assert plain.seq != named.seq
    talk.hear(reply(plain.seq, hello_result()))
    assert call.values == [hello_result()]
    assert talk.session.hello() == Hello()


def test_a_newer_broker_is_greeted_by_name_again(talk: Talk) -> None:
    talk.greet(greeting(revision=1))
    assert talk.session.hello() == Hello()
    talk.greet(greeting(revision=2))
    assert talk.session.hello() == Hello(client="shop@host:1")


def test_a_plain_hello_may_be_malformed(talk: Talk) -> None:
    call = talk.ask(Hello())
    (hello,) = talk.requests()
    talk.hear(refused(hello.seq, MalformedError("it hates us")))
    assert isinstance(call.values[0], MalformedError)


def test_a_session_is_opened_at_an_older_broker() -> None:
    talk = Talk(remembers=True)
    talk.session._name = lambda: "shop@host:1"
    call = talk.ask(build.cancel("a"))
    (named,) = talk.requests()
    talk.hear(refused(named.seq, MalformedError("unknown field")))
    (plain,) = talk.requests()
    talk.hear(reply(plain.seq, greeting(5, revision=1, time=None)))
    (cancel,) = talk.requests()
    assert (cancel.session, cancel.commands) == (5, [build.cancel("a")])
    talk.hear(reply(cancel.seq, job_result(1)))
    assert call.done


NEW: list[tuple[str, Callable[[Any], Any]]] = [
    ("`hold`:", lambda client: client.hold(ID)),
    ("`resume`:", lambda client: client.resume(ID)),
    ("`request_stop`:", lambda client: client.request_stop(ID)),
    ("`annotate`:", lambda client: client.annotate(ID, None)),
    ("`settle`:", lambda client: client.settle(ID)),
    ("`pause_queue`:", lambda client: client.pause_queue("a")),
    ("`resume_queue`:", lambda client: client.resume_queue("a")),
    ("`history`:", lambda client: client.history(ID)),
    ("`events`:", lambda client: client.events_page()),
    ("`stats`:", lambda client: client.stats()),
    ("`explain`:", lambda client: client.explain(ID)),
    ("`queue` of `create`:", lambda client: client.create(HASH, queue="a")),
    ("`priority` of `create`:", lambda client: client.create(HASH, priority=1)),
    ("`not_before` of `create`:", lambda client: client.create(HASH, not_before=2_000_000_000)),
    ("`not_before` of `create`:", lambda client: client.create(HASH, delay_s=1)),
    ("`meta` of `create`:", lambda client: client.create(HASH, meta="")),
    (
        "`traceparent` of `create`:",
        lambda client: client.create(HASH, traceparent=f"00-{'a' * 32}-{'b' * 16}-01"),
    ),
    ("`settle` of `create`:", lambda client: client.create(HASH, settle=True)),
    ("`lease` of `get`:", lambda client: client.get(ID, lease=True)),
    (
        "`keep_lease` of `transition`:",
        lambda client: client.transition(ID, "awaiting_input", lease=1, keep_lease=True),
    ),
    (
        "`force` of `transition`:",
        lambda client: client.transition(ID, "failed", expected_version=1, force=True),
    ),
    (
        "`input_hash` of `provide_input`:",
        lambda client: client.provide_input(ID, "x", expected_version=1, input_hash=HASH),
    ),
    ("`queue` of `count`:", lambda client: client.count(queue="a")),
    ("`settlement` of `count`:", lambda client: client.count(settlement="wanted")),
    ("`queue` of `list`:", lambda client: client.list_page(queue="a")),
    ("`settlement` of `list`:", lambda client: client.list_page(settlement="wanted")),
    ("`newest` of `list`:", lambda client: client.list_page(newest=True)),
    ("`lease` of `list`:", lambda client: client.list_page(lease=True)),
    ("`settlement` of `claim`:", lambda client: client.claim(settlement="wanted")),
    ("`queues` of `claim`:", lambda client: client.claim("running", queues="a")),
    ("`job_ids` of `claim`:", lambda client: client.claim("running", job_ids=ID)),
    ("`progress` of `touch`:", lambda client: client.touch(ID, 1, progress="half")),
    ("`delay_ms` of `release`:", lambda client: client.release(ID, 1, delay_s=0)),
    ("`reason` of `release`:", lambda client: client.release(ID, 1, reason="")),
    ("`hold` of `release`:", lambda client: client.release(ID, 1, hold=True)),
]
OLD: list[Callable[[Any], Any]] = [
    lambda client: client.ping(),
    lambda client: client.create(HASH, input="a", pay_by_time=2_000_000_000),
    lambda client: client.get(ID),
    lambda client: client.transition(ID, "failed", error="x", expected_version=1, lease=1),
    lambda client: client.transition(ID, "awaiting_input", input_schema="{}"),
    lambda client: client.provide_input(ID, "x", expected_version=1),
    lambda client: client.cancel(ID),
    lambda client: client.count("running"),
    lambda client: [*client.list("running")],
    lambda client: client.wait(ID, statuses="running"),
    lambda client: client.claim("running", wait_ms=1),
    lambda client: client.touch(ID, 1),
    lambda client: client.release(ID, 1),
    lambda client: client.create_many([HASH, {"input_hash": HASH}]),
]


def test_what_is_new_is_refused_and_not_sent(
    make_client: Callable[..., Any], endpoint: str
) -> None:
    with ScriptedRouter(endpoint, answer) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        sent = len(router.requests)
        for name, call in NEW:
            with pytest.raises(UnsupportedByBrokerError) as caught:
                call(client)
            assert f"this broker (test) does not know {name}" in str(caught.value)
            assert "it has revision 1 of the protocol" in str(caught.value)
        assert len(router.requests) == sent
        for old in OLD:
            old(client)
        assert all(map(is_known, router.commands()[1:]))


def test_what_came_with_revision_3_is_refused_by_its_number(talk: Talk) -> None:
    talk.greet(greeting(revision=2))
    (error,) = talk.ask(Events()).values
    assert "it has revision 2 of the protocol, `events` needs 3" in str(error)
    call = talk.ask(Count(queue="a"))
    assert [type(each) for request in talk.requests() for each in request.commands] == [Count]
    assert not call.done


def test_a_broker_of_revision_2_lacks_only_what_came_after(
    make_client: Callable[..., Any], endpoint: str
) -> None:
    def second(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, greeting(revision=2))]
        return [reply(request.seq, *(job_result(1) for _ in request.commands))]

    with ScriptedRouter(endpoint, second) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        assert client.hold(ID, reason="x").job_id == ID
        assert client.create(HASH, queue="a", priority=1).job_id == ID
        for name, call in (("stats", client.stats), ("explain", lambda: client.explain(ID))):
            with pytest.raises(UnsupportedByBrokerError) as caught:
                call()
            assert str(caught.value).endswith(
                f"`{name}`: it has revision 2 of the protocol, `{name}` needs 3"
            )
        client.ping()
        hellos = [each for each in router.commands() if isinstance(each, Hello)]
        assert all(hello.client for hello in hellos)
        assert {type(each) for each in router.commands()} == {Hello, Hold, Create}


def test_a_batch_sends_what_an_older_broker_knows(
    make_client: Callable[..., Any], endpoint: str
) -> None:
    with ScriptedRouter(endpoint, answer) as router:
        client = make_client(timeout_s=PATIENCE_S)
        batch = client.batch()
        batch.get(ID)
        batch.hold(ID)
        batch.touch(ID, 1)
        kinds = [type(value).__name__ for value in batch.send()]
        assert kinds == ["Job", "UnsupportedByBrokerError", "Touched"]
        assert [type(each) for each in router.requests[-1].commands] == [Get, Touch]
        with pytest.raises(BatchError) as caught:
            client.create_many([HASH, {"input_hash": HASH, "queue": "a"}])
        ((position, error),) = caught.value.failed
        assert position == 1
        assert isinstance(error, UnsupportedByBrokerError)


def test_a_newer_broker_in_its_place_is_noticed(
    make_client: Callable[..., Any], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "GREETINGS_APART_S", 0.0)

    def newer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, greeting())]
        return [reply(request.seq, *(job_result(1) for _ in request.commands))]

    client = make_client(timeout_s=PATIENCE_S)
    with ScriptedRouter(endpoint, answer), pytest.raises(UnsupportedByBrokerError):
        client.hold(ID)
    with pytest.raises(BrokerUnreachableError):
        client.get(ID, timeout_s=2 * SOON_S)  # by now it has seen that the connection is lost
    with ScriptedRouter(endpoint, newer) as router:
        client.get(ID)
        assert client.hold(ID).job_id == ID
        assert isinstance(router.commands()[0], Hello)


@pytest.mark.parametrize("of", Command.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_new_field_is_in_the_table(of: type[Command]) -> None:
    tag = str(of.__struct_config__.tag)
    if tag not in KNOWN:
        assert of in revision._COMMANDS
    else:
        assert {*of.__struct_fields__} - KNOWN[tag] == {*revision._FIELDS.get(of, ())}
