"""A broker that was frozen for longer than a lease does not hold that against the worker."""

import os
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import running_broker
from tollgate.broker.assembly import assemble
from tollgate.broker.clock import PAUSE_MS
from tollgate.broker.server import IDLE_MS
from tollgate.broker.settings import load_options
from tollgate.broker.telemetry import Counters, Notifier
from tollgate.broker.transport.binding import Binding
from tollgate.client.sync import Client
from tollgate.testing.clock import SteppedClock, SteppedTime

LEASE_MS = 1_000


@pytest.mark.parametrize("frozen_s", [1.1, 2.0])
def test_a_lease_outlives_a_frozen_broker(short_dir: Path, frozen_s: float) -> None:
    assert frozen_s * 1_000 > max(LEASE_MS, IDLE_MS + PAUSE_MS)
    with running_broker(short_dir) as broker, Client(broker.endpoint, timeout_s=30) as client:
        job = client.transition(client.create("0" * 64).job_id, "running")
        (lease,) = client.claim("running", lease_ms=LEASE_MS)
        time.sleep(0.05)  # the broker sleeps now, until the end of the lease at most
        os.kill(broker.process.pid, signal.SIGSTOP)
        time.sleep(frozen_s)  # it is the machine's clock that has to go on
        os.kill(broker.process.pid, signal.SIGCONT)
        done = client.transition(job.job_id, "completed", result="r", lease=lease.token)
        assert done.result == "r"


def test_a_lease_lapses_while_the_broker_runs(short_dir: Path) -> None:
    with running_broker(short_dir) as broker, Client(broker.endpoint, timeout_s=30) as client:
        client.transition(client.create("0" * 64).job_id, "running")
        client.claim("running", lease_ms=100)
        (again,) = client.claim("running", lease_ms=100, wait_ms=20_000)
        assert again.job.status == "running"


def test_leases_last_from_when_workers_can_connect(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = short_dir / "data"
    with (
        running_broker(short_dir, data_dir=data) as broker,
        Client(broker.endpoint, timeout_s=30) as client,
    ):
        client.transition(client.create("0" * 64).job_id, "running")
        client.claim("running", lease_ms=LEASE_MS)
    stepped = SteppedTime(datetime.now(UTC))
    clock = SteppedClock(stepped)
    open_routers = Binding.open_routers
    bound_ms: list[int] = []

    def opened_late(binding: Binding, *arguments: Any) -> Any:
        stepped.advance(10)
        bound_ms.append(clock.read().mono_ms)
        return open_routers(binding, *arguments)

    monkeypatch.setattr(Binding, "open_routers", opened_late)
    settings = load_options({"bind": [f"ipc://{short_dir}/next.sock"], "data_dir": data})
    stop_fd, other_end = os.pipe()
    with ExitStack() as stack:
        state = assemble(
            settings, 9, stack, stop_fd=lambda: stop_fd, counters=Counters(),
            notifier=Notifier({}), new_clock=lambda _: clock,
        ).state  # fmt: skip
        first_due = state.leases.timers.first_due() or 0
        assert bound_ms[0] + LEASE_MS <= first_due <= clock.read().mono_ms + LEASE_MS
    os.close(stop_fd)
    os.close(other_end)
