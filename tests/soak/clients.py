"""Thousands of clients connected at once, and as many that connect and leave one by one."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from tests.soak.attacks import dealer, pack
from tests.soak.target import Broker, broker, in_process, processes

CREWS = 4
"""How many processes hold the clients."""
COUNT = pack({"type": "count"})
PATIENCE_MS = 60_000
SETTLE_S = 5.0
"""Longest time for the broker to close the connections of clients that left."""
STEADY_S = 0.2
"""After so long without a change, the number of open files is what stays open."""


@dataclass
class Crowd:
    """How long all clients took to connect, and to get their answers when all asked at once."""

    clients: int
    answered: int
    connect_s: float
    answer_s: float
    bytes_each: float


@dataclass
class Churn:
    """What the broker still holds after many clients connected, asked and left."""

    clients: int
    answered: int
    grown_bytes: int
    grown_files: int


def crowd(home: Path, clients: int) -> Crowd:
    """Connect all clients, send one request from each at once, and wait for all answers."""
    with broker(home, "--in-memory", "--connections", str(clients * 3 // 2)) as target:
        before = target.memory()
        ready = processes.Barrier(CREWS + 1)
        waiting = [
            in_process(_crew, target.endpoint, clients // CREWS, ready)[0] for _ in range(CREWS)
        ]
        begun = time.monotonic()
        ready.wait()  # all are connected and have got one answer
        connect_s = time.monotonic() - begun
        bytes_each = (target.memory() - before) / clients
        begun = time.monotonic()
        ready.wait()
        answered = sum(result() for result in waiting)
        return Crowd(clients, answered, connect_s, time.monotonic() - begun, bytes_each)


def _crew(endpoint: str, clients: int, ready: Any) -> int:
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, clients + 16)
    sockets = [dealer(context, endpoint) for _ in range(clients)]
    _ask(sockets)
    ready.wait()
    ready.wait()
    answered = _ask(sockets)
    context.destroy(linger=0)
    return answered


def _ask(sockets: "list[zmq.Socket[Any]]") -> int:
    for each in sockets:
        each.send(COUNT)
    answered = 0
    for each in sockets:
        if each.poll(PATIENCE_MS):
            each.recv()
            answered += 1
    return answered


def churn(home: Path, clients: int) -> Churn:
    """Connect clients that ask once and leave, one after the other in each crew."""
    with broker(home, "--in-memory") as target:
        _go_round(target.endpoint, clients // CREWS // 4)  # the first growth of buffers is no leak
        files, memory = _steady_files(target), target.memory()
        waiting = [
            in_process(_come_and_go, target.endpoint, clients // CREWS)[0] for _ in range(CREWS)
        ]
        answered = sum(result() for result in waiting)
        grown_files = _steady_files(target) - files
        return Churn(clients, answered, target.memory() - memory, grown_files)


def _steady_files(target: Broker) -> int:
    """Return how many files the broker has open when it closes no more of them."""
    until = time.monotonic() + SETTLE_S
    files, since = target.open_files(), time.monotonic()
    while time.monotonic() < min(until, since + STEADY_S):
        time.sleep(0.02)
        if (now := target.open_files()) != files:
            files, since = now, time.monotonic()
    return files


def _go_round(endpoint: str, clients: int) -> None:
    for result in [in_process(_come_and_go, endpoint, clients)[0] for _ in range(CREWS)]:
        result()


def _come_and_go(endpoint: str, clients: int) -> int:
    answered = 0
    with zmq.Context() as context:
        for _ in range(clients):
            each = dealer(context, endpoint)
            answered += _ask([each])
            each.close(0)
    return answered
