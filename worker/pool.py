"""Who works on which job: a task that goes from one to the next for as long as they end at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from tollgate.worker.apart import Apart
from tollgate.worker.lease import Held

STRETCH_S: Final = 0.01
"""How long handlers that end at once may keep the loop from all else, such as saying outcomes."""


class Hands:
    """Has `work` done on jobs, on as many at once as are held up.

    A task for each job would cost more than a short handler. A hand is a task for many: only when
    its handler waits for something, another hand is put to the jobs that are left.
    """

    def __init__(self, work: Callable[[Held], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._waiting: deque[Held] = deque()
        self._hands_next = 1
        self._is_looking = False

    def add(self, held: Held) -> None:
        """Have a job worked on, in the next turn of the loop."""
        self._waiting.append(held)
        if not self._is_looking:
            self._is_looking = True
            self._look()

    def _look(self) -> None:
        """Put more hands to what the hands of the last turn left: twice as many, if they wait."""
        if not self._waiting:
            self._is_looking = False
            self._hands_next = 1
            return
        for _ in range(min(self._hands_next, len(self._waiting))):
            asyncio.create_task(self._hand())  # noqa: RUF006 - its job has it, else the loop
        self._hands_next *= 2
        asyncio.get_running_loop().call_soon(self._look)  # comes after the first step of each

    async def _hand(self) -> None:
        hand = asyncio.current_task()
        begun = monotonic()
        # One that was told to stop would be told so at the first wait of another job.
        while self._waiting and hand is not None and not hand.cancelling():
            held = self._waiting.popleft()
            held.task = hand
            try:
                await Apart(self._work(held))
            finally:
                held.task = None  # what is said of this job later must not stop the next
            if monotonic() - begun > STRETCH_S:
                self._hands_next = 1
                return
