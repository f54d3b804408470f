"""Programs of ours that serve HTTP, as processes: they listen on a free port of 127.0.0.1."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 30.0
"""How long a test waits for what must happen. It is no limit on performance."""


class ServingProcess:
    """A program that serves HTTP, started in `directory` with JSON as its log."""

    def __init__(self, directory: Path, module: str, *options: str) -> None:
        self.directory = directory
        self._module = module
        self._stderr = directory / f"{module}.{time.monotonic_ns()}.err"
        command = [sys.executable, "-P", "-m", module, *options, "--log-format", "json"]
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
        raise AssertionError(f"{self._module} is not ready: {self._stderr.read_text()}")

    def log(self) -> list[dict[str, Any]]:
        """Return its log so far."""
        lines = self._stderr.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kill(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        return self.process.wait(PATIENCE_S)
