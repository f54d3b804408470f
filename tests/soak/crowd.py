"""Thousands of clients that are connected at once, and as many that come and go."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from tests.soak.attacks import dealer, pack
from tests.soak.house import aside, broker, processes

CREWS = 4
"""How many processes the clients are spread over."""
COUNT = pack({"type": "count"})
PATIENCE_MS = 60_000


@dataclass
class Crowd:
    """How long it took `clients` to connect, and from asking until the last was answered."""

    clients: int
    answered: int
    connect_s: float
    answer_s: float
    bytes_each: float


@dataclass
class Churn:
    """What so many clients that came, asked and left have left behind."""

    clients: int
    answered: int
    grown_bytes: int
    grown_files: int


def crowd(home: Path, clients: int) -> Crowd:
    """Connect clients, have all of them ask at once, and wait for all answers."""
    with broker(home, "--in-memory", "--connections", str(clients * 3 // 2)) as house:
        before = house.memory()
        ready = processes.Barrier(CREWS + 1)
        waiting = [aside(_crew, house.endpoint, clients // CREWS, ready)[0] for _ in range(CREWS)]
        begun = time.monotonic()
        ready.wait()  # all have connected, and been answered once
        connect_s = time.monotonic() - begun
        bytes_each = (house.memory() - before) / clients
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
    """Let clients come, ask and leave, one after the other in each of the crews."""
    with broker(home, "--in-memory") as house:
        _go_round(house.endpoint, clients // CREWS // 4)  # what stays once, stays
        time.sleep(1)
        memory, files = house.memory(), house.open_files()
        waiting = [aside(_come_and_go, house.endpoint, clients // CREWS)[0] for _ in range(CREWS)]
        answered = sum(result() for result in waiting)
        time.sleep(1)
        grown = house.memory() - memory, house.open_files() - files
        return Churn(clients, answered, *grown)


def _go_round(endpoint: str, clients: int) -> None:
    for result in [aside(_come_and_go, endpoint, clients)[0] for _ in range(CREWS)]:
        result()


def _come_and_go(endpoint: str, clients: int) -> int:
    answered = 0
    with zmq.Context() as context:
        for _ in range(clients):
            each = dealer(context, endpoint)
            answered += _ask([each])
            each.close(0)
    return answered
