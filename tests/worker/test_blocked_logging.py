"""A stop while something keeps the process: a log that blocks, or a thread that is left."""

import signal

import pytest

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

PATIENT = """
import logging, pathlib, sys, threading, time
import tollgate
from tollgate.worker import leaving

leaving.EXIT_S = leaving.THREADS_S = 3_600.0

class Blocks(logging.Handler):
    def flush(self):
        threading.Event().wait()

def handler(job):
    if job.input == "thread":
        threading.Thread(target=time.sleep, args=(3_600,)).start()
    else:
        logging.getLogger().addHandler(Blocks())
    pathlib.Path(job.job_id).touch()
    time.sleep(3_600 if job.input == "log" else 0)
    return "done"

if __name__ == "__main__":
    sys.exit(tollgate.Worker(handler, stop_grace_s=0.2).run())
"""


@pytest.mark.parametrize("what", ["thread", "log", "log at the end"])
def test_the_time_for_a_stop_is_for_all_that_it_does(house: House, what: str) -> None:
    """What usually has a time of its own, here an hour, has no more than what is left."""
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = paid(client, what)
        program = house.script(PATIENT)
        house.until_begun(job)
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE_S) == 0


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
