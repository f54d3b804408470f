"""huey over Redis with notification of results, as its documentation says for low latency."""

import os

from huey import RedisHuey

huey = RedisHuey(
    "bench", url=f"unix://{os.environ.get('BENCH_SOCKET', '/nowhere')}", notify_result=True
)


@huey.task()
def answer(number: int) -> int:
    return number
