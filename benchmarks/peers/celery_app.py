"""Celery, set up as its page on optimizing says for short tasks: a large prefetch, no extras."""

import os

from celery import Celery

SOCKET = os.environ.get("BENCH_SOCKET", "/nowhere")

app = Celery(
    "benchmarks.peers.celery_app",
    broker=f"redis+socket://{SOCKET}",
    backend=f"redis+socket://{SOCKET}",
)
app.conf.update(
    worker_prefetch_multiplier=128,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    task_send_sent_event=False,
    worker_hijack_root_logger=False,
)


@app.task
def answer(number: int) -> int:
    return number
