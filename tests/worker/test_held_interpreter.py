"""C code of a handler that holds the interpreter, in the worker's own process.

Nothing of the worker can run meanwhile, no thread and no signal handler: neither a lease is kept
nor a stop obeyed. A timer that needs no interpreter ends such a process.
"""

from tests.worker.house import PATIENCE_S, House, Program, ended, left, paid
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

PROGRAM = """
import ctypes, faulthandler, pathlib, sys, time
import tollgate
from tollgate.worker import watchdog

watchdog.HELD_S_MIN, watchdog.HELD_LEASES = 1.5, 1

def work(job):
    pathlib.Path(job.job_id).touch()
    if job.input == "hold":
        ctypes.PyDLL(None).sleep(3_600)
    if job.input == "disarm":
        faulthandler.cancel_dump_traceback_later()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return job.input.upper()

if __name__ == "__main__":
    code = tollgate.Worker(work, lease_ms=1_000, concurrency=1, jobs={jobs}).run()
    if {jobs}:
        ctypes.PyDLL(None).sleep(4)
    sys.exit(code)
"""


def started(house: House, jobs: int | None = None) -> Program:
    house.broker()
    return house.script(PROGRAM.format(jobs=jobs))


def test_a_held_interpreter_ends_the_worker(house: House, client: Client) -> None:
    worker = started(house)
    job = paid(client, "hold")
    house.until_begun(job)
    exit_code, log = left(worker)
    assert exit_code == 1, log
    assert "Timeout (" in log
    assert 'script.py", line 11 in work' in log  # where it was
    (lease,) = client.claim(JobStatus.RUNNING, wait_ms=int(PATIENCE_S * 1_000))
    assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 1)


def test_a_held_interpreter_is_ended_whatever_handlers_did(house: House, client: Client) -> None:
    worker = started(house)
    assert ended(client, paid(client, "disarm")).result == "DISARM"
    house.until_begun(paid(client, "hold"))
    assert left(worker)[0] == 1


def test_a_long_handler_that_releases_it_is_not_ended(house: House, client: Client) -> None:
    worker = started(house)
    assert ended(client, paid(client, "long")).result == "LONG"
    worker.terminate()
    assert left(worker)[0] == 0


def test_the_timer_ends_with_the_worker(house: House, client: Client) -> None:
    worker = started(house, jobs=1)
    assert ended(client, paid(client, "last")).result == "LAST"
    exit_code, log = left(worker)  # the program holds the interpreter after that
    assert (exit_code, "Timeout (" in log) == (0, False)
