"""One role's jobs, from the claim to the outcome: worked on each by itself, settled together."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from tollgate.client.aio import AsyncClient
from tollgate.worker.lease import Held, LeaseKeeper
from tollgate.worker.outcome import Outcome
from tollgate.worker.pool import Hands
from tollgate.worker.retry import Link
from tollgate.worker.roles import Role
from tollgate.worker.settler import Settler


class Office(Protocol):
    """What a shift needs of the worker that it is a part of."""

    def look_again(self) -> None:
        """Look again whether there is room for more jobs, and whether all is done."""
        ...

    def settled(self, held: Held, outcome: Outcome) -> None:
        """Note that the broker took what was said of a job."""
        ...

    async def give_back(self, jobs: Iterable[Held]) -> None:
        """Give back the leases on jobs, so that others may have them."""
        ...


class Shift:
    """Works on the jobs of one role, and has the outcomes said."""

    def __init__(
        self, role: Role, office: Office, client: AsyncClient, link: Link, keeper: LeaseKeeper
    ) -> None:
        self.role = role
        self._office = office
        self._keeper = keeper
        self._hands = Hands(self._work_on)
        self._working: set[Held] = set()
        self._is_cancelled = False
        self._settler = Settler(client, link, self._settled)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is worked on, and nothing left to be said."""
        return not (self._working or self._settler)

    def room(self, *, until_settled: bool) -> int:
        """Return how many more jobs there are places for.

        A job that is done leaves its place while its outcome is on its way, so that others are
        claimed meanwhile: as many as there are places, or none if places are kept `until_settled`.
        """
        working, settling = len(self._working), len(self._settler)
        if until_settled:
            return self.role.room(working + settling)
        return min(self.role.room(working), self.role.room(0) + self.role.room(working + settling))

    def take(self, held: Held) -> None:
        """Begin to work on a job."""
        self._working.add(held)
        self._keeper.hold(held)
        self._hands.add(held)

    def cancel(self) -> None:
        """Work no more on what is worked on or not begun; what has an outcome already keeps it."""
        self._is_cancelled = True
        for held in self._working:
            if held.task is not None:
                held.task.cancel()

    def give_up(self) -> list[Held]:
        """Say no more outcomes, and return the jobs whose outcome has no answer yet."""
        left = self._settler.give_up()
        for held in left:
            self._keeper.drop(held)
        return left

    def abandon(self) -> list[Held]:
        """Return all that still goes on; whatever comes of it will not be said."""
        for held in self._working:
            held.is_lost = True
            self._keeper.drop(held)
        return [*self._working, *self.give_up()]

    async def _work_on(self, held: Held) -> None:
        try:
            outcome = await self._outcome(held)
        except asyncio.CancelledError:
            if not held.is_lost:
                await self._office.give_back([held])
        except Exception as fault:  # noqa: BLE001 - one job must not take the others with it
            held.leave_alone(fault)
        else:
            if not held.is_lost:
                self._settler.put(held, outcome)
        finally:
            self._working.discard(held)
            if not held.is_settling:
                self._keeper.drop(held)
            self._office.look_again()

    def _outcome(self, held: Held) -> Coroutine[Any, Any, Outcome]:
        if self._is_cancelled or held.is_lost:  # while it waited for a hand
            raise asyncio.CancelledError
        return self.role.outcome(held.job)

    def _settled(self, held: Held, outcome: Outcome | None) -> None:
        self._keeper.drop(held)
        if outcome is not None:
            self._office.settled(held, outcome)
        self._office.look_again()
