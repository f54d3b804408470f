"""Whether this process may start threads: libzmq aborts a process that may not."""

import errno
from threading import Event, Thread
from typing import Final

ADVICE: Final = "see ulimit -u and ulimit -v, and the limit on pids of the container"


def check_threads(count: int) -> None:
    """Raise OSError if the process cannot start so many threads now."""
    go_on = Event()
    started: list[Thread] = []
    try:
        while len(started) < count:
            thread = Thread(target=go_on.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as fault:
        raise OSError(errno.EAGAIN, f"{fault}; {ADVICE}") from None
    finally:
        go_on.set()
        for thread in started:
            thread.join()
