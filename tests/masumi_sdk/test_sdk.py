"""The real SDK: what is used of it is there, and a sample of `python -m tests.masumi_sdk`.

It is skipped where the SDK is not installed: `make masumi-sdk` runs it.
"""

import asyncio
import inspect
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess
from tests.masumi_sdk import stand_in
from tests.masumi_sdk.audit import overlaps
from tests.masumi_sdk.harness import Web, environment_of_agent
from tests.masumi_sdk.jobs import PURCHASER, QUESTION, hash_of, new_job
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tests.sizes import sample
from tollgate import Client
from tollgate.masumi import TollgateJobStorage
from tollgate.masumi.sdk import fields
from tollgate.masumi.sdk.leases import STOPPED

pytestmark = pytest.mark.skipif(find_spec("masumi") is None, reason="the SDK is not installed")


@contextmanager
def without_warnings() -> Iterator[None]:
    """The SDK uses what its libraries advise against."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def sdk() -> Any:
    with without_warnings():
        return import_module("masumi")


def real(name: str) -> Any:
    with without_warnings():
        return import_module(f"masumi.{name}")


def test_it_is_the_release_that_the_storage_is_for(sdk: Any) -> None:
    assert version("masumi") == "1.2.0"


def test_a_storage_is_a_job_storage_of_the_sdk(sdk: Any) -> None:
    assert isinstance(TollgateJobStorage(), real("job_manager").JobStorage)


def test_the_storage_has_the_calls_of_the_sdk(sdk: Any) -> None:
    base = real("job_manager").JobStorage
    assert base.__abstractmethods__
    for name in base.__abstractmethods__:
        theirs = inspect.signature(getattr(base, name)).parameters
        assert list(inspect.signature(getattr(TollgateJobStorage, name)).parameters) == list(theirs)


@pytest.mark.parametrize(
    ("module", "owner", "names"),
    [
        (
            "job_manager", "JobManager",
            [
                "update_job_status", "set_job_completed", "set_job_failed",
                "set_job_awaiting_input", "resume_job_with_input", "get_payment_instance",
                "cleanup_payment_instance",
            ],
        ),
        ("endpoints", "EndpointHandler", ["get_start_job_handler", "get_provide_input_handler"]),
        ("hitl", "Hitl", ["request_input", "provide_input_to_job"]),
        (
            "payment", "Payment",
            ["start_status_monitoring", "stop_status_monitoring", "complete_payment"],
        ),
        ("server", "Sdk", ["_handle_payment_confirmed", "_execute_agent_job"]),
    ],
)  # fmt: skip
def test_the_stand_in_is_like_the_sdk(sdk: Any, module: str, owner: str, names: list[str]) -> None:
    where = real(module)
    theirs = {
        "EndpointHandler": "AgentEndpointHandler",
        "Hitl": "",
        "Sdk": "MasumiAgentServer",
    }.get(owner, owner)
    there = getattr(where, theirs) if theirs else where
    for name in names:
        ours = inspect.signature(getattr(getattr(stand_in, owner), name)).parameters
        parameters = [each for each in ours if theirs or each != "self"]
        assert parameters == list(inspect.signature(getattr(there, name)).parameters)
        is_async = inspect.iscoroutinefunction(getattr(there, name))
        assert inspect.iscoroutinefunction(getattr(getattr(stand_in, owner), name)) == is_async


def test_the_payment_takes_what_it_is_given(sdk: Any) -> None:
    theirs = inspect.signature(real("payment").Payment).parameters
    assert set(inspect.signature(stand_in.Payment).parameters) <= set(theirs)


def test_the_sdk_has_what_is_patched(sdk: Any) -> None:
    assert isinstance(real("hitl")._input_events, dict)
    assert isinstance(real("hitl")._input_data_store, dict)
    manager = real("job_manager").JobManager()
    assert manager._payment_instances == {}
    source = inspect.getsource(real("server"))
    assert "await self._handle_payment_confirmed(job_id, payment_id)" in source
    assert "self.handler.get_start_job_handler()" in source


def test_the_sdk_hashes_the_text_that_is_stored(sdk: Any) -> None:
    data = {"b": 1.0, "a": "ü", "c": [1e-7, 2**60, None]}
    theirs = real("helper_functions").create_masumi_input_hash(data, PURCHASER)
    assert theirs == hash_of(PURCHASER, data)
    columns = fields.columns_of(new_job()["job_id"], new_job(input_data=data), spare=fields.SPARE)
    assert columns["input"] == fields.canonical(data)


def test_the_sdk_writes_the_fields_that_are_known(sdk: Any) -> None:
    written: dict[str, Any] = {}

    class Storage(real("job_manager").InMemoryJobStorage):  # type: ignore[misc]
        async def create_job(self, job_id: str, job_data: dict[str, Any]) -> None:
            written.update(job_data)

    manager = real("job_manager").JobManager(Storage())
    asyncio.run(
        manager.create_job(
            identifier_from_purchaser=PURCHASER, input_data={}, payment=None,
            blockchain_identifier="b", pay_by_time=1, submit_result_time=2, unlock_time=3,
            external_dispute_unlock_time=4, agent_identifier="a", seller_vkey="v",
        )
    )  # fmt: skip
    assert tuple(written) == fields.FIELDS


def test_the_question_is_one_of_the_sdk(sdk: Any) -> None:
    real("validation").validate_input_data({"approve": True}, QUESTION)


@pytest.mark.slow
@pytest.mark.timeout(sample(240, 600))
@pytest.mark.parametrize("kills", [0, sample(4, 12)])
def test_all_jobs_end_whatever_is_killed(kills: int, short_dir: Path) -> None:
    jobs, asking = sample((12, 4), (40, 12))
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.masumi_sdk", "--jobs", str(jobs), "--asking", str(asking),
            "--kills", str(kills), "--keep", str(short_dir / "run"), "--seconds", "200",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=sample(230, 590),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{jobs} of {jobs} jobs completed and proved, {asking} of them" in done.stdout


@pytest.fixture
def site(broker: Callable[..., BrokerProcess], short_dir: Path) -> Iterator["Site"]:
    endpoint, service = broker().endpoint, PaymentService(cooldown_ms=0)
    with Server(service) as server, Client(endpoint) as client:
        yield Site(short_dir, service, server, client, endpoint)


class Site:
    """A payment service, a broker, and what an agent of the SDK needs to know of them."""

    def __init__(
        self, home: Path, service: PaymentService, server: Server, client: Client, broker: str
    ) -> None:
        self.home, self.service, self.client = home, service, client
        self.log = home / "handlers.log"
        self.log.touch()
        self.environment = environment_of_agent(self.log, server, broker)

    def hire(self, url: str, seconds: float) -> str:
        """Hire over HTTP, pay, and return the id of the job."""
        data = {"number": 1, "seconds": seconds}
        body = {"identifier_from_purchaser": PURCHASER, "input_data": data}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(httpx.TransportError):  # the server is starting
                answer = httpx.post(f"{url}/start_job", json=body, timeout=PATIENCE_S)
                assert answer.status_code == 200, answer.text
                told = answer.json()
                self.service.lock_funds(told["blockchainIdentifier"])
                return str(told["id"])
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_runs(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.log.read_text().count('"start"') < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_stops_of_uvicorn_do_not_fail_a_job(site: Site) -> None:
    web = Web(site.home, 1, site.environment)
    try:
        job_id = site.hire(web.url, seconds=2.0)
        for stops in range(6):  # the broker fails a job at the fifth lapse
            site.wait_for_runs(stops + 1)
            assert web.stop() in {0, -signal.SIGTERM}
            web.start()
        job = site.client.wait(job_id, timeout_s=PATIENCE_S)
    finally:
        web.end()
    assert job.status == "completed", job.error
    lines = [json.loads(line) for line in site.log.read_text().splitlines()]
    assert overlaps(lines) == []
    entries = site.client.history(job_id).entries
    assert STOPPED in {each.reason for each in entries if each.what == "released"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_agent_that_is_run_is_moved_too(site: Site) -> None:
    web = Web(site.home, 0, site.environment)
    try:
        job_id = site.hire(web.url, seconds=0.1)
        job = site.client.wait(job_id, timeout_s=2 * PATIENCE_S)  # the SDK asks every 10 s
        assert web.stop() in {0, -signal.SIGTERM}
    finally:
        web.end()
    assert (job.status, job.queue) == ("completed", "agent")
    assert job.settlement is not None
