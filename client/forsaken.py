"""Gives back what a claim got after its caller had left."""

from collections import OrderedDict
from typing import Final

from tollgate.client.inflight import Message
from tollgate.domain.commands import Claim, Release
from tollgate.domain.messages import Refused, Reply
from tollgate.domain.results import LeasesResult

FORSAKEN_MAX: Final = 1_000
"""How many claims to remember whose callers have left; beyond, the oldest one's leases lapse."""


class ForsakenClaims:
    """The numbers of claims that may still be granted, and that nobody waits for any more."""

    def __init__(self) -> None:
        """Begin with none."""
        self._seqs: OrderedDict[int, None] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._seqs)

    def add(self, message: Message) -> None:
        """Remember a message whose caller has left, if there may be leases in its answer."""
        if message.sent and any(type(command) is Claim for command in message.parcel.commands):
            self._seqs[message.seq] = None
            if len(self._seqs) > FORSAKEN_MAX:
                self._seqs.popitem(last=False)

    def releases(self, answer: Reply | Refused) -> list[Release]:
        """Return what gives back the leases in an answer that nobody waits for."""
        if answer.seq is None or answer.seq not in self._seqs:
            return []
        del self._seqs[answer.seq]
        return [
            Release(job_id=grant.job.job_id, lease=grant.lease)
            for result in (answer.results if isinstance(answer, Reply) else [])
            if isinstance(result, LeasesResult)
            for grant in result.leases
        ]
