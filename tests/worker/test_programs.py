"""Workers in programs of the user's: run, served, stopped, several, again, and in threads."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.worker.house import House, ended, left, paid, until_logged
from tollgate.client.sync import Client
from tollgate.worker.leaving import THREADS_S

HEAD = """
import asyncio, atexit, logging, os, signal, sys, threading, time
import tollgate
from tollgate import Worker, connect

logging.basicConfig(level="INFO")

def answer(job):
    if job.input == "hang":
        open(job.job_id, "w").close()
        time.sleep(3_600)
    return job.input.upper()

async def answer_later(job):
    if job.input == "hang":
        open(job.job_id, "w").close()
        await asyncio.sleep(3_600)
    return job.input.upper()

def say(text):
    with open("said", "a") as file:
        file.write(text + "\\n")
"""


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    (shared_house.folder / "said").unlink(missing_ok=True)
    yield shared_house
    shared_house.kill_workers()


@pytest.mark.parametrize("handler", ["answer", "answer_later"])
def test_run_returns_after_a_signal(house: House, client: Client, handler: str) -> None:
    program = house.script(
        HEAD
        + f"""
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
atexit.register(say, "exit functions run")
worker = Worker({handler}, stop_grace_s=0.5)
code = worker.run()
say(f"code {{code}}, finished {{worker.finished}}")
after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
say(f"signals {{before == after}}, wakeup {{signal.set_wakeup_fd(-1)}}")
sys.exit(7)
"""
    )
    assert ended(client, paid(client, "x")).result == "X"
    job = paid(client, "hang")
    house.until_begun(job)
    program.send_signal(signal.SIGTERM)
    exit_code, log = left(program)
    assert exit_code == 7, log
    said = house.told("said").splitlines()
    assert said == ["code 0, finished 1", "signals True, wakeup -1", "exit functions run"]
    (lease,) = client.claim("running")
    assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 0)
    client.transition(job.job_id, "failed", error="cleared away", lease=lease.token)


def test_threads_of_the_program_itself_may_go_on(house: House, client: Client) -> None:
    """Only those that handlers have left are ended, a second after the worker."""
    program = house.script(
        HEAD
        + """
def go_on():
    while not os.path.exists("go on"):
        time.sleep(0.01)
    say("the program's own thread is done")

threading.Thread(target=go_on).start()
worker = Worker(answer)
say(f"code {worker.run()}")
"""
    )
    assert ended(client, paid(client, "x")).result == "X"
    program.terminate()
    house.until(lambda: house.told("said") == "code 0\n")
    time.sleep(THREADS_S + 1)
    (house.folder / "go on").touch()
    exit_code, log = left(program)
    assert exit_code == 0, log
    assert house.told("said").splitlines()[1] == "the program's own thread is done"


def test_a_worker_is_served_in_a_running_loop(house: House, client: Client) -> None:
    program = house.script(
        HEAD
        + """
async def main():
    worker = Worker(answer_later)
    serving = asyncio.create_task(worker.serve())
    while not os.path.exists("go on"):
        await asyncio.sleep(0.01)
    threading.Thread(target=worker.stop).start()
    say(f"stopped {await serving} {worker.finished}")
    serving = asyncio.create_task(worker.serve())  # again
    while not os.path.exists("and on"):
        await asyncio.sleep(0.01)
    serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        say(f"cancelled {len(asyncio.all_tasks())}")

before = signal.getsignal(signal.SIGTERM)
asyncio.run(main())
say(f"signals {before == signal.getsignal(signal.SIGTERM)} threads {threading.active_count()}")
"""
    )
    assert ended(client, paid(client, "one")).result == "ONE"
    (house.folder / "go on").touch()
    job = paid(client, "hang")
    house.until(lambda: "stopped" in house.told("said"))
    house.until_begun(job)
    (house.folder / "and on").touch()
    exit_code, log = left(program)
    assert exit_code == 0, log
    assert house.told("said").splitlines() == [
        "stopped 0 1", "cancelled 1", "signals True threads 1",
    ]  # fmt: skip
    (lease,) = client.claim("running")
    assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 0)
    client.transition(job.job_id, "failed", error="cleared away", lease=lease.token)
    (house.folder / "and on").unlink()


def test_a_worker_runs_in_another_thread_and_again(house: House, client: Client) -> None:
    program = house.script(
        HEAD
        + """
worker = Worker(answer, name="threaded")
for number in range(3):
    thread = threading.Thread(target=lambda: say(f"code {worker.run()}"))
    thread.start()
    with connect() as client:
        job = client.create(input=f"job {number}", as_text=True)
        client.transition(job.job_id, "running")
        say(client.wait(job.job_id, timeout_s=30).result)
    worker.stop()
    thread.join()
say(f"threads {threading.active_count()}")
"""
    )
    exit_code, log = left(program)
    assert exit_code == 0, log
    assert house.told("said").split("\n") == [
        "JOB 0", "code 0", "JOB 1", "code 0", "JOB 2", "code 0", "threads 1", "",
    ]  # fmt: skip


def test_two_workers_share_a_process(house: House, client: Client) -> None:
    program = house.script(
        HEAD
        + """
one, two = Worker(answer, queues="one"), Worker(answer_later, queues="two", stop_grace_s=0.5)
thread = threading.Thread(target=lambda: say(f"one {one.run()} {one.finished}"))
thread.start()
code = two.run()  # the main thread's obeys signals
one.stop()
thread.join()
say(f"two {code} {two.finished}")
"""
    )
    jobs = [paid(client, queue, queue=queue) for queue in ("one", "two", "one")]
    assert [ended(client, job).result for job in jobs] == ["ONE", "TWO", "ONE"]
    program.send_signal(signal.SIGTERM)
    exit_code, log = left(program)
    assert exit_code == 0, log
    assert house.told("said").splitlines() == ["one 0 2", "two 0 1"]


def test_a_running_worker_is_run_once(house: House) -> None:
    program = house.script(
        HEAD
        + """
worker = Worker(answer)
def again():
    for run in (worker.run, worker.drain):
        try:
            run()
        except RuntimeError as fault:
            say(str(fault))
    worker.stop()
threading.Timer(0.5, again).start()
say(f"code {worker.run()}")
worker.stop()  # before it runs: the next run ends at once
say(f"code {worker.run()}")
"""
    )
    exit_code, log = left(program)
    assert exit_code == 0, log
    runs = "this worker runs already"
    assert house.told("said").splitlines() == [runs, runs, "code 0", "code 0"]


def test_a_second_signal_ends_the_users_program(house: House, client: Client) -> None:
    program = house.script(HEAD + "Worker(answer, stop_grace_s=3_600, lease_ms=1_000).run()\n")
    job = paid(client, "hang")
    house.until_begun(job)
    program.send_signal(signal.SIGINT)
    until_logged(program, "stopping")
    program.send_signal(signal.SIGINT)
    assert left(program)[0] == 130
    (lease,) = client.claim("running", wait_ms=10_000, lease_ms=60_000)
    client.transition(job.job_id, "failed", error="cleared away", lease=lease.token)


def test_a_forked_child_runs_a_worker_of_its_own(house: House, client: Client) -> None:
    program = house.script(
        HEAD
        + """
with connect() as client:  # a preloaded program has a context already
    client.ping()
children = []
for number in range(2):
    child = os.fork()
    if not child:
        os._exit(Worker(answer, stop_grace_s=0.5).run())
    children.append(child)
while not os.path.exists("go on"):
    time.sleep(0.01)
for child in children:
    os.kill(child, signal.SIGTERM)
say(str([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""
    )
    jobs = [paid(client, f"job {number}") for number in range(20)]
    assert {ended(client, job).status for job in jobs} == {"completed"}
    (house.folder / "go on").touch()
    assert left(program)[0] == 0, program.log
    assert house.told("said") == "[0, 0]\n"
