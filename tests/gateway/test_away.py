"""What callers are told while the broker is away, and after that."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.brokers import running_broker
from tests.gateway.running import FREE, running_gateway

HIRE = {"input_data": {"text": "a"}, "identifier_from_purchaser": "away"}


def test_broker_away_is_503_and_nothing_is_lost(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        running_broker(tmp_path, data_dir=data) as broker,
        running_gateway(tmp_path, FREE, broker.endpoint) as gateway,
    ):
        job_id = gateway.post("/start_job", HIRE).json()["id"]
        broker.kill()
        given = {"job_id": job_id, "status_id": "x", "input_data": {}}
        asked = (
            partial(gateway.get, "/availability"),
            partial(gateway.get, "/status", job_id=job_id),
            partial(gateway.post, "/start_job", HIRE),
            partial(gateway.post, "/provide_input", given),
        )
        with ThreadPoolExecutor(len(asked)) as pool:  # each waits for the broker as long as it may
            answers = [*pool.map(lambda ask: ask(), asked)]
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]) == (503, "broker_away")
            assert int(answer.headers["retry-after"]) > 0
        assert gateway.get("/input_schema").status_code == 200
        broker.restart()
        assert gateway.get("/availability").status_code == 200
        assert gateway.get("/status", job_id=job_id).json()["status"] == "running"
        assert gateway.post("/start_job", HIRE).json()["id"] == job_id


def test_gateway_starts_before_its_broker(tmp_path: Path) -> None:
    with running_gateway(tmp_path, FREE, f"ipc://{tmp_path}/b.sock") as gateway:
        assert gateway.get("/availability").status_code == 503
        with running_broker(tmp_path):
            assert gateway.get("/availability").status_code == 200


def test_full_broker_is_503(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, jobs=1) as broker,
        running_gateway(tmp_path, FREE, broker.endpoint) as gateway,
    ):
        assert gateway.post("/start_job", HIRE).status_code == 200
        answer = gateway.post("/start_job", {"input_data": {"text": "b"}})
        assert (answer.status_code, answer.json()["error"]) == (503, "full")
        assert answer.headers["retry-after"] == "30"
