"""RQ over Redis: a worker that loads its tasks before it forks, or one that does not fork."""

import os
import sys

from redis import Redis
from rq import Queue, SimpleWorker, Worker


def connection() -> Redis:
    return Redis(unix_socket_path=os.environ["BENCH_SOCKET"])


def answer(number: int) -> int:
    return number


if __name__ == "__main__":
    kind = SimpleWorker if sys.argv[1:] == ["simple"] else Worker
    redis = connection()
    kind([Queue(connection=redis)], connection=redis, log_job_description=False).work(
        logging_level="WARNING"
    )
