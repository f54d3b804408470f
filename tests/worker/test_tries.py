"""A job whose handler ends the whole worker is not called for ever."""

from datetime import UTC, datetime

import pytest

from tests.worker.house import PATIENCE_S, House
from tollgate.client.sync import Client
from tollgate.domain.models import JobStatus
from tollgate.domain.results import HistoryEntry
from tollgate.worker.tries import last_try

HANDLERS = """
import os, pathlib, signal

def poison(job):
    with pathlib.Path(job.job_id).open("a") as calls:
        calls.write("call ")
    if not pathlib.Path("healed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "healed"
"""


@pytest.mark.slow
@pytest.mark.parametrize("on_exhausted", ["fail", "hold"])
def test_a_poisonous_job_ends_after_its_tries(house: House, on_exhausted: str) -> None:
    (house.folder / "poisoned.py").write_text(HANDLERS)
    house.broker()
    options = ("--handler", "poisoned:poison", "--lease-ms", "100", "--max-attempts", "2")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = client.create("0" * 64)
        client.transition(job.job_id, JobStatus.RUNNING)
        for _ in range(2):
            house.worker(*options).wait(PATIENCE_S)
        house.worker(*options, "--on-exhausted", on_exhausted, "--name", "last")
        why = "try 2 ended without a result: the lease of "
        if on_exhausted == "hold":
            house.until(lambda: client.get(job.job_id).on_hold)
            reason = client.history(job.job_id).entries[-1].reason
            assert reason is not None
            assert reason.startswith(why)
            (house.folder / "healed").touch()
            client.resume(job.job_id)  # one more try
            assert client.wait(job.job_id, timeout_s=PATIENCE_S).result == "healed"
        else:
            ended = client.wait(job.job_id, timeout_s=PATIENCE_S)
            assert ended.status == "failed"
            assert ended.error is not None
            assert ended.error.startswith(why)
    calls = (house.folder / job.job_id).read_text()
    assert calls == "call " * (3 if on_exhausted == "hold" else 2)


def entry(what: str, attempt: int | None = None, reason: str | None = None) -> HistoryEntry:
    return HistoryEntry(datetime(2026, 1, 1, tzinfo=UTC), what, attempt=attempt, reason=reason)


def test_the_last_try_is_found_in_the_history() -> None:
    lapsed = entry("lapsed", 2, "uid:0 worker-7")
    assert "worker-7" in (last_try([entry("created"), lapsed, entry("claimed", 3)]) or "")
    assert last_try([lapsed, entry("held"), entry("resumed"), entry("claimed", 3)]) is None
    assert last_try([lapsed, entry("resumed"), entry("released", 3, "no luck")]) == "no luck"
    assert last_try([entry("released")]) is None  # a plain release is no try
    assert last_try([entry("lapsed")]) is None  # nor is a lapse while a human was asked
