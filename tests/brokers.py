"""Real brokers as processes, and raw DEALER sockets that send them any frames."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

Wire = dict[str, Any]
ROOT = Path(__file__).parents[1]
PATIENCE_S = 30.0
"""How long a test waits for an event that must happen. It is no limit on performance."""


class BrokerProcess:
    """A broker that listens on a socket in `directory`, in memory unless `data_dir` is given.

    It stops without its drain time of 250 ms, unless `drain_ms` is given: hundreds of brokers are
    stopped in one run, and few tests are about late requests.
    """

    def __init__(self, directory: Path, name: str = "b", **settings: Any) -> None:
        self.path = directory / f"{name}.sock"
        self.endpoint = f"ipc://{self.path}"
        if len(os.fsencode(self.path)) > zmq.IPC_PATH_MAX_LEN:
            raise ValueError(f"{self.path} is too long for a socket")
        self._directory = directory
        self._name = name
        self._settings = {"drain_ms": 0, **settings}
        self._tcp = "keys" in settings
        self._starts = 0
        self.checked = False
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._starts += 1
        self._stderr = self._directory / f"{self._name}.{self._starts}.err"
        command = [sys.executable, "-m", "tollgate.broker", "--bind", self.endpoint]
        if self._tcp:
            command += ["--bind", "tcp://127.0.0.1:*"]
        if "data_dir" not in self._settings:
            command.append("--in-memory")
        for option, value in self._settings.items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        with self._stderr.open("wb") as stderr:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=stderr)

    def wait_until_ready(self) -> None:
        """Return when it is ready. Raises AssertionError with its log if it ends or hangs."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if '"ready"' in self.stderr:
                return
            time.sleep(0.005)
        raise AssertionError(f"the broker is not ready: {self.stderr}")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def events(self) -> list[Wire]:
        """Return its log so far. Raises ValueError if a line is not JSON."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    @property
    def tcp(self) -> str:
        """Return its TCP endpoint. It has one if `keys` was given."""
        (ready,) = [event for event in self.events if event["event"] == "ready"]
        bound: list[str] = ready["bind"]
        return bound[-1]

    def kill(self) -> None:
        """Kill it with SIGKILL. Its exit is not checked then."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.checked = True

    def restart(self) -> None:
        """Wait until it has ended, and start it again on the same endpoint."""
        self.process.wait(PATIENCE_S)
        self.process = self._start()
        self.checked = False
        self.wait_until_ready()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> Wire:
        """Stop it with a signal, check how it left, and return its last log event."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        return self.check_left()

    def check_left(self) -> Wire:
        """Check that it ends with exit code 0 and logged no warning and no error."""
        self.checked = True
        exit_code = self.process.wait(PATIENCE_S)
        assert exit_code == 0, f"exit code {exit_code}: {self.stderr}"
        events = self.events
        unexpected = [
            event
            for event in events
            if event["level"] != "info" and "memory only" not in event["event"]
        ]
        assert not unexpected, unexpected
        assert events[-1]["event"] == "left"
        assert not self.path.exists()
        return events[-1]


@contextmanager
def running_broker(directory: Path, name: str = "b", **settings: Any) -> Iterator[BrokerProcess]:
    """Run a broker, and check at the end that it stops cleanly."""
    broker = BrokerProcess(directory, name, **settings)
    try:
        broker.wait_until_ready()
        yield broker
        if not broker.checked:
            broker.stop()
    finally:
        if broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait(PATIENCE_S)


class Peer:
    """A DEALER socket that sends any frames, valid or not."""

    def __init__(self, context: "zmq.Context[Any]", endpoint: str, **options: int | bytes) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(endpoint)
        self.seq = 0

    def close(self) -> None:
        self.socket.close(0)

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def send(self, *commands: Wire, **changes: Any) -> int:
        """Send a request, and return its `seq`."""
        self.seq += 1
        request = {
            "v": 1,
            "session": 0,
            "seq": self.seq,
            "acked": 0,
            "commands": list(commands),
            **changes,
        }
        self.send_frames(msgspec.msgpack.encode(request))
        return self.seq

    def receive(self, timeout_s: float = PATIENCE_S) -> Wire:
        """Return the next answer as plain dicts and lists."""
        if not self.socket.poll(int(timeout_s * 1_000)):
            raise AssertionError("no answer")
        answer: Wire = msgspec.msgpack.decode(self.socket.recv())
        return answer

    def ask(self, *commands: Wire, **changes: Any) -> list[Wire]:
        """Send a request, and return its results."""
        seq = self.send(*commands, **changes)
        answer = self.receive()
        assert answer["seq"] == seq
        assert answer["type"] == "reply", answer
        results: list[Wire] = answer["results"]
        return results

    def one(self, command: Wire, **changes: Any) -> Wire:
        """Send one command, and return its result."""
        return self.ask(command, **changes)[0]

    def is_silent(self, for_s: float = 0.2) -> bool:
        """Return whether no frame arrives for a while."""
        return not self.socket.poll(int(for_s * 1_000))
