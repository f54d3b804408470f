"""Settings of a worker that cannot be used are refused when it is made, by their names."""

from typing import Any

import pytest

import tollgate
from tollgate.worker.settings import WorkerSettings, checked


def answer(job: tollgate.Job) -> str:
    return "done"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0), ("concurrency", 1.0), ("concurrency", True), ("max_attempts", 0),
        ("lease_ms", 99), ("jobs", 0), ("recycle_jobs", 0), ("recycle_memory_mb", -1),
        ("timeout_s", 0), ("timeout_s", -1.0), ("timeout_s", float("nan")), ("timeout_s", "5"),
        ("stop_grace_s", -1), ("wait_for_broker_s", 0), ("on_exhausted", "keep"),
        ("isolation", "fork"), ("backoff_s", []), ("backoff_s", [1, -1]), ("backoff_s", "1,2"),
        ("queues", ()), ("queues", ("*", "a")), ("name", "a name"), ("only", "payments"),
        ("seed", 3), ("never_share", 0.5), ("pay_delay_ms_max", 7),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(name: str, value: Any) -> None:
    with pytest.raises(tollgate.ArgumentError, match=name):
        tollgate.Worker(answer, **{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"stop_grace_s": 0}, {"backoff_s": (0, 1.5)}, {"backoff_s": 0}, {"timeout_s": 0.001},
        {"queues": "one"}, {"simulate_payments": True, "seed": 3, "only": "payments"},
    ],
)  # fmt: skip
def test_the_least_and_the_plain_are_taken(given: dict[str, Any]) -> None:
    tollgate.Worker(answer, **given)


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("handler", [None, 3, tollgate.Job, lambda: "done"])
def test_what_can_be_no_handler_is_refused(handler: Any, isolation: Any) -> None:
    with pytest.raises(tollgate.ArgumentError, match=r"handler: .* (is not|is a class|cannot be)"):
        tollgate.Worker(handler, isolation=isolation)


def test_recycling_is_for_processes() -> None:
    with pytest.raises(tollgate.ArgumentError, match="isolation='process'"):
        tollgate.Worker(answer, recycle_jobs=1)
    settings = WorkerSettings(endpoint="ipc:///b", isolation="process", recycle_jobs=1)
    assert checked(settings) is settings


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="'workers'"):
        tollgate.Worker(answer, workers=3)
