"""The program as it runs, beside a payment that no program should read."""

import asyncio
import sys
from pathlib import Path

from tests.masumi.conftest import Town


async def test_the_program_outlives_an_odd_payment(town: Town, tmp_path: Path) -> None:
    job, odd = await town.hire(), town.service.create()["blockchainIdentifier"]
    town.service.payments[odd].submit_by = 10**400
    town.service.lock_funds(job.blockchain_identifier)
    token = tmp_path / "token"
    token.write_text(town.server.token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "tollgate.masumi", "--endpoint", town.broker.endpoint,
        "--service-url", town.server.url.replace("http://", "http://user:hunter2@"),
        "--service-token-file", str(token), "--network", "Preprod",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await town.client.wait(job.job_id, statuses=["running"], timeout_s=30)
        process.terminate()
        async with asyncio.timeout(30):
            text = (await process.communicate())[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert "cannot be read" in text
    assert town.server.url in text
    assert "hunter2" not in text
