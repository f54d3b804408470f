"""One call: what was asked, what of it is under way, and the values so far."""

from collections.abc import Callable
from typing import Any

import msgspec

from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.framing import PENDING, Packer
from tollgate.client.inflight import Message
from tollgate.client.parcel import Parcel


class Exchange(msgspec.Struct, eq=False):
    """The commands of one call, sent as one message or many, and their values in order."""

    given: list[Any]
    """The value of each command that was taken so far, or PENDING."""
    deadline: float
    notify: Callable[[], None] | None = None
    """Is called whenever values have come."""
    each_s: float | None = None
    packer: Packer | None = None
    """Makes parcels of the commands that are still to come; None when all are taken."""
    messages: set[Message] = set()
    """Those under way."""
    held: int = 0
    """How many of its messages wait for their turn: what comes later must not overtake."""
    broken: bool = False
    """Whether to ask nothing more: the broker was silent for too long, or the caller left."""

    @property
    def done(self) -> bool:
        """Whether every command that was asked has its value, and no more will be."""
        return not self.messages and (self.packer is None or self.broken)

    @property
    def values(self) -> list[Any]:
        """What came of the commands in their order, exceptions among them."""
        if self.broken and self.packer is not None:  # some were to be in the next messages
            silent = BrokerUnreachableError("the broker had fallen silent before")
            return [silent if value is PENDING else value for value in self.given]
        return self.given

    @property
    def answered(self) -> int:
        """How many commands have their value."""
        asked = sum(len(message.parcel.slots) for message in self.messages)
        held = 0 if self.packer is None else self.packer.held
        return len(self.given) - held - asked

    def put(self, parcel: Parcel, values: list[Any]) -> None:
        """Store the values of a parcel's commands, and tell whoever waits for them."""
        first, behind = parcel.slots[0], parcel.slots[-1] + 1
        if behind - first == len(values):  # none between them was refused at home
            self.given[first:behind] = values
        else:
            for slot, value in zip(parcel.slots, values, strict=True):
                self.given[slot] = value
        if self.notify is not None:
            self.notify()
