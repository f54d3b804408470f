"""Keeps the leases of a worker, in a thread of its own with a socket of its own.

A handler may block the event loop, or all of the worker's other threads may be busy: the leases are
extended all the same.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

from tollgate.client.errors import ClientClosedError, may_pass
from tollgate.client.results import Lease, Touched
from tollgate.client.sync import Client
from tollgate.domain.exceptions import (
    JobNotFoundError,
    LeaseLostError,
    TollgateError,
)
from tollgate.job_log import log_fields
from tollgate.worker.broker_status import one_line
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import GiveBack, Outcome

log = logging.getLogger("tollgate.worker")

TOUCHES: Final = 3
"""Touches per lease time, so that two may fail before the lease lapses."""
PROGRESS_S: Final = 1.1
"""The broker keeps one progress a second of each job, by the time when it gets them."""
ANSWER_S_MIN: Final = 1.0
ANSWER_S_MAX: Final = 5.0
AGAIN_S: Final = 0.2
"""How long the thread pauses after a fault of its own."""
LAST_S: Final = 0.3
"""How long a worker that must leave tries to give its leases back."""


def answer_s(lease_ms: int) -> float:
    """Return how long to wait for an answer: there must be time for another try of a touch."""
    return min(max(lease_ms / 1_000 / TOUCHES, ANSWER_S_MIN), ANSWER_S_MAX)


class LeaseListener(Protocol):
    """Is told, in the lease thread, what the broker says about leases."""

    def lease_lost(self, held: HeldJob, token: int, reason: TollgateError) -> None:
        """The lease `token` is over, and the job could not be had back."""
        ...

    def stop_was_requested(self, held: HeldJob) -> None:
        """Somebody asked the holder of the job to stop."""
        ...


class LeaseKeeper:
    """Touches all held leases three times per `lease_ms`, and sends the progress of their jobs.

    A lease that lapsed, because the worker or the machine stood still, is claimed again by the id
    of its job, if no other worker has it.
    """

    def __init__(
        self, make_client: Callable[[float], Client], lease_ms: int, listener: LeaseListener
    ) -> None:
        """Take a function that makes a client with a time limit for its calls, in s."""
        self._make_client = make_client
        self._lease_ms = lease_ms
        self._every_s = lease_ms / 1_000 / TOUCHES
        self._listener = listener
        self._held: dict[str, HeldJob] = {}
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self._told: type[TollgateError] | None = None
        """Why touches fail, if the last one has."""

    def start(self) -> None:
        """Start the thread. It is a daemon: it never keeps a process from its end."""
        self._thread = threading.Thread(target=self._run, name="tollgate leases", daemon=True)
        self._thread.start()

    def hold(self, held: HeldJob) -> None:
        """Begin to touch a lease."""
        self._held[held.job_id] = held

    def drop(self, held: HeldJob) -> None:
        """Stop touching a lease."""
        if self._held.get(held.job_id) is held:
            del self._held[held.job_id]

    def holder(self, job_id: str) -> HeldJob | None:
        """Return the job of this id, if its lease is held."""
        return self._held.get(job_id)

    def limits(self) -> list[tuple[HeldJob, float]]:
        """Return the jobs whose handlers have a time limit, and when it ends (monotonic, in s)."""
        held = list(self._held.values())
        return [(each, each.limit_at) for each in held if each.limit_at is not None]

    def wake(self) -> None:
        """Have the progress of jobs sent soon; called in any thread."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, and its request if there is one."""
        self._closed.set()
        self._wake.set()
        if self._client is not None:
            self._client.close()
        if self._thread is not None:
            self._thread.join(LAST_S)

    def release_all(self, outcomes: Mapping[HeldJob, Outcome]) -> None:
        """Give all held leases back, in the calling thread: a last act, if the loop cannot.

        `outcomes` are those that were decided and perhaps not sent.
        """
        last = []
        for held in list(self._held.values()):
            outcome = outcomes.get(held, GiveBack())
            last.append(outcome.command(held.job_id, held.version, held.token))
        if last:
            with suppress(TollgateError), self._make_client(LAST_S) as client:
                client.send_many(last)

    def _run(self) -> None:
        touch_at = monotonic() + self._every_s
        while not self._closed.is_set():
            try:
                with self._make_client(answer_s(self._lease_ms)) as client:
                    self._client = client
                    self._keep(client, touch_at)
            except ClientClosedError:
                continue
            except Exception:  # no files left, for example: that may pass
                log.exception("the lease thread begins anew after a fault")
            touch_at = monotonic()
            self._closed.wait(AGAIN_S)

    def _keep(self, client: Client, touch_at: float) -> None:
        progress_at = 0.0
        while True:
            self._wake.wait(max(0.0, touch_at - monotonic()))
            pause_s = progress_at - monotonic()
            if self._wake.is_set() and pause_s > 0:
                self._closed.wait(min(pause_s, max(0.0, touch_at - monotonic())))
            if self._closed.is_set():
                return
            self._wake.clear()
            now = monotonic()
            held = list(self._held.values())
            if now < touch_at:
                held = [each for each in held if each.has_progress]
            else:
                touch_at = now + self._every_s
            progress_at = now + PROGRESS_S
            try:
                self._touch(client, held)
            except ClientClosedError:
                raise
            except Exception:
                log.exception("the lease thread goes on after a fault of its own")

    def _touch(self, client: Client, due: list[HeldJob]) -> None:
        """Touch leases in one message; each has its own answer."""
        if not due:
            return
        batch = client.batch()
        sent = []
        for held in due:
            progress = held.take_progress()
            text, fraction = progress or (None, None)
            token = held.token
            batch.touch(
                held.job_id, token, lease_ms=self._lease_ms, progress=text, fraction=fraction
            )
            sent.append((held, token, progress))
        try:
            answers = batch.send()
        except ClientClosedError:
            raise
        except TollgateError as fault:
            answers = [fault] * len(due)
        for (held, token, progress), answer in zip(sent, answers, strict=True):
            if progress is not None and isinstance(answer, TollgateError):
                held.put_progress_back(progress)
            self._judge(client, held, token, answer)

    def _judge(self, client: Client, held: HeldJob, token: int, answer: object) -> None:
        """Take the answer to a touch with `token`."""
        if isinstance(answer, LeaseLostError | JobNotFoundError):
            if held.token == token and not held.is_over:
                self._claim_again(client, held, token, answer)
        elif isinstance(answer, TollgateError):
            # A worker whose key has lost its role would fill the log with this.
            is_told = may_pass(answer) or type(answer) is self._told
            self._told = type(answer)
            level = logging.DEBUG if is_told else logging.WARNING
            log.log(
                level, "job %s: touch failed (%s)", held.job_id, one_line(answer),
                extra=log_fields(held.job),
            )  # fmt: skip
        elif isinstance(answer, Touched):
            self._told = None
            if answer.stop_requested and not held.stop_requested:
                self._listener.stop_was_requested(held)

    def _claim_again(
        self, client: Client, held: HeldJob, token: int, reason: TollgateError
    ) -> None:
        """Get the lease back, if the job is free and has not moved."""
        if held.is_asking:
            return  # claimed again when the answer has come
        lease = None
        try:
            if isinstance(reason, LeaseLostError):
                lease = self.claim(client, held)
        except TollgateError as fault:
            if may_pass(fault):
                return  # the next touch asks again
        if lease is not None:
            log.warning(
                "job %s: the lease had lapsed, and was granted again",
                held.job_id, extra=log_fields(held.job),
            )  # fmt: skip
        elif not held.is_over:
            self._listener.lease_lost(held, token, reason)

    def claim(self, client: Client, held: HeldJob) -> Lease | None:
        """Claim a held job again by its id; return the lease, or None if it cannot be had."""
        granted = client.claim(
            held.job.status, job_ids=[held.job_id], lease_ms=self._lease_ms, wait_ms=0
        )
        for lease in granted:
            is_ours = self._held.get(held.job_id) is held  # else it was settled meanwhile
            if is_ours and lease.job.version == held.version:
                held.regain(lease)
                return lease
            client.release(lease.job.job_id, lease.token)
        return None


class UnpaidLeases:
    """The latest `limit` leases on jobs that are never paid, kept to be released at a stop.

    They are not touched. The leases that are forgotten lapse by themselves.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def add(self, lease: Lease) -> None:
        """Remember a lease; an earlier one on the same job has lapsed."""
        self._tokens[lease.job.job_id] = lease.token
        self._tokens.move_to_end(lease.job.job_id)
        if len(self._tokens) > self._limit:
            self._tokens.popitem(last=False)

    def leases(self) -> list[tuple[str, int]]:
        """Return job id and token of each remembered lease."""
        return list(self._tokens.items())
