"""Who is next: for each state, queue and priority a line of jobs, first come first served.

A part of the naive twin: one list of all jobs that may be claimed, in the order in which they
joined. A line is what is left of it for one state, queue and priority.
"""

from collections.abc import Sequence

PRIORITIES = range(10)


class Lines:
    def __init__(self) -> None:
        self.ready: list[tuple[str, str, int, str]] = []  # state, queue, priority, job
        self.alive: list[str] = []  # in the order in which the queues came alive
        self.paused: list[str] = []
        self.served: dict[str, list[str]] = {}  # by state: the queue served last is the last

    # --- queues -------------------------------------------------------------------------------

    def begin(self, queue: str) -> None:
        if queue not in self.alive:
            self.alive.append(queue)

    def end(self, queue: str) -> None:
        """Forget a queue: it has no job and is not paused."""
        self.alive.remove(queue)
        for turns in self.served.values():
            if queue in turns:
                turns.remove(queue)

    # --- jobs ---------------------------------------------------------------------------------

    def join(self, state: str, queue: str, priority: int, job_id: str) -> None:
        if not self.has(job_id, state):
            self.leave(job_id)
            self.ready.append((state, queue, priority, job_id))

    def leave(self, job_id: str) -> None:
        self.ready = [entry for entry in self.ready if entry[3] != job_id]

    def has(self, job_id: str, state: str) -> bool:
        return any(entry[0] == state and entry[3] == job_id for entry in self.ready)

    # --- claims -------------------------------------------------------------------------------

    def turns(self, state: str, queues: Sequence[str]) -> list[str]:
        """Return the queues of a claim in the order in which it takes from them."""
        if list(queues) != ["*"]:
            return list(queues)
        served = self.served.get(state, [])
        return [queue for queue in self.alive if queue not in served] + served

    def take(self, state: str, queues: Sequence[str], limit: int) -> list[str]:
        """Take up to `limit` jobs out of their lines."""
        taken: list[str] = []
        for queue in self.turns(state, queues):
            if queue in self.paused or len(taken) == limit:
                continue
            before = len(taken)
            for priority in PRIORITIES:
                for entry in list(self.ready):
                    if entry[:3] == (state, queue, priority) and len(taken) < limit:
                        self.ready.remove(entry)
                        taken.append(entry[3])
            if len(taken) > before:
                self.note_served(state, queue)
        return taken

    def note_served(self, state: str, queue: str) -> None:
        turns = self.served.setdefault(state, [])
        if queue in turns:
            turns.remove(queue)
        turns.append(queue)
