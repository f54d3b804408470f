"""Leases are touched in a thread of their own, and what the broker says about them is believed."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.script import (
    Said,
    Script,
    ScriptedClient,
    make_job,
    make_lease,
    until_true,
)
from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.results import Touched
from tollgate.client.sync import Client
from tollgate.domain.exceptions import (
    DrainingError,
    InternalError,
    JobNotFoundError,
    LeaseLostError,
    NotAuthorizedError,
    TollgateError,
)
from tollgate.domain.status import COMPLETED, RUNNING
from tollgate.worker import lease as lease_module
from tollgate.worker.held import HeldJob
from tollgate.worker.lease import LeaseKeeper, UnpaidLeases, answer_s
from tollgate.worker.outcome import Move

LOST = LeaseLostError("over")


class Listener:
    """Notes what it is told, as a runner would."""

    def __init__(self) -> None:
        self.lost: list[tuple[HeldJob, TollgateError]] = []
        self.stops: list[HeldJob] = []
        self.threads: set[str] = set()

    def lease_lost(self, held: HeldJob, token: int, reason: TollgateError) -> None:
        self.threads.add(threading.current_thread().name)
        self.lost.append((held, reason))

    def stop_was_requested(self, held: HeldJob) -> None:
        self.stops.append(held)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def keep(script: Script, listener: Listener) -> Iterator[Callable[..., LeaseKeeper]]:
    """Start a lease thread that touches every 5 ms."""
    keepers: list[LeaseKeeper] = []

    def begin(lease_ms: int = 15) -> LeaseKeeper:
        client: Any = ScriptedClient(script)
        keepers.append(LeaseKeeper(lambda _: client, lease_ms, listener))
        keepers[-1].start()
        return keepers[-1]

    yield begin
    for keeper in keepers:
        keeper.close()


class Stage:
    """The part of a stage that a held job needs here."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.progressed = keeper.wake


def hold(keeper: LeaseKeeper, number: int = 1, **fields: Any) -> HeldJob:
    stage: Any = Stage(keeper)
    held = HeldJob(make_lease(number, **fields), stage)
    keeper.hold(held)
    return held


def until_touched(script: Script, times: int) -> list[Said]:
    until_true(lambda: len(script.all("touch")) >= times)
    return script.all("touch")


def test_a_lease_is_touched_until_it_is_dropped(keep: Any, script: Script) -> None:
    keeper = keep()
    held = hold(keeper)
    touches = until_touched(script, 3)
    assert {(each.job, each.token, each.fields["lease_ms"]) for each in touches} == {(1, 101, 15)}
    keeper.drop(held)
    threading.Event().wait(0.02)  # one may be under way
    number = len(script.all("touch"))
    threading.Event().wait(0.05)
    assert len(script.all("touch")) == number


def test_a_drop_is_for_that_lease_alone(keep: Any) -> None:
    """The job came back in another lease: the end of the first one does not end the second."""
    keeper = keep()
    first, second = hold(keeper), hold(keeper, token=7)
    keeper.drop(first)
    assert keeper.holder(make_job().job_id) is second


def test_one_message_touches_all_leases(keep: Any, script: Script, listener: Listener) -> None:
    script.answers["touch"] = [Touched(stop_requested=False), LOST]
    keeper = keep(150)
    holds = [hold(keeper, number) for number in (1, 2, 3)]
    until_true(lambda: listener.lost)
    assert script.messages[0] == ["touch"] * 3
    assert listener.lost == [(holds[1], LOST)]
    assert listener.threads == {"tollgate leases"}


@pytest.mark.parametrize("reason", [LOST, JobNotFoundError("id")])
def test_a_lease_that_cannot_be_had_back_is_lost(
    keep: Any, script: Script, listener: Listener, reason: TollgateError
) -> None:
    script.answers["touch"] = [Touched(stop_requested=False), reason]
    held = hold(keep())
    until_true(lambda: listener.lost)
    assert listener.lost[0] == (held, reason)
    assert len(script.all("reclaim")) == isinstance(reason, LeaseLostError)


def test_a_lapsed_lease_is_claimed_again(
    keep: Any, script: Script, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [[make_lease(token=7)]]
    held = hold(keep())
    until_true(lambda: any(each.token == 7 for each in script.all("touch")))
    assert held.token == 7
    assert [each.target for each in script.all("reclaim")] == [RUNNING]
    assert not listener.lost
    assert "had lapsed, and was granted again" in caplog.text


def test_a_lease_of_a_job_that_moved_goes_back(
    keep: Any, script: Script, listener: Listener
) -> None:
    """Another worker asked a question meanwhile: this one's call is of the past."""
    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [[make_lease(token=7, version=4)]]
    held = hold(keep())
    until_true(lambda: listener.lost)
    assert [(each.job, each.token) for each in script.all("release")] == [(1, 7)]
    assert held.token == 101


def test_a_lease_of_a_job_settled_meanwhile_goes_back(
    keep: Any, script: Script, listener: Listener
) -> None:
    """Its outcome was taken while the claim was under way: nobody would work on a new lease."""
    keeper = keep()

    def settled() -> Any:
        keeper.drop(held)
        return [make_lease(token=7)]

    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [settled]
    held = hold(keeper)
    until_true(lambda: script.all("release"))
    assert [(each.job, each.token) for each in script.all("release")] == [(1, 7)]
    assert held.token == 101


def test_the_thread_goes_on_when_no_client_can_be_made(script: Script, listener: Listener) -> None:
    """The process may have too many files open for a moment."""
    faults = [OSError(24, "Too many open files")] * 2

    def make_client(_: float) -> Any:
        if faults:
            raise faults.pop()
        return ScriptedClient(script)

    keeper = LeaseKeeper(make_client, 15, listener)
    keeper.start()
    hold(keeper)
    until_touched(script, 2)
    keeper.close()


def test_a_fault_that_stays_does_not_keep_the_thread_busy(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No files are left, for example: each attempt writes a traceback into the log."""
    monkeypatch.setattr(lease_module, "AGAIN_S", 3_600.0)
    attempts: list[float] = []

    def no_client(timeout_s: float) -> Any:
        attempts.append(timeout_s)
        raise OSError("too many open files")

    keeper = LeaseKeeper(no_client, 15, listener)
    keeper.start()
    until_true(lambda: attempts)
    threading.Event().wait(0.05)
    assert len(attempts) == 1
    keeper.close()
    until_true(lambda: not keeper._thread.is_alive())  # type: ignore[union-attr]


def test_the_version_of_now_counts(keep: Any, script: Script, listener: Listener) -> None:
    """After an answer the job is further than when it was claimed."""
    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [[make_lease(token=7, version=4)]]
    keeper = keep(300)
    held = hold(keeper)
    held.version = 4
    until_true(lambda: held.token == 7)
    assert not listener.lost


@pytest.mark.parametrize(
    "fault",
    [OutcomeUnknown("no answer"), BrokerUnreachableError("nobody"), DrainingError("leaving")],
)
def test_a_claim_without_answer_is_made_again(
    keep: Any, script: Script, listener: Listener, fault: TollgateError
) -> None:
    script.answers["touch"] = [LOST, LOST]
    script.answers["reclaim"] = [fault, [make_lease(token=7)]]
    held = hold(keep())
    until_true(lambda: held.token == 7)
    assert not listener.lost


def test_a_claim_that_is_refused_loses_the_lease(
    keep: Any, script: Script, listener: Listener
) -> None:
    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [NotAuthorizedError("revoked")]
    hold(keep())
    until_true(lambda: listener.lost)


@pytest.mark.parametrize("what", ["is_over", "is_asking", "new token"])
def test_some_lost_leases_are_expected(
    keep: Any, script: Script, listener: Listener, what: str
) -> None:
    """Its own outcome ended it; it asks; the token is an old one."""
    keeper = keep(60)
    held = hold(keeper)

    def lost() -> Any:
        if what == "new token":
            held.token = 7
        raise LOST

    if what.startswith("is_"):
        setattr(held, what, True)
    script.answers["touch"] = [LOST] if what != "new token" else []
    script.answers["touches"] = [] if what != "new token" else [lost]
    until_touched(script, 3)
    assert not listener.lost
    assert not script.all("reclaim")


def test_a_job_that_ended_while_it_was_claimed_is_not_lost(
    keep: Any, script: Script, listener: Listener
) -> None:
    keeper = keep()

    def decided() -> list[Any]:
        held.is_over = True
        return []

    script.answers["touch"] = [LOST]
    script.answers["reclaim"] = [decided]
    held = hold(keeper)
    until_touched(script, 3)
    assert not listener.lost


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        (OutcomeUnknown("no answer"), logging.DEBUG),
        (DrainingError("leaving"), logging.DEBUG),
        (InternalError("oh"), logging.WARNING),
    ],
)
def test_a_touch_that_fails_is_followed_by_the_next(
    *,
    keep: Any,
    script: Script,
    listener: Listener,
    fault: TollgateError,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    script.answers["touch"] = [fault]
    hold(keep())
    until_touched(script, 3)
    assert not listener.lost
    assert [record.levelno for record in caplog.records if "touch" in record.message] == [level]


def test_a_silent_broker_loses_no_lease(keep: Any, script: Script, listener: Listener) -> None:
    script.answers["touches"] = [OutcomeUnknown("no answer"), BrokerUnreachableError("nobody")]
    hold(keep())
    until_touched(script, 4)
    assert not listener.lost


def test_a_fault_of_its_own_does_not_end_the_thread(
    keep: Any, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.answers["touches"] = [RuntimeError("a bug")]
    hold(keep())
    until_touched(script, 3)
    assert "the lease thread goes on after a fault of its own" in caplog.text


def test_a_touch_tells_of_a_requested_stop_once(
    keep: Any, script: Script, listener: Listener
) -> None:
    script.answers["touch"] = [Touched(stop_requested=True)] * 3
    keeper = keep(60)
    held = hold(keeper)
    until_true(lambda: listener.stops)
    held.stop_requested = True  # as the runner does in its loop
    until_touched(script, 4)
    assert listener.stops == [held]


# --- progress -------------------------------------------------------------------------------------


def test_progress_is_sent_at_once_and_then_once_a_second(
    keep: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "PROGRESS_S", 0.1)
    keeper = keep(3_600_000)  # no touch is due
    held, other = hold(keeper, 1), hold(keeper, 2)
    for number in range(5):
        held.set_progress(f"step {number}", number / 10)
    until_touched(script, 1)
    for number in range(5, 10):
        held.set_progress(f"step {number}", number / 10)
    touches = until_touched(script, 2)
    threading.Event().wait(0.15)
    assert script.all("touch") == touches[:2]
    assert {each.job for each in touches} == {1}
    last = touches[-1]
    assert (last.text, last.fields["fraction"]) == ("step 9", 0.9)
    assert not other.has_progress


def test_progress_goes_with_a_touch_that_is_due(keep: Any, script: Script) -> None:
    keeper = keep()
    held = hold(keeper)
    held.set_progress("half", 0.5)
    until_true(lambda: any(each.text == "half" for each in script.all("touch")))
    until_touched(script, 4)
    assert [each.text for each in script.all("touch") if each.text] == ["half"]


def test_progress_that_is_spaced_delays_no_touch(
    keep: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease may be shorter than the space between two reports."""
    monkeypatch.setattr(lease_module, "PROGRESS_S", 3_600.0)
    keeper = keep()
    held = hold(keeper)
    for text in ("one", "two"):
        held.set_progress(text, None)
        until_true(lambda: not held.has_progress)
    assert [each.text for each in script.all("touch") if each.text] == ["one", "two"]


@pytest.mark.parametrize("fails", ["touch", "touches"])
def test_progress_that_was_not_taken_is_sent_again(keep: Any, script: Script, fails: str) -> None:
    """Unless there is a newer one."""
    script.answers[fails] = [OutcomeUnknown("no answer")]
    keeper = keep()
    held = hold(keeper)
    held.set_progress("half", None)
    until_true(lambda: [each.text for each in script.all("touch")].count("half") == 2)
    until_touched(script, 5)
    assert [each.text for each in script.all("touch")].count("half") == 2


# --- the end --------------------------------------------------------------------------------------


def test_the_thread_ends(keep: Any, script: Script) -> None:
    keeper = keep()
    hold(keeper)
    until_touched(script, 1)
    keeper.close()
    until_true(lambda: not keeper._thread.is_alive())


def test_the_thread_ends_between_two_touches(keep: Any) -> None:
    keeper = keep(86_400_000)
    keeper.close()
    until_true(lambda: not keeper._thread.is_alive())


def test_the_thread_ends_while_the_broker_is_away(listener: Listener, short_dir: Path) -> None:
    endpoint = f"ipc://{short_dir}/nowhere"
    clients: list[Client] = []

    def make_client(_: float) -> Client:
        clients.append(Client(endpoint, timeout_s=3_600))
        return clients[-1]

    keeper = LeaseKeeper(make_client, 15, listener)
    keeper.start()
    held = hold(keeper)
    held.set_progress("it is being sent", None)
    until_true(lambda: clients and not held.has_progress)
    keeper.close()
    until_true(lambda: not keeper._thread.is_alive())  # type: ignore[union-attr]


def test_the_thread_ends_while_it_spaces_progress(
    keep: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "PROGRESS_S", 3_600.0)
    keeper = keep(86_400_000)
    held = hold(keeper)
    held.set_progress("first", None)
    until_touched(script, 1)
    held.set_progress("second", None)
    keeper.close()
    until_true(lambda: not keeper._thread.is_alive())


def test_all_leases_are_given_back_in_one_message(keep: Any, script: Script) -> None:
    keeper = keep(3_600_000)
    hold(keeper, 1)
    keeper.release_all({hold(keeper, 2): Move.completed("late")})
    assert script.messages == [["release", "transition"]]
    assert [each.short for each in script.all("release", "transition")] == [
        ("release", 1, None), ("transition", 2, COMPLETED),
    ]  # fmt: skip


def test_a_last_act_without_broker_is_quiet(keep: Any, script: Script) -> None:
    keeper = keep(3_600_000)
    keeper.release_all({})
    assert not script.messages
    hold(keeper)
    script.answers["release"] = [BrokerUnreachableError("nobody")]
    keeper.release_all({})


@pytest.mark.parametrize(("lease_ms", "answer"), [(100, 1.0), (9_000, 3.0), (86_400_000, 5.0)])
def test_answers_are_awaited_for_a_third_of_a_lease(lease_ms: int, answer: float) -> None:
    assert answer_s(lease_ms) == answer


def test_only_the_latest_unpaid_leases_are_remembered() -> None:
    leases = UnpaidLeases(2)
    for number, token in ((1, 11), (2, 12), (1, 21), (3, 13)):
        leases.add(make_lease(number, token))
    assert [token for _, token in leases.leases()] == [21, 13]
