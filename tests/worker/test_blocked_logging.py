"""A stop while a handler of `logging` blocks every thread that logs."""

import signal

from tests.worker.house import PATIENCE_S, House, paid
from tollgate.client.sync import Client

BLOCKS = """
import logging, pathlib, sys, threading
import tollgate

class Blocks(logging.Handler):
    def emit(self, record):
        threading.Event().wait()

def handler(job):
    logging.getLogger().addHandler(Blocks())
    pathlib.Path(job.job_id).touch()
    logging.getLogger("user").warning("this keeps the lock of the handler")
    return "done"

if __name__ == "__main__":
    sys.exit(tollgate.Worker(handler, stop_grace_s=0.2).run())
"""


def test_a_stop_while_logging_blocks(house: House) -> None:
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = paid(client, "a")
        program = house.script(BLOCKS)
        house.until_begun(job)
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE_S) == 0
        (lease,) = client.claim("running")
        assert lease.job.attempts == 0
