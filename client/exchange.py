"""One call: what was asked, what of it is under way, and the values so far."""

from collections.abc import Callable
from typing import Any

from client.errors import BrokerUnreachableError
from client.message import Message
from client.packing import PENDING, Packer, SinglePacker
from client.parcel import Parcel


class Exchange:
    """The commands of one call, sent as one message or many, and their values in order."""

    def __init__(
        self,
        packer: Packer | SinglePacker,
        deadline: float,
        each_s: float | None,
        notify: Callable[[], None] | None,
    ) -> None:
        """Begin with nothing asked; see `Session.submit` for the arguments."""
        self.packer = packer
        self.deadline = deadline
        self.each_s = each_s
        self.notify = notify
        self.messages: set[Message] = set()
        self.held = 0
        """How many of its messages wait for their turn: what comes later must not overtake."""
        self.broken = False
        """Whether to ask nothing more: the broker was silent for too long, or the caller left."""

    @property
    def done(self) -> bool:
        """Whether every command that was asked has its value, and no more will be."""
        return not self.messages and (self.packer.exhausted or self.broken)

    @property
    def values(self) -> list[Any]:
        """What came of the commands in their order, exceptions among them."""
        values = self.packer.values
        if self.broken and self.packer.held:  # they were to be in the next messages
            silent = BrokerUnreachableError("the broker had fallen silent before")
            values = [silent if value is PENDING else value for value in values]
        return values

    @property
    def answered(self) -> int:
        """How many commands have their value."""
        asked = sum(len(message.parcel.slots) for message in self.messages)
        return len(self.packer.values) - self.packer.held - asked

    def put(self, parcel: Parcel, values: list[Any]) -> None:
        """Store the values of a parcel's commands, and tell whoever waits for them."""
        mine, slots = self.packer.values, parcel.slots
        if len(slots) == 1:
            mine[slots[0]] = values[0]
        elif slots[-1] - slots[0] == len(slots) - 1:  # none between them was refused at home
            mine[slots[0] : slots[-1] + 1] = values
        else:
            for slot, value in zip(slots, values, strict=True):
                mine[slot] = value
        if self.notify is not None:
            self.notify()
