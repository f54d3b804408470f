"""Shows the time of a message by thread: how long each runs, and how long it waits for a core.

`python -m benchmarks.threads [COMMANDS_A_MESSAGE]` runs the lifecycle with 4 messages in flight for
a few seconds, and reads what the kernel has counted in /proc/PID/task/*/schedstat.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import tollgate_side
from benchmarks.crew import Crew
from benchmarks.processes import Broker, workplace
from benchmarks.work import Shape

RUN_S: Final = 3.0
WARM_UP_S: Final = 0.3
IN_FLIGHT: Final = 4


class Counted(NamedTuple):
    """The kernel's counters of a thread: time run, time waited, and how often it got a core."""

    name: str
    ran_ns: int
    waited_ns: int
    times: int


def threads(pid: int) -> dict[str, Counted]:
    """Return the counters of each thread of a process, by thread id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        found[task.name] = Counted(name, *map(int, (task / "schedstat").read_text().split()))
    return found


def children() -> list[int]:
    """Return the child processes of this process."""
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def main() -> None:
    """Run, and print a line for each thread that was busy."""
    shape = Shape(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, IN_FLIGHT)
    make = tollgate_side.ways(shape)["one send_many()"]
    with (
        workplace(None) as directory,
        Broker(directory / "a") as broker,
        Crew(partial(make, broker.endpoint, shape)) as crew,
    ):
        (producer,) = (pid for pid in children() if pid != broker.pid)
        crew.run(WARM_UP_S)
        before = [threads(pid) for pid in (broker.pid, producer)]
        tally = crew.run(RUN_S)
        after = [threads(pid) for pid in (broker.pid, producer)]
    messages = tally.commands / shape.batch
    print(f"{tally.per_second:,.0f} commands a second, {shape.batch} a message")
    for who, then, now in zip(("broker", "client"), before, after, strict=True):
        for number, thread in now.items():
            if number in then and thread.times - then[number].times > messages / 10:
                ran_us = (thread.ran_ns - then[number].ran_ns) / messages / 1_000
                waited_us = (thread.waited_ns - then[number].waited_ns) / messages / 1_000
                who_it_is = f"{who} {thread.name:16}"
                print(f"{who_it_is} ran {ran_us:7.0f} us a message, waited {waited_us:6.0f}")


if __name__ == "__main__":
    main()
