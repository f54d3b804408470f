"""A producer that repeats, reorders and reconnects, and logs every answer."""

import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.crash.counters import Counters
from tests.crash.summaries import (
    NOTHING,
    Logged,
    Seen,
    Summary,
    extras_in,
    of_result,
    seen_log,
    shown_by,
)  # fmt: skip
from tests.crash.workload import Workload
from tollgate.domain.commands import AnyCommand, Claim, Hello
from tollgate.domain.messages import Refused, Reply, Request, decode_answer, encode_request
from tollgate.domain.results import ErrorResult, HelloResult

IN_FLIGHT: Final = 16
WINDOW: Final = 64
KEPT: Final = 24
"""How many answered requests stay unacknowledged, so that they can be repeated."""
REPEATED: Final = 0.09
"""Probability that a request is sent twice at once, and again after its answer."""
SILENCE_S: Final = 3.0
LEAVE_S: Final = 60.0


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """The settings of one producer."""

    url: str
    counters: str
    log: str
    number: int
    producers: int
    seed: int
    commands: int
    """How many commands to send in all."""
    batch: int
    """Most commands in one message."""
    moves: bool
    """Whether to reconnect now and then while the broker runs."""
    input_bytes: int = 0
    """Shortest input of most jobs."""


class Sent:
    """A request that can still be repeated."""

    def __init__(self, frame: bytes, commands: list[AnyCommand], logged: Logged) -> None:
        self.frame = frame
        self.commands = commands
        self.logged = logged
        self.outstanding = 0
        """How many answers are still to come on this connection."""
        self.sent_at = 0.0

    def is_answered(self) -> bool:
        """Whether its answer is here, and no further one comes for a repeat.

        A repeat of a parked claim takes its place, and gets the only answer.
        """
        if self.logged.first is None:
            return False
        is_parking = len(self.commands) == 1 and isinstance(self.commands[0], Claim)
        return not self.outstanding or (is_parking and time.monotonic() - self.sent_at > SILENCE_S)


class Producer:
    """One session, from `hello` to the last answer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)
        self._workload = Workload(self._random, plan.input_bytes)
        self._counters = Counters(Path(plan.counters), plan.producers)
        self._context = zmq.Context()
        self._life = self._counters.life
        self._counters.leave(plan.number, self._life)  # it may begin after a broker has ended
        self._socket = self._connected()
        self._heard_at = time.monotonic()
        self._session = 0
        self._seq = 0
        self._acked = 0
        self._pending: dict[int, Sent] = {}
        self._counts: Counter[str] = Counter()
        self._log = Path(plan.log).open("wb")  # noqa: SIM115 - open as long as the process
        self._seen = seen_log(Path(plan.log)).open("wb")
        self._encoder = msgspec.json.Encoder()

    def run(self) -> None:
        self._open_session()
        while not self._is_done():
            self._reconnect_if_due()
            self._fill()
            self._listen(20)
            self._acknowledge()
        self._finish()

    def _is_done(self) -> bool:
        return self._counters.stopping or self._counts["commands"] >= self._plan.commands

    def _connected(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        if not self._plan.moves:
            self._monitor = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
            )
        socket.connect(self._plan.url)
        return socket

    def _read_the_last_replies(self) -> None:
        """Read what an ended broker sent: libzmq reports the end of a connection after its data."""
        is_connected = False
        while is_connected or self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            is_connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._listen(0)
        self._socket.disable_monitor()

    def _open_session(self) -> None:
        while not self._session:
            self._reconnect_if_due()
            hello = Request(1, 0, 0, 0, [Hello(open_session=True)])
            self._socket.send(encode_request(hello))
            if not self._socket.poll(1_000):
                self._socket.close()
                self._socket = self._connected()
                continue
            answer = decode_answer(self._socket.recv())
            if isinstance(answer, Reply) and isinstance(answer.results[0], HelloResult):
                self._session = answer.results[0].session or 0
            else:
                time.sleep(0.05)  # the broker is stopping

    def _reconnect_if_due(self) -> None:
        life = self._counters.life
        silent = time.monotonic() - self._heard_at > SILENCE_S
        restless = self._plan.moves and self._random.random() < 0.001
        if life == self._life and not restless and not (silent and self._plan.moves):
            return
        if not self._plan.moves:
            self._read_the_last_replies()
        self._life = life
        self._heard_at = time.monotonic()
        self._socket.close()
        self._counters.leave(self._plan.number, life)
        self._socket = self._connected()
        again = []
        for sent in self._pending.values():
            sent.outstanding = 0
            if sent.logged.first is None or self._random.random() < 0.5:
                again.append(sent)
        self._random.shuffle(again)
        for sent in again:
            self._send(sent, "repeats")

    def _unanswered(self) -> int:
        return sum(sent.logged.first is None for sent in self._pending.values())

    def _fill(self) -> None:
        """Send more requests in random order, some of them twice."""
        room = min(IN_FLIGHT - self._unanswered(), WINDOW - (self._seq - self._acked))
        if room < 4:
            return
        new = [self._make() for _ in range(room)]
        self._random.shuffle(new)
        for sent in new:
            self._send(sent, "commands")
            if self._random.random() < REPEATED:
                self._send(sent, "repeats")

    def _make(self) -> Sent:
        self._seq += 1
        chance = self._random.random()
        if chance < 0.02:
            commands: list[AnyCommand] = []  # only acknowledges
        elif chance < 0.04:
            commands = [self._workload.parking()]
        else:
            number = self._random.randint(1, self._plan.batch)
            commands = self._workload.commands(number, self._seq)
        frame = encode_request(Request(1, self._session, self._seq, self._acked, commands))
        is_named = any(isinstance(each, Claim) and each.job_ids for each in commands)
        logged = Logged(self._session, self._seq, 0, None, [], 0, [], [], is_named)
        self._pending[self._seq] = sent = Sent(frame, commands, logged)
        return sent

    def _send(self, sent: Sent, counted: str) -> None:
        self._socket.send(sent.frame)
        sent.outstanding += 1
        sent.sent_at = time.monotonic()
        self._counts[counted] += len(sent.commands)

    def _listen(self, patience_ms: int) -> None:
        if self._socket.poll(patience_ms):
            self._heard_at = time.monotonic()
            while self._socket.poll(0):
                self._take(decode_answer(self._socket.recv()))
        counts = self._counts
        self._counters.report(
            self._plan.number, counts["commands"], counts["repeats"], counts["answers"]
        )

    def _take(self, answer: Reply | Refused) -> None:
        sent = self._pending.get(answer.seq or 0)
        if sent is None:
            self._counts["unknown"] += 1
            return
        sent.outstanding -= 1
        self._counts["answers"] += 1
        if isinstance(answer, Refused):
            if answer.error.code != "draining":
                sent.logged.refused.append(answer.error.code)
            return
        if any(
            isinstance(each, ErrorResult) and each.code == "draining" for each in answer.results
        ):
            return  # a parked claim; it is sent again
        for result in answer.results:
            self._workload.observe(result)
        if found := extras_in(answer.results):
            has_effect = any(each != NOTHING for each in _changed(sent, answer))
            seen = Seen(self._session, answer.seq, found, has_effect)
            self._seen.write(self._encoder.encode(seen) + b"\n")
        self._log_answer(sent, answer)
        if self._random.random() < REPEATED:
            self._send(sent, "repeats")

    def _log_answer(self, sent: Sent, answer: Reply) -> None:
        changed, logged = _changed(sent, answer), sent.logged
        for command, result in zip(sent.commands, answer.results, strict=True):
            if not command.changes:
                logged.seen += shown_by(result)
        if logged.first is None or all(each == NOTHING for each in logged.first):
            logged.first = changed
            logged.life = self._life  # an empty claim has no record
        elif logged.first == changed:
            logged.same += 1
        else:
            logged.again.append(changed)

    def _acknowledge(self) -> None:
        """Acknowledge the oldest requests after all their answers have arrived."""
        while len(self._pending) > KEPT:
            sent = self._pending[self._acked + 1]
            if not sent.is_answered():
                return
            self._acked += 1
            self._write(self._pending.pop(self._acked))

    def _write(self, sent: Sent) -> None:
        self._log.write(self._encoder.encode(sent.logged) + b"\n")

    def _finish(self) -> None:
        """Repeat all pending requests, wait for the answers, and close."""
        leave_at = time.monotonic() + LEAVE_S
        for sent in self._pending.values():
            self._send(sent, "repeats")
        while time.monotonic() < leave_at and not all(
            sent.is_answered() for sent in self._pending.values()
        ):
            self._reconnect_if_due()
            self._listen(20)
        for sent in self._pending.values():
            self._write(sent)
        self._log.close()
        self._seen.close()
        self._context.destroy(linger=0)


def _changed(sent: Sent, answer: Reply) -> list[Summary]:
    """Return what an answer tells of the commands that change state."""
    pairs = zip(sent.commands, answer.results, strict=True)
    return [of_result(result) for each, result in pairs if each.changes]


if __name__ == "__main__":
    Producer(msgspec.json.decode(sys.argv[1], type=Plan)).run()
