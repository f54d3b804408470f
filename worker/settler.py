"""Tells the broker what became of jobs: all that are ready at once, in one message."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import TollgateError
from tollgate.worker.lease import Held
from tollgate.worker.outcome import Outcome
from tollgate.worker.retry import Link
from tollgate.worker.settle import settle, transition

LOTS_MAX: Final = 4
"""Messages under way at once, as many as a call of the client has. What is ready meanwhile waits
for one of them to be answered, and so goes with others: the more there is, the less it costs."""

Ended = Callable[[Held, Outcome | None], None]
"""Is told of each job when nothing more will be said about it: what was said of it, or None if it
was not this worker's to say, or nobody knows."""

_Said = tuple[Held, Outcome]


class Settler:
    """Settles jobs in lots. A job that its lot did not settle is dealt with alone: see `settle`."""

    def __init__(self, client: AsyncClient, link: Link, ended: Ended) -> None:
        self._client = client
        self._link = link
        self._ended = ended
        self._ready: list[_Said] = []
        self._unsettled: set[Held] = set()
        self._lots: set[asyncio.Task[None]] = set()
        self._alone: set[asyncio.Task[None]] = set()
        self._is_due = False

    def __len__(self) -> int:
        """Return how many jobs are not settled yet."""
        return len(self._unsettled)

    def put(self, held: Held, outcome: Outcome) -> None:
        """Have an outcome said, with all that become ready in this turn of the loop."""
        held.is_settling = True
        self._unsettled.add(held)
        self._ready.append((held, outcome))
        self._begin_lot()

    def give_up(self) -> list[Held]:
        """Say nothing more, and return the jobs that are not settled."""
        for task in self._lots | self._alone:
            task.cancel()
        left = [*self._unsettled]
        self._unsettled.clear()
        self._ready.clear()
        self._is_due = False
        return left

    def _begin_lot(self) -> None:
        if self._ready and not self._is_due and len(self._lots) < LOTS_MAX:
            self._is_due = True
            lot = asyncio.create_task(self._settle_together())
            self._lots.add(lot)
            lot.add_done_callback(self._end_lot)

    def _end_lot(self, lot: asyncio.Task[None]) -> None:
        self._lots.discard(lot)
        self._begin_lot()

    async def _settle_together(self) -> None:
        self._is_due = False
        lot, self._ready = self._ready, []
        answers = await self._say(lot)
        for (held, outcome), answer in zip(lot, answers, strict=True):
            if isinstance(answer, TollgateError):
                alone = asyncio.create_task(self._settle_alone(held, outcome, answer))
                self._alone.add(alone)
                alone.add_done_callback(self._alone.discard)
            elif isinstance(answer, Exception):
                self._leave_alone(held, answer)
            else:
                self._end(held, outcome)

    async def _say(self, lot: list[_Said]) -> list[Any]:
        """Return the answer to each outcome of a lot, or what kept it from being said."""
        batch = self._client.batch()
        said: list[int | Exception] = []
        for held, outcome in lot:
            try:
                said.append(transition(batch, held, outcome))
            except Exception as fault:  # noqa: BLE001 - one job must not take the others with it
                said.append(fault)
        try:
            answers = await batch.send()
        except Exception as fault:  # noqa: BLE001 - it is that of each
            answers = [fault] * len(batch)
        return [answers[place] if isinstance(place, int) else place for place in said]

    async def _settle_alone(self, held: Held, outcome: Outcome, answer: TollgateError) -> None:
        try:
            job = await settle(self._client, held, outcome, self._link, answer)
        except Exception as fault:  # noqa: BLE001 - nobody waits for this task
            self._leave_alone(held, fault)
        else:
            self._end(held, outcome if job else None)

    def _leave_alone(self, held: Held, fault: Exception) -> None:
        held.leave_alone(fault)
        self._end(held, None)

    def _end(self, held: Held, outcome: Outcome | None) -> None:
        self._unsettled.remove(held)
        self._ended(held, outcome)
