"""Kills the processes of a demonstration that was itself killed, and removes their directory.

It is a process in that directory, and leads the process group of the others. It waits until its
standard input ends: that happens when the demonstration ends, however it ends.
"""

import os
import shutil
import signal


def main() -> None:
    """Wait for the end, and leave nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"\n")  # from here on it cannot be ended before its time
    while os.read(0, 1):
        pass
    shutil.rmtree(os.getcwd(), ignore_errors=True)  # noqa: PTH109
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
