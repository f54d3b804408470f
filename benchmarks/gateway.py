"""`/status` of two gateway processes beside the masumi SDK's own server with its jobs in memory.

    python -m benchmarks.gateway [--seconds 5] [--rounds 5] [--sdk .venv-sdk]

Two processes on each side, 200 callers, 1,000 running jobs; the sides take turns in one run. It
needs wrk, a Debian package, and the SDK in a venv: `make masumi-sdk` makes `.venv-sdk`. The SDK's
processes share no jobs, so here each of them holds all.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from tests.brokers import running_broker
from tests.gateway.running import FREE, running_gateway
from tollgate import Client

JOBS = 1_000
CALLERS = 200
PATIENCE_S = 30.0
UNLIMITED = "\n[http]\nrequests_per_s = 1e9\nconcurrency = 1000\nconcurrency_per_address = 1000\n"
JOB_ID = "00000000-0000-4000-8000-%012d"
INPUT = '{"text":"%s"}' % ("a" * 500)
SCRIPT = f"""\
local n = 0
request = function()
  n = (n + 1) % {JOBS}
  return wrk.format("GET", string.format("/status?job_id={JOB_ID}", n))
end
"""
SDK_APP = f"""\
import json, logging
from masumi.config import Config
from masumi.server import MasumiAgentServer
logging.disable(logging.INFO)
async def work(identifier, data):
    return "never called"
server = MasumiAgentServer(
    Config(payment_service_url="http://127.0.0.1:1/api/v1", payment_api_key="none"),
    agent_identifier="a" * 60, start_job_handler=work, seller_vkey="none",
    input_schema_handler={{"input_data": [{{"id": "text", "type": "string", "name": "Text"}}]}},
)
app = server.get_app()
for number in range({JOBS}):
    job_id = {JOB_ID!r} % number
    server.job_manager.storage._jobs[job_id] = {{
        "job_id": job_id, "status": "running", "payment_id": "none", "result": None,
        "identifier_from_purchaser": "aa" * 8, "input_data": json.loads({INPUT!r}),
    }}
"""


@contextmanager
def gateways(directory: Path) -> Iterator[str]:
    """Run a broker with the jobs and two gateways; yield their address."""
    with ExitStack() as stack:
        broker = stack.enter_context(running_broker(directory, data_dir=directory / "data"))
        with Client(broker.endpoint) as client:
            batch = client.batch()
            for number in range(JOBS):
                job_id = JOB_ID % number
                batch.create(
                    input=INPUT, identifier_from_purchaser="aa" * 8, job_id=job_id, queue="echo"
                )
                batch.transition(job_id, "running")
            batch.send()
        agent = FREE + UNLIMITED
        first = stack.enter_context(
            running_gateway(directory, agent, broker.endpoint, "--reuse-port")
        )
        port = int(first.url.rpartition(":")[2])
        stack.enter_context(
            running_gateway(directory, agent, broker.endpoint, "--reuse-port", port=port)
        )
        yield first.url


@contextmanager
def sdk_server(directory: Path, python: Path, port: int) -> Iterator[str]:
    """Run the SDK's server in two processes; yield its address."""
    (directory / "sdk_app.py").write_text(SDK_APP)
    command = [
        str(python), "-m", "uvicorn", "sdk_app:app", "--workers", "2", "--port", str(port),
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=directory, env={**os.environ, "PYTHONPATH": "."})
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urlopen(f"{url}/availability", timeout=1).close()  # noqa: S310 - our own
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        time.sleep(1)  # the second process
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def load(url: str, script: Path, seconds: int) -> tuple[float, float]:
    """Return requests a second, and p99 in ms. Raises ValueError if an answer is no 200."""
    command = ["wrk", "-t1", f"-c{CALLERS}", f"-d{seconds}", "--latency", "-s", str(script), url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told:
        raise ValueError(told)
    rate = float(re.findall(r"Requests/sec:\s*([\d.]+)", told)[0])
    number, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", told)[0]
    return rate, float(number) * {"us": 0.001, "ms": 1.0, "s": 1_000.0}[unit]


def main() -> None:
    """Print each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sdk", type=Path, default=Path(".venv-sdk"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        script = directory / "status.lua"
        script.write_text(SCRIPT)
        with (
            gateways(directory) as ours,
            sdk_server(directory, chosen.sdk.absolute() / "bin/python", 18_643) as theirs,
        ):
            load(ours, script, 1)
            load(theirs, script, 1)
            rates, tails = [], []
            for _ in range(chosen.rounds):
                (rate, p99), (sdk_rate, sdk_p99) = (
                    load(url, script, chosen.seconds) for url in (ours, theirs)
                )
                rates.append(rate / sdk_rate)
                tails.append(p99 / sdk_p99)
                print(
                    f"gateway {rate:7,.0f}/s, p99 {p99:5.0f} ms    "
                    f"SDK {sdk_rate:7,.0f}/s, p99 {sdk_p99:5.0f} ms    ratio {rates[-1]:.2f}"
                )
    print(
        f"median of {len(rates)} pairs: {median(rates):.2f} times the requests a second,"
        f" {median(tails):.2f} times the p99"
    )


if __name__ == "__main__":
    main()
