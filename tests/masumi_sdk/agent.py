"""An agent of the real SDK: `uvicorn tests.masumi_sdk.agent:app`, or run as a program.

Its handler writes each step to a log, so that the run can see whether two ran at once.
"""

import asyncio
import json
import os
import time
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tests.masumi_sdk.jobs import QUESTION
from tollgate.masumi import TollgateJobStorage, resume, run

QUEUE: Final = "agent"
STEP_S: Final = 0.05
LEASE_MS: Final = 2_000
SCHEMA: Final[dict[str, Any]] = {"input_data": []}

masumi: Any = import_module("masumi")
hitl: Any = import_module("masumi.hitl")
payment: Any = import_module("masumi.payment")
payment.Payment.start_status_monitoring.__defaults__ = (None, 1)  # ask each second, not each 10 s
LOG: Final = Path(os.environ["AGENT_LOG"])


def note(run: str, job: str, what: str) -> None:
    """Append a line in one write: several processes share the file."""
    line = {"run": run, "job": job, "pid": os.getpid(), "at": time.monotonic(), "what": what}
    with LOG.open("ab", buffering=0) as log:
        log.write(json.dumps(line).encode() + b"\n")


async def work(identifier_from_purchaser: str, input_data: dict[str, Any]) -> str:
    """Work for a while, ask if told to, and return a result that no other run returns."""
    run, job = uuid.uuid4().hex[:8], str(input_data["number"])
    note(run, job, "start")
    await _steps(run, job, input_data["seconds"], blocks=input_data.get("blocks", False))
    answers = []
    for number in range(input_data.get("questions", 0)):
        answer = await hitl.request_input(QUESTION, f"question {number}")
        answers.append(answer["approve"])
        note(run, job, "answered")
        await _steps(run, job, input_data["seconds"], blocks=False)
    note(run, job, "end")
    return f'result of {job} with {answers} by "{run}"\n'


async def _steps(run: str, job: str, seconds: float, *, blocks: bool) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if blocks:
            time.sleep(STEP_S)  # noqa: ASYNC251 - as agents do that know no better
        else:
            await asyncio.sleep(STEP_S)
        note(run, job, "step")


def storage() -> TollgateJobStorage:
    """Return a new storage, for the broker that TOLLGATE_ENDPOINT names."""
    return TollgateJobStorage(queue=QUEUE)


def make() -> Any:
    """Return the app, as the guide says."""
    config = masumi.Config(
        payment_service_url=os.environ["PAYMENT_SERVICE_URL"],
        payment_api_key=os.environ["PAYMENT_API_KEY"],
    )
    app = masumi.create_masumi_app(config, start_job_handler=work, input_schema_handler=SCHEMA)
    resume(app, storage(), lease_ms=LEASE_MS, poll_s=0.3, payment_poll_s=1, proof_poll_s=1.0)
    return app


if __name__ == "__main__":
    run(work, SCHEMA, host="127.0.0.1", job_storage=storage())
else:
    app = make()
