"""Handlers whose results differ from call to call: a hash of a result that was lost is foreign."""

import json
import os
import random
import time
import urllib.request
from typing import Final

from tests.settlement.audit import PURCHASER
from tollgate import Context, Job
from tollgate.domain.hashing import output_hash_as_deployed

SERVICE_URL: Final = "SETTLEMENT_SERVICE_URL"
SERVICE_TOKEN: Final = "SETTLEMENT_SERVICE_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variables for `early`."""


def answer(job: Job) -> str:
    time.sleep(random.uniform(0.0, 0.2))
    return f'{job.input}\n"{os.urandom(8).hex()}" \U0001f600 {os.getpid()}'


def early(job: Job, ctx: Context) -> str:
    """Do what must be found: submit the hash of a result before the broker has stored it.

    The first call then dies, and the second one has another result.
    """
    result = answer(job)
    if ctx.attempt == 1:
        _submit(job.blockchain_identifier, output_hash_as_deployed(PURCHASER, result))
        os._exit(3)
    return result


def _submit(identifier: str, result_hash: str) -> None:
    body = {
        "network": "Preprod",
        "blockchainIdentifier": identifier,
        "submitResultHash": result_hash,
    }
    request = urllib.request.Request(  # noqa: S310 - an address of this machine
        f"{os.environ[SERVICE_URL]}/payment/submit-result",
        json.dumps(body).encode(),
        {"token": os.environ[SERVICE_TOKEN], "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
