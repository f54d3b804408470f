"""`tollgate metrics` as a process, in front of a real broker, and what it shows, parsed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S: Final = 30.0
Labels = dict[str, str]


class MetricsProcess:
    """An exporter that listens on a free port of 127.0.0.1, unless options say otherwise."""

    def __init__(self, directory: Path, endpoint: str, *options: str) -> None:
        self._stderr = directory / f"metrics.{time.monotonic_ns()}.err"
        command = [
            sys.executable, "-P", "-m", "tollgate.metrics", "--endpoint", endpoint,
            "--port", "0", "--log-format", "json", *options,
        ]  # fmt: skip
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stderr=stderr
            )

    def wait_until_ready(self) -> None:
        """Return when it listens. Raises AssertionError with its log if it ends or hangs."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for event in self.log():
                if event["event"] == "listening":
                    self.url = str(event["url"]).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
                    return
            time.sleep(0.01)
        raise AssertionError(f"the exporter is not ready: {self._stderr.read_text()}")

    def log(self) -> list[dict[str, Any]]:
        """Return its log so far."""
        lines = self._stderr.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S)

    def scrape(self) -> dict[str, Metric]:
        """Return the metrics of a scrape by name."""
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        return {family.name: family for family in text_string_to_metric_families(answer.text)}

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        return self.process.wait(PATIENCE_S)


@contextmanager
def running_metrics(directory: Path, endpoint: str, *options: str) -> Iterator[MetricsProcess]:
    """Run an exporter, and check how it leaves."""
    exporter = MetricsProcess(directory, endpoint, *options)
    try:
        exporter.wait_until_ready()
        yield exporter
        assert exporter.stop() == 0, exporter.log()
        assert not [event for event in exporter.log() if event["level"] != "info"]
    finally:
        if exporter.process.poll() is None:
            exporter.process.kill()
            exporter.process.wait(PATIENCE_S)


def values(family: Metric, **labels: str) -> list[float]:
    """Return the values of the samples that have these labels."""
    return [each.value for each in family.samples if labels.items() <= each.labels.items()]


def value(family: Metric, **labels: str) -> float:
    """Return the value of the one sample that has these labels."""
    (found,) = values(family, **labels)
    return found
