"""The container files are valid by their own standards, and say what the documentation promises.

No container engine is needed: a schema checks the one, a linter the other.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from ruamel.yaml import YAML

from tollgate.gateway.server import GRACE_S as GATEWAY_GRACE_S
from tollgate.masumi.command import GRACE_S, main
from tollgate.worker.settings import WorkerSettings

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
SERVICES = YAML(typ="safe").load(COMPOSE.read_text())["services"]


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    return run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def check_dockerfile(path: Path) -> subprocess.CompletedProcess[str]:
    return run("hadolint", "--no-color", path)


def test_the_compose_file_follows_the_compose_specification() -> None:
    outcome = check_compose(COMPOSE)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("mem_limit: 4g", "memory_limit: 4g"),
        ("replicas: 2", "replicas: [2]"),
        ("condition: service_healthy", "condition: service_happy"),
        ("read_only: true", "read_only: [yes]"),
    ],
)
def test_a_wrong_compose_file_is_found_out(tmp_path: Path, right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace(right, wrong))
    assert check_compose(broken).returncode == 1


def test_the_dockerfile_has_no_complaints() -> None:
    outcome = check_dockerfile(DOCKERFILE)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("FROM python:3.13-slim-bookworm AS build", "FROM python AS build", "DL3006"),
        ("USER 10001", "USER root", "DL3002"),
        ("WORKDIR /source", "WORKDIR source", "DL3000"),
        ('CMD ["tollgate", "broker"', 'CMD tollgate "broker"', "DL3025"),
    ],
)
def test_a_wrong_dockerfile_is_found_out(tmp_path: Path, right: str, wrong: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    assert right in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(right, wrong))
    outcome = check_dockerfile(broken)
    assert outcome.returncode == 1
    assert rule in outcome.stdout


def test_the_image_copies_all_that_the_wheel_is_built_from(tmp_path: Path) -> None:
    *_, allowed = (ROOT / ".dockerignore").read_text().partition("\n*\n")
    context = {line.removeprefix("!") for line in allowed.splitlines() if line.startswith("!")}
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in (source.rstrip("/") for source in sources):
                assert source in context
                copy = tmp_path / target.rstrip("/")
                if copy.name != Path(source).name:  # a target that is a directory to copy into
                    copy /= Path(source).name
                copy.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, copy, symlinks=True)
                else:
                    shutil.copy(ROOT / source, copy)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheel"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").iterdir()
    with ZipFile(wheel) as archive:
        assert {"tollgate/worker/__main__.py", "tollgate/demo/inputs.jsonl"} <= {
            *archive.namelist()
        }


@pytest.mark.parametrize("name", ["broker", "worker", "payments", "gateway"])
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["memswap_limit"] == service["mem_limit"]  # nothing is swapped out
    assert service["ulimits"]["nofile"]["hard"] >= service["ulimits"]["nofile"]["soft"]
    assert service["restart"] == "unless-stopped"


def test_no_container_decides_payments_by_simulation() -> None:
    for path in (COMPOSE, DOCKERFILE):
        assert "--simulate" not in path.read_text()
    assert SERVICES["worker"]["command"] == ["tollgate", "worker"]
    assert "decide no payment" in COMPOSE.read_text()


def test_a_worker_has_its_grace_before_it_is_killed() -> None:
    stop_s = float(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert stop_s >= WorkerSettings.stop_grace_s + 5  # to store results, and release the rest
    assert WorkerSettings.stop_grace_s < 10  # what engines give a container that says nothing


def test_worker_and_broker_meet_at_one_socket() -> None:
    broker, worker = SERVICES["broker"], SERVICES["worker"]
    endpoint = "ipc:///run/tollgate/broker.sock"
    assert broker["command"] == ["tollgate", "broker", "--bind", endpoint]
    assert worker["environment"]["TOLLGATE_ENDPOINT"] == endpoint
    assert worker["depends_on"] == {"broker": {"condition": "service_healthy"}}
    assert broker["healthcheck"]["test"] == ["CMD", "tollgate", "ping"]
    assert broker["volumes"] == ["run:/run/tollgate"]
    assert worker["volumes"] == ["run:/run/tollgate:ro"]
    assert f"TOLLGATE_ENDPOINT={endpoint}" in DOCKERFILE.read_text()


def test_the_watcher_has_all_that_it_needs() -> None:
    service = SERVICES["payments"]
    given = set(service["environment"])
    needed = [each for each in main.params if each.required]
    assert needed
    for option in needed:
        assert option.envvar in given or option.opts[0] in service["command"], option.name
    assert service["profiles"] == ["payments"]  # only where it is asked for
    assert service["network_mode"] != "none"
    assert float(service["stop_grace_period"].removesuffix("s")) > GRACE_S
    assert "httpx==" in (ROOT / "requirements/runtime.txt").read_text()


def test_the_gateway_can_be_reached_on_this_machine_alone() -> None:
    service = SERVICES["gateway"]
    assert service["profiles"] == ["gateway"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["command"][-4:] == ["--host", "0.0.0.0", "--port", "8000"]  # noqa: S104
    assert float(service["stop_grace_period"].removesuffix("s")) > GATEWAY_GRACE_S
    for needed in ("uvicorn==", "uvloop==", "httptools==", "starlette=="):
        assert needed in (ROOT / "requirements/runtime.txt").read_text()


def test_the_image_copies_files_that_exist() -> None:
    admitted = set((ROOT / ".dockerignore").read_text().splitlines())
    lines = DOCKERFILE.read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    sources = [source.rstrip("/") for copied in copies for source in copied]
    assert "pyproject.toml" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in admitted, source
