"""Keeps the leases of a web process, in a thread of its own with a socket of its own.

A handler may block the event loop for minutes: its lease is extended all the same. After the stop
of its app, a handler may have left a thread: its job stays away from others until the process ends.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import msgspec

from tollgate.client.errors import ClientClosedError, may_pass
from tollgate.client.results import Lease
from tollgate.client.sync import Client
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseLostError,
    TollgateError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING
from tollgate.job_log import log_fields

log = logging.getLogger("tollgate.masumi")

TOUCHES: Final = 3
"""Touches per lease time, so that two may fail before the lease lapses."""
ANSWER_S_MIN, ANSWER_S_MAX = 1.0, 5.0
AGAIN_S: Final = 0.2
"""How long the thread pauses after a fault."""
JOIN_S: Final = 1.0
STOPPED: Final = "its web process stopped"
"""The reason in the history of a job that was put off."""


class Held(msgspec.Struct, eq=False):
    """A job that this process has a lease on."""

    job_id: str
    token: int
    works: bool
    """Whether its handler runs here; else its payment is watched."""
    rounds: int
    """How many questions it has asked, as far as this process knows."""
    log_fields: dict[str, object]
    """What each log line about it carries."""
    asks: bool = False
    """Whether one more question is on its way to the broker."""
    is_ending: bool = False
    """Its last status is on its way to the broker."""
    is_put_off: bool = False
    """Whether its lease was given back with a delay; see `LeaseKeeper.leave`."""


class LeaseKeeper:
    """Touches all held leases three times per `lease_ms`.

    A lease that lapsed, because the machine stood still, is claimed again by the id of its job if
    no other process has had the job since. If it cannot be had, `on_lost` is called in the thread.

    Args:
        make_client: makes a client with a time limit for its calls, in s.
        lease_ms: how long a lease lasts after a touch.
        on_lost: called with a job whose lease is gone for good.

    """

    def __init__(
        self,
        make_client: Callable[[float], Client],
        lease_ms: int,
        on_lost: Callable[[Held], None],
    ) -> None:
        self._make_client = make_client
        self._lease_ms = lease_ms
        self._every_s = lease_ms / 1_000 / TOUCHES
        self._on_lost = on_lost
        self._held: dict[str, Held] = {}
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._touched_at = monotonic()
        """When the last touch began whose answers have all been seen to."""
        self._leaves = False
        self.tokens: dict[str, int] = {}
        """The token of each held lease, by job id."""

    def start(self) -> None:
        """Start the thread. It is a daemon: it never keeps a process from its end."""
        self._thread = threading.Thread(target=self._run, name="tollgate leases", daemon=True)
        self._thread.start()

    def hold(self, lease: Lease, *, works: bool) -> Held:
        """Begin to touch a lease; it takes the place of an earlier one on the job."""
        job = lease.job
        held = Held(job.job_id, lease.token, works, len(job.inputs or ()), log_fields(job))
        self._held[job.job_id] = held
        self.tokens[job.job_id] = lease.token
        return held

    def adopt(self, lease: Lease) -> bool:
        """Go on with a handler whose lease lapsed, under the new one; return whether that is right.

        It is if this process still has the handler, and no other one has moved its job on.
        """
        held = self._held.get(lease.job.job_id)
        if held is None or not held.works or not _is_as_left(lease.job, held):
            return False
        held.token = self.tokens[held.job_id] = lease.token
        return True

    def may_have_lapsed(self) -> bool:
        """Return whether leases may have lapsed unseen, because the machine stood still."""
        return (monotonic() - self._touched_at) * 1_000 > self._lease_ms

    def drop(self, held: Held) -> None:
        """Stop touching a lease."""
        if self._held.get(held.job_id) is held:
            del self._held[held.job_id]
            self.tokens.pop(held.job_id, None)

    def holder(self, job_id: str) -> Held | None:
        """Return the held job of this id."""
        return self._held.get(job_id)

    def all(self) -> list[Held]:
        """Return all held jobs."""
        return list(self._held.values())

    def wake(self) -> None:
        """Touch all leases at once: one of them seems to have lapsed."""
        self._wake.set()

    def leave(self) -> None:
        """Begin to give back all leases, because the app stops.

        A job whose handler ran here is given back with a delay of `lease_ms`: until then, claims of
        its queue pass it over. The delay begins anew as long as this process is there, because the
        handler may have left a thread. A lease that is left to lapse would count, and the broker
        fails a job for the fifth lapse.
        """
        self._leaves = True
        self._wake.set()

    def has_left(self) -> bool:
        """Return whether all leases have been given back once."""
        return all(held.is_put_off for held in self.all())

    def close(self) -> None:
        """End the thread: the leases that are held then lapse by themselves."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        answer_s = min(max(self._every_s, ANSWER_S_MIN), ANSWER_S_MAX)
        while not self._closed.is_set():
            try:
                with self._make_client(answer_s) as client:
                    while not self._closed.is_set():
                        (self._give_back if self._leaves else self._touch)(client)
                        self._pause()
            except Exception:  # no files left, for example: that may pass
                log.exception("the lease thread begins anew after a fault")
                self._closed.wait(AGAIN_S)

    def _pause(self) -> None:
        begun_at = monotonic()
        self._wake.wait(self._every_s)
        if self._wake.is_set():
            self._closed.wait(max(0.0, AGAIN_S - (monotonic() - begun_at)))
            self._wake.clear()

    def _touch(self, client: Client) -> None:
        """Touch all leases in one message; each has its own answer."""
        begun_at = monotonic()
        due = [(held, held.token) for held in self.all()]
        if not due:
            self._touched_at = begun_at
            return
        batch = client.batch()
        for held, token in due:
            batch.touch(held.job_id, token, lease_ms=self._lease_ms)
        try:
            answers = batch.send()
        except ClientClosedError:
            raise
        except TollgateError as fault:
            log.debug("leases were not touched: %s", fault)
            return
        for (held, token), answer in zip(due, answers, strict=True):
            if isinstance(answer, LeaseLostError | JobNotFoundError):
                is_held = self._held.get(held.job_id) is held and held.token == token
                if is_held and not self._regain(client, held) and held.token == token:
                    self._lose(held)
        self._touched_at = begun_at

    def _give_back(self, client: Client) -> None:
        for held in self.all():
            try:
                self._give_one_back(client, held)
            except ClientClosedError:
                raise
            except TollgateError as fault:
                if held.works and isinstance(fault, LeaseLostError):
                    held.is_put_off = True  # it lapsed: from now on it is claimed first
                elif not may_pass(fault):
                    self.drop(held)
        if not self.all():
            self._closed.set()

    def _give_one_back(self, client: Client, held: Held) -> None:
        if held.is_put_off:  # a claim by id ignores the delay
            granted = client.claim(RUNNING, job_ids=held.job_id, lease_ms=self._lease_ms)
            if not granted:
                self.drop(held)  # it has ended, or another process has it
                return
            held.token = self.tokens[held.job_id] = granted[0].token
            held.is_put_off = False
        try:
            if held.works:
                delay_s = self._lease_ms / 1_000
                client.release(held.job_id, held.token, delay_s=delay_s, reason=STOPPED)
                held.is_put_off = True
                self.tokens.pop(held.job_id, None)  # a late end of the handler needs no lease
                return
        except InvalidStateTransitionError:
            pass  # it waits for a human
        client.release(held.job_id, held.token)
        self.drop(held)

    def _lose(self, held: Held) -> None:
        if self._held.get(held.job_id) is held:
            self.drop(held)
            self._on_lost(held)

    def _regain(self, client: Client, held: Held) -> bool:
        """Claim a job again; return whether it is held, or may be at the next try."""
        try:
            job = client.get(held.job_id)
            if not _is_as_left(job, held):
                return False
            granted = client.claim(job.status, job_ids=held.job_id, lease_ms=self._lease_ms)
        except JobNotFoundError:
            return False
        except TollgateError as fault:
            return may_pass(fault)
        for lease in granted:
            if self._held.get(held.job_id) is held and _is_as_left(lease.job, held):
                log.warning(
                    "job %s: the lease had lapsed, and was granted again",
                    held.job_id, extra=held.log_fields,
                )  # fmt: skip
                held.token = self.tokens[held.job_id] = lease.token
                return True
            with suppress(TollgateError):
                client.release(held.job_id, lease.token)
        return False


def _is_as_left(job: Job, held: Held) -> bool:
    """Return whether no other process has moved the job on: it would have asked, or ended it."""
    if not held.works:
        return job.status is AWAITING_PAYMENT
    is_open = job.status in {RUNNING, AWAITING_INPUT}
    return is_open and len(job.inputs or ()) - held.rounds in {0, int(held.asks)}
