"""`tollgate metrics` as a process, in front of a real broker, and what it shows, parsed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.serving import PATIENCE_S, ServingProcess

Labels = dict[str, str]


class MetricsProcess(ServingProcess):
    """An exporter that listens on a free port of 127.0.0.1, unless options say otherwise."""

    def __init__(self, directory: Path, endpoint: str, *options: str) -> None:
        super().__init__(
            directory, "tollgate.metrics", "--endpoint", endpoint, "--port", "0", *options
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S)

    def scrape(self) -> dict[str, Metric]:
        """Return the metrics of a scrape by name."""
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        return {family.name: family for family in text_string_to_metric_families(answer.text)}


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
        exporter.kill()


def values(family: Metric, **labels: str) -> list[float]:
    """Return the values of the samples that have these labels."""
    return [each.value for each in family.samples if labels.items() <= each.labels.items()]


def value(family: Metric, **labels: str) -> float:
    """Return the value of the one sample that has these labels."""
    (found,) = values(family, **labels)
    return found
