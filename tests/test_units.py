"""The units in deploy/ leave the broker what it needs, and take from it what it does not."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tollgate.gateway.server import GRACE_S as GATEWAY_GRACE_S
from tollgate.masumi.command import GRACE_S, main
from tollgate.worker.settings import WorkerSettings

DEPLOY = Path(__file__).parent.parent / "deploy"
ANALYZE = shutil.which("systemd-analyze")
UNIT = DEPLOY / "tollgate.service"
WORKER = DEPLOY / "tollgate-worker@.service"
PAYMENTS = DEPLOY / "tollgate-payments.service"
GATEWAY = DEPLOY / "tollgate-gateway@.service"


def values(path: Path, name: str) -> list[str]:
    """Return what a setting is given, in order, as systemd reads it."""
    joined = path.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}=(.*)$", joined, re.MULTILINE)


def allowed(filters: list[str]) -> set[str]:
    """Return the calls and groups that are allowed when all the filters have been read."""
    found: set[str] = set()
    for each in filters:
        names = set(each.removeprefix("~").split())
        found = found - names if each.startswith("~") else found | names
    return found


def test_the_broker_sees_who_its_callers_are() -> None:
    # In a user namespace of its own, all uids but its own would be 65534.
    assert not set(values(UNIT, "PrivateUsers")) & {"yes", "true", "on", "1", "self", "identity"}


@pytest.mark.parametrize("call", ["setpriority", "prlimit64", "chown", "fchownat"])
def test_the_broker_may_make_the_calls_that_it_makes(call: str) -> None:
    filters = values(UNIT, "SystemCallFilter")
    forbidden = next(i for i, each in enumerate(filters) if each.startswith("~"))
    assert call in allowed(filters[forbidden:])  # named after its group was taken away
    assert "@resources" not in allowed(filters)


@pytest.mark.skipif(ANALYZE is None, reason="takes systemd")
@pytest.mark.parametrize(
    "name",
    [
        "tollgate.service",
        "tollgate-worker@.service",
        "tollgate-payments.service",
        "tollgate-gateway@.service",
    ],
)
def test_systemd_knows_all_that_a_unit_says(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / name).read_text()
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    unit = tmp_path / name.replace("@", "@1")
    unit.write_text(text)
    done = subprocess.run(
        [str(ANALYZE), "verify", unit], capture_output=True, text=True, check=False
    )
    assert "tollgate" not in done.stderr, done.stderr


def test_the_broker_is_kept_and_comes_back() -> None:
    for name in ("MemoryMax", "LimitNOFILE", "TasksMax", "WatchdogSec"):
        assert values(UNIT, name), name
    assert values(UNIT, "Restart") == ["always"]
    assert values(UNIT, "RestartPreventExitStatus") == ["2"]  # wrong usage; failures exit with 1
    assert values(UNIT, "MemorySwapMax") == ["0"]


def test_no_unit_decides_payments_by_simulation() -> None:
    for path in DEPLOY.iterdir():
        assert not re.search(r"^[^#].*simulat", path.read_text(), re.MULTILINE), path
    assert "decides no payment" in WORKER.read_text()


def test_a_watcher_comes_back_and_is_given_time_to_leave() -> None:
    assert values(PAYMENTS, "Restart") == ["always"]
    assert values(PAYMENTS, "RestartPreventExitStatus") == ["2"]  # wrong usage
    assert values(PAYMENTS, "StartLimitIntervalSec") == ["0"]
    (stop_s,) = map(float, values(PAYMENTS, "TimeoutStopSec"))
    assert stop_s > GRACE_S


def test_the_unit_gives_a_watcher_all_that_it_needs() -> None:
    told = {each.partition("=")[0] for each in values(PAYMENTS, "Environment")}
    (command,) = values(PAYMENTS, "ExecStart")
    needed = [each for each in main.params if each.required]
    assert needed
    for option in needed:
        assert option.envvar in told or option.opts[0] in command, option.name


def test_a_worker_that_leaves_is_started_again() -> None:
    assert values(WORKER, "Restart") == ["always"]  # 4 too: no slot is left
    assert values(WORKER, "RestartPreventExitStatus") == ["2"]  # wrong usage
    assert values(WORKER, "StartLimitIntervalSec") == ["0"]


def test_a_worker_has_its_grace_before_it_is_killed() -> None:
    (stop_s,) = map(float, values(WORKER, "TimeoutStopSec"))
    assert stop_s >= WorkerSettings.stop_grace_s + 5  # to store results, and release the rest
    assert values(WORKER, "KillMode") == ["mixed"]  # handlers in processes have the grace as well
    assert values(WORKER, "OOMPolicy") == ["continue"]


def test_gateways_share_a_port_and_come_back() -> None:
    (command,) = values(GATEWAY, "ExecStart")
    assert command.endswith("tollgate gateway /etc/tollgate/agent.toml --reuse-port")
    assert values(GATEWAY, "Restart") == ["always"]
    assert values(GATEWAY, "RestartPreventExitStatus") == ["2"]  # a wrong agent
    assert int(values(GATEWAY, "TimeoutStopSec")[0]) > GATEWAY_GRACE_S
