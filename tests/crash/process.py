"""Broker processes on one data directory, and an archive of all segments that they write."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tollgate.broker.journal.format import listing, segment_name

START_S: Final = 60.0


class Broker:
    """A broker process with its log in a file."""

    def __init__(
        self, home: Path, name: str, options: Sequence[str] = (), before: Sequence[str] = ()
    ) -> None:
        self.errors = home / f"{name}.err"
        self.url = f"ipc://{home}/b.sock"
        command = [
            *before, sys.executable, "-m", "tollgate.broker",
            "--data-dir", str(home / "data"), "--bind", self.url, *options,
        ]  # fmt: skip
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stderr=errors)

    def wait_until_ready(self) -> None:
        """Return when it is ready. Raises AssertionError if it ends or hangs."""
        end = time.monotonic() + START_S
        while b'"ready"' not in self.errors.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the broker did not start: {self.log()}")
            time.sleep(0.01)

    def log(self) -> str:
        return self.errors.read_text(errors="replace")

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Stop it with SIGTERM, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Archive:
    """Hard-links each segment as soon as it appears, so that compaction does not delete it."""

    def __init__(self, data: Path, directory: Path) -> None:
        self.directory = directory
        self._data = data
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.excess_bytes_max = -(2**63)
        """Largest excess of disk usage over two snapshots and three segments."""
        self._snapshots: set[str] = set()

    def __enter__(self) -> Self:
        self.directory.mkdir()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()
        self.collect()

    @property
    def snapshots(self) -> int:
        """How many snapshots appeared."""
        return len(self._snapshots)

    def deleted(self) -> int:
        """How many segments compaction has deleted."""
        return len(_names(self.directory)) - len(listing(_names(self._data)).segments)

    def _measure(self) -> None:
        sizes: dict[str, int] = {}
        for name in _names(self._data):
            with suppress(FileNotFoundError):
                sizes[name] = (self._data / name).stat().st_blocks * 512
        whole = [name for name in sizes if name.startswith("snapshot-") and "tmp" not in name]
        self._snapshots.update(whole)
        snapshot = max((size for name, size in sizes.items() if "snapshot-" in name), default=0)
        segment = max((size for name, size in sizes.items() if "segment-" in name), default=0)
        excess = sum(sizes.values()) - 2 * snapshot - 3 * segment
        self.excess_bytes_max = max(self.excess_bytes_max, excess)

    def collect(self) -> None:
        if not self._data.exists():
            return
        for number in listing(_names(self._data)).segments:
            name = segment_name(number)
            if not (self.directory / name).exists():
                try:
                    os.link(self._data / name, self.directory / name)
                except FileNotFoundError:
                    raise AssertionError(f"{name} was deleted before it was seen") from None

    def _run(self) -> None:
        while not self._left.wait(0.02):
            self.collect()
            if self._data.exists():
                self._measure()


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]
