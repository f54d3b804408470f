"""On any network, results come in order, each for its command."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.inflight import Call
from tollgate.domain.commands import AnyCommand, Get, Hello
from tollgate.domain.exceptions import OverloadedError, ReplyFullError
from tollgate.domain.messages import Request
from tollgate.domain.models import Job
from tollgate.domain.results import AnyResult, error_of

from .peers import hello_result, job_id, job_result, refused, reply
from .talk import Talk


@dataclass
class Network:
    """Carries requests to a simulated broker and its answers back, unreliably."""

    choose: Any
    on_the_way: deque[bytes] = field(default_factory=deque)

    def carry(self, requests: list[Request]) -> None:
        for request in requests:
            fate = self.choose("fate", ["answer", "answer", "lose", "twice", "refuse", "fill"])
            if fate == "refuse":
                self.on_the_way.append(refused(request.seq, OverloadedError("full")))
            elif fate != "lose":
                room = 1 if fate == "fill" else len(request.commands)
                results = [
                    _answer(command) if position < room else error_of(ReplyFullError("no room"))
                    for position, command in enumerate(request.commands)
                ]
                frame = reply(request.seq, *results)
                self.on_the_way.extend([frame] * (2 if fate == "twice" else 1))

    def deliver_one(self, talk: Talk) -> None:
        position = self.choose("which", range(len(self.on_the_way)))
        frame = self.on_the_way[position]
        del self.on_the_way[position]
        talk.hear(frame)


def _answer(command: AnyCommand) -> AnyResult:
    assert isinstance(command, Get)
    return job_result(int(command.job_id or ""))


def _settle(talk: Talk, network: Network, calls: list[Call]) -> None:
    while not all(call.done for call in calls):
        for call in calls:
            talk.session.pull(call)
        network.carry(talk.requests())
        if network.on_the_way and network.choose("deliver", [True, True, False]):
            network.deliver_one(talk)
        elif talk.session.next_wakeup() is not None:
            network.carry(talk.wake())


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    commands_max=st.integers(1, 4),
    data=st.data(),
)
@settings(deadline=None)
def test_results_are_in_order_on_any_network(
    sizes: list[int], commands_max: int, data: st.DataObject
) -> None:
    talk = Talk()
    talk.ask(Hello())
    talk.requests()
    talk.hear(reply(1, hello_result(commands=commands_max)))
    network = Network(lambda label, options: data.draw(st.sampled_from(options), label=label))
    calls = [
        talk.ask(*(Get(job_id=f"{100 * row + number}") for number in range(size)), each_s=60)
        for row, size in enumerate(sizes)
    ]

    _settle(talk, network, calls)

    for row, (call, size) in enumerate(zip(calls, sizes, strict=True)):
        for number, value in enumerate(call.values):
            if isinstance(value, Job):
                assert value.job_id == job_id(100 * row + number)
            else:
                assert isinstance(value, BrokerUnreachableError | OverloadedError)
        if not call.stopped:
            assert len(call.values) == size
            assert all(isinstance(value, Job) for value in call.values)
