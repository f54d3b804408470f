"""Opens the gate for jobs that are paid. Run as many as you like, and kill them when you like.

The ledger stands for your payment service. It is a file with a JSON document a line:
{"payment": "the blockchain_identifier of a job", "state": "paid"}, or "refused".
"""

import argparse
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import tollgate

log = logging.getLogger("watcher")


def read(ledger: Path) -> dict[str, str]:
    """Return the state of each payment; the last line about a payment counts."""
    if not ledger.exists():
        return {}
    lines = map(json.loads, ledger.read_text().splitlines())
    return {line["payment"]: line["state"] for line in lines}


def look(client: tollgate.Client, payments: Mapping[str, str]) -> None:
    """Move every job that waits for its payment and has news."""
    for job in client.list(tollgate.JobStatus.AWAITING_PAYMENT):
        state = payments.get(job.blockchain_identifier)
        if state is None:
            continue
        try:
            # With `expected_version` each job moves once, whatever other watchers do meanwhile.
            if state == "paid":
                client.transition(job.job_id, "running", expected_version=job.version)
            else:
                client.transition(
                    job.job_id, "failed", error="payment refused", expected_version=job.version
                )
        except (tollgate.VersionConflictError, tollgate.JobNotFoundError) as moved:
            # Another watcher was faster, the purchaser cancelled, or its time to pay was over. A
            # payment for a job that has failed is to be refunded.
            log.warning("payment of %s is %s: %s", job.job_id, state, moved)
        else:
            log.info("payment of %s is %s", job.job_id, state)


def main() -> None:
    """Look at the ledger once in a while, until this process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--every-s", type=float, default=1.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Where the broker is, and the key of this program, are in TOLLGATE_ENDPOINT and TOLLGATE_KEY.
    with tollgate.Client(name="payment-watcher") as client:
        while True:
            try:
                look(client, read(options.ledger))
            except (tollgate.BrokerUnreachableError, tollgate.OutcomeUnknown) as fault:
                log.warning("the next round looks again: %s", fault)
            except tollgate.Refusal as refusal:
                if not refusal.retryable:
                    raise  # such as not_authorized: another round would be refused too
                log.warning("the next round looks again: %s", refusal)
            time.sleep(options.every_s)


if __name__ == "__main__":
    main()
