"""Prometheus and its promtool judge what `tollgate metrics` shows, and the rules for alerts."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import PATIENCE_S, BrokerProcess, running_broker
from tests.metrics.running import MetricsProcess, running_metrics
from tollgate.client.sync import Client
from tollgate.domain.exceptions import TollgateError

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".prometheus" / "usr" / "bin"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=UNPACKED)
PROMETHEUS = shutil.which("prometheus") or shutil.which("prometheus", path=UNPACKED)
RULES = ROOT / "deploy" / "prometheus-rules.yml"
RULE_TESTS = Path(__file__).with_name("prometheus-rules.test.yml")
GUIDE = ROOT / "docs" / "guides" / "operations.md"
METRIC = re.compile(r"\btollgate_\w+")
ALERT = re.compile(r"\balert: (\w+)")
HASH = "0123456789abcdef" * 4
TOKEN = "correct-horse-battery"  # noqa: S105 - of these tests alone
EVERYWHERE = "0.0.0.0"  # noqa: S104 - it needs a token
PROMTOOL_S = 120
"""promtool steps through days, minute by minute: seconds of a core, which others may need."""
QUERY_S = 5
"""The window of rates in queries: a few scrapes."""

pytestmark = pytest.mark.timeout(150)
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None or PROMETHEUS is None,
    reason="prometheus is not installed: run make .prometheus/.installed",
)


def promtool(*arguments: object, given: str = "") -> None:
    """Run promtool. Raises AssertionError with what it says against its input."""
    shown = subprocess.run(
        [str(PROMTOOL), *map(str, arguments)],
        input=given, capture_output=True, text=True, timeout=PROMTOOL_S, check=False,
    )  # fmt: skip
    # `check metrics` exits with 0 when it has only advice.
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stdout + shown.stderr


@pytest.fixture(scope="module")
def rule_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of the rules in a directory with the rules: promtool looks for them there."""
    directory = tmp_path_factory.mktemp("rules")
    shutil.copy(RULES, directory)
    return Path(shutil.copy(RULE_TESTS, directory))


@needs_promtool
def test_rules_are_valid() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
def test_alerts_fire_when_they_must(rule_tests: Path) -> None:
    promtool("test", "rules", rule_tests)


@needs_promtool
def test_every_alert_has_a_test(rule_tests: Path, tmp_path: Path) -> None:
    """Without expressions all alerts are silent: promtool must miss each of them."""
    silent = re.sub(
        r"\n {8}expr:[^\n]*(?:\n {10}[^\n]*)*", "\n        expr: vector(0) > 1", RULES.read_text()
    )
    (tmp_path / RULES.name).write_text(silent)
    with pytest.raises(AssertionError) as failed:
        promtool("test", "rules", shutil.copy(rule_tests, tmp_path))
    assert {*ALERT.findall(silent)} <= {*re.findall(r"alertname: (\w+), time", str(failed.value))}


def test_the_guide_lists_every_alert() -> None:
    assert re.findall(r"^\| `(Tollgate\w+)`", GUIDE.read_text(), re.MULTILINE) == ALERT.findall(
        RULES.read_text()
    )


class Load:
    """Creates jobs of two queues and completes those of one, until the block ends."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        with Client(self._endpoint, name="load") as client:
            while not self._ends.wait(0.01):
                with suppress(TollgateError):  # the broker is away, for a while
                    self._round(client)

    def _round(self, client: Client) -> None:
        for queue in ("mail", "unserved"):
            client.transition(client.create(HASH, queue=queue).job_id, "running")
        for lease in client.claim("running", queues="mail", limit=10):
            client.transition(lease.job.job_id, "completed", lease=lease.token, result="done")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("b")
    with running_broker(directory, data_dir=directory / "data") as broker, Load(broker.endpoint):
        yield broker


@needs_promtool
def test_metrics_have_names_and_types_as_they_should(broker: BrokerProcess, tmp_path: Path) -> None:
    with running_metrics(tmp_path, broker.endpoint) as exporter:
        shown = exporter.get("/metrics").text
    assert 'tollgate_commands_total{command="create"}' in shown
    promtool("check", "metrics", given=shown)


class PrometheusProcess:
    """A Prometheus with the rules of deploy/, which scrapes once a second."""

    def __init__(self, directory: Path, targets: list[dict[str, Any]]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        config = {  # JSON is YAML, too
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": targets,
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))
        command = [
            str(PROMETHEUS), "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb",
            f"--web.listen-address={address}", "--log.level=warn",
        ]  # fmt: skip
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stderr=log)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=PATIENCE_S)
        answer.raise_for_status()
        return answer.json()["data"]

    def query(self, query: str) -> dict[str, float]:
        """Return the values of a query by instance."""
        found = self.ask("query", query=query)["result"]
        return {each["metric"].get("instance", ""): float(each["value"][1]) for each in found}

    def wait_for(self, query: str, is_right: Callable[[dict[str, float]], bool]) -> None:
        """Return when the values of a query are right."""
        deadline = time.monotonic() + PATIENCE_S
        found: dict[str, float] = {}
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):  # it starts: no connection yet, or 503
                found = self.query(query)
                if is_right(found):
                    return
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"{query}: {found}; {self._log.read_text()}")


@contextmanager
def running_prometheus(
    directory: Path, targets: list[dict[str, Any]]
) -> Iterator[PrometheusProcess]:
    prometheus = PrometheusProcess(directory, targets)
    try:
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(PATIENCE_S)


def target(job: str, exporter: MetricsProcess, token_file: Path | None = None) -> dict[str, Any]:
    """Return the part of a configuration that scrapes an exporter, as `job`."""
    address = exporter.url.partition("//")[2]
    config: dict[str, Any] = {"job_name": job, "static_configs": [{"targets": [address]}]}
    if token_file is not None:
        config["authorization"] = {"credentials_file": str(token_file)}
    return config


@needs_promtool
def test_prometheus_scrapes_and_answers(broker: BrokerProcess, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.token", tmp_path / "wrong.token"
    right.write_text(f"{TOKEN}\n")
    wrong.write_text(f"{TOKEN}x")
    guarded = ("--host", EVERYWHERE, "--token-file", str(right))
    with (
        running_metrics(tmp_path, broker.endpoint) as plain,
        running_metrics(tmp_path, broker.endpoint, *guarded) as behind_token,
        running_prometheus(
            tmp_path,
            [target("tollgate", plain), target("with-token", behind_token, right),
             target("wrong-token", behind_token, wrong), target("no-token", behind_token)],
        ) as prometheus,
    ):  # fmt: skip
        prometheus.wait_for("count(up)", lambda count: count == {"": 4})
        prometheus.wait_for('up{job=~"tollgate|with-token"}', lambda up: [*up.values()] == [1, 1])
        assert prometheus.query('sum(up{job=~"wrong-token|no-token"})') == {"": 0}
        for each in prometheus.ask("targets")["activeTargets"]:
            if each["labels"]["job"] in {"wrong-token", "no-token"}:
                assert "401" in each["lastError"]

        names = {*prometheus.ask("label/__name__/values")}
        shown = {sample.name for each in plain.scrape().values() for sample in each.samples}
        assert shown - names == set()
        assert {*METRIC.findall(RULES.read_text())} - names == set()

        for histogram in ("loop_step_seconds", "journal_sync_seconds", "batch_messages",
                          "job_status_seconds", "time_to_claim_seconds"):  # fmt: skip
            rates = f"sum by (instance, le) (rate(tollgate_{histogram}_bucket[{QUERY_S}s]))"
            prometheus.wait_for(
                f"histogram_quantile(0.9, {rates}) > 0", lambda found: len(found) == 2
            )
        prometheus.wait_for(
            f'rate(tollgate_commands_total{{command="create"}}[{QUERY_S}s]) > 0',
            lambda found: len(found) == 2,
        )
        prometheus.wait_for("tollgate:commands:rate_5m > 0", lambda found: len(found) == 2)
        # Jobs of one queue are worked on, those of the other are not.
        prometheus.wait_for('ALERTS{alertname="TollgateNoWorker",queue="unserved"}', bool)
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}

        broker.kill()
        prometheus.wait_for('ALERTS{alertname="TollgateAway"}', bool)
        broker.restart()
        prometheus.wait_for(
            "changes(tollgate_start_time_seconds[5m])", lambda found: [*found.values()] == [1, 1]
        )
        prometheus.wait_for('1 - up{job="tollgate"}', lambda away: [*away.values()] == [0])
