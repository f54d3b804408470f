"""Dramatiq over Redis, with results, and otherwise with its defaults."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = f"unix://{os.environ.get('BENCH_SOCKET', '/nowhere')}"

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def answer(number: int) -> int:
    return number
