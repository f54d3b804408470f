"""Whether the key of a worker lacks a role for now, or has ended for good."""

import logging
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final, Protocol

from tollgate.client.errors import may_pass
from tollgate.domain.exceptions import NotAuthorizedError, TollgateError
from tollgate.domain.results import HelloResult
from tollgate.worker.broker_status import one_line

log = logging.getLogger("tollgate.worker")

PING_S: Final = 5.0
"""How long the broker may take to tell the roles."""
OLD_S: Final = 5.0
"""How long after a role is back a refusal may be heard that is older than that."""


class Asked(Protocol):
    """The part of `Link` that is needed here."""

    async def ping(self, timeout_s: float) -> HelloResult:
        """Return what the broker tells of itself and of this client."""
        ...


class Roles:
    """Tells a role that was taken away from a role that the key never had.

    The first may be given back: the worker waits for it, and keeps its finished results. It waits
    for no role that it never had, and not if the key itself has ended.
    """

    def __init__(self, link: Asked) -> None:
        self._link = link
        self._at_start: set[str] = set()
        self.are_missing = False
        """Whether a role was taken away, as far as is known."""
        self._back_at = -inf

    def begin(self, hello: HelloResult) -> set[str]:
        """Note which roles the key has at the start, and return them."""
        self._at_start = roles_of(hello)
        return self._at_start

    async def may_come_back(self, refusal: TollgateError) -> bool:
        """Return whether a refusal is for a role that the key had at the start, and has not now."""
        if not isinstance(refusal, NotAuthorizedError) or not self._at_start:
            return False
        try:
            missing = await self._missing()
        except TollgateError as fault:
            return may_pass(fault)  # else the key has ended: it may not even ask
        if missing and not self.are_missing:
            self.are_missing = True
            log.error(
                "this worker has lost the role %s (%s): until its key has it again, it takes no"
                " jobs, and keeps the results that it has",
                ", ".join(sorted(missing)), one_line(refusal),
            )  # fmt: skip
        return bool(missing) or monotonic() < self._back_at + OLD_S

    async def look_again(self) -> None:
        """Note whether the key has all its roles again: the broker takes claims."""
        with suppress(TollgateError):
            await self._missing()

    async def _missing(self) -> set[str]:
        missing = self._at_start - roles_of(await self._link.ping(PING_S))
        if self.are_missing and not missing:
            self.are_missing = False
            self._back_at = monotonic()
            log.info("this worker has the roles again that it had lost")
        return missing


def roles_of(hello: HelloResult) -> set[str]:
    """Return the roles of this client. An older broker tells its one role."""
    return set(hello.roles or [hello.role])
