"""The calls of the blocking client that are one command each.

This file is made from aio_calls.py by `make twin`: change that file instead.
"""

import builtins
from collections.abc import Iterator, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from tollgate.client import commands as build
from tollgate.client.arguments import seconds
from tollgate.client.commands import AnySettlement, AnyStatus, Delay, JobId, Time
from tollgate.client.following import Following
from tollgate.client.results import Explanation, History, Lease, Page, Touched
from tollgate.client.waits import SlicedWait
from tollgate.domain.commands import AnyCommand
from tollgate.domain.exceptions import WaitTimeoutError
from tollgate.domain.results import CountResult, EventsResult, JobEvent, StatsResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job


class Calls:
    """What `Client` inherits. Each makes a command, asks the broker, and returns the value."""

    _timeout_s: float

    def _ask(self, command: AnyCommand, timeout_s: float | None) -> Any:  # noqa: ANN401
        raise NotImplementedError

    def _ask_until(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        raise NotImplementedError

    def _time_in(self, delay_ms: int, timeout_s: float | None) -> datetime:
        """Return the broker's time in so many milliseconds; ask for its time if it is not known."""
        raise NotImplementedError

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else seconds(timeout_s)

    # --- jobs -------------------------------------------------------------------------------------

    def create(  # noqa: PLR0913 - one argument a field
        self,
        input_hash: str | None = None,
        *,
        input: str | None = None,  # noqa: A002 - the field's name
        as_text: bool = False,
        identifier_from_purchaser: str | None = None,
        job_id: JobId | None = None,
        blockchain_identifier: str | None = None,
        pay_by_time: Time | None = None,
        submit_result_time: Time | None = None,
        queue: str | None = None,
        priority: int = 0,
        not_before: Time | None = None,
        delay_s: Delay | None = None,
        meta: str | None = None,
        traceparent: str | None = None,
        settle: bool = False,
        timeout_s: float | None = None,
    ) -> "Job":
        """Store a job in `awaiting_payment`, and return it.

        Without an `input_hash`, the hash of `input` is computed by MIP-004: JSON text is parsed
        first, plain text is hashed as a JSON string. What seems to be a mistake is refused: empty
        text, plain text within white space, broken JSON. With `as_text`, any text is plain text. A
        byte order mark is dropped. Without a `job_id`, a UUID4 is made. If the broker has a job
        with this id and equal fields, that job is returned as it is now.

        Claims take jobs by `queue` (None is `default`), those of `priority` 0 before those of 9,
        and in `running` none before `not_before`, or before `delay_s` have passed by the broker's
        clock. `meta` is text for yourself, `traceparent` the W3C Trace Context. With `settle`, the
        job counts as finished only when its settlement is.

        Raises:
            ArgumentError: the input seems to be a mistake, or JSON that no hash is defined for; the
                hash is not 64 lowercase hexadecimal digits, the id is not a UUID, a time has no
                time zone, both hash and input are missing, both `not_before` and `delay_s` are
                given, or the job would not be ready before its `submit_result_time`.
            JobConflictError: the id or the blockchain identifier belongs to a different job.
            RepositoryFullError: the broker stores as many jobs as it may, or has as many queues.
            TooLargeError: a text is longer than its limit.

        """
        if delay_s is not None:
            not_before = self._time_in(build.delay_of(delay_s, not_before), timeout_s)
        command = build.create(
            input_hash,
            input=input,
            as_text=as_text,
            identifier_from_purchaser=identifier_from_purchaser,
            job_id=job_id,
            blockchain_identifier=blockchain_identifier,
            pay_by_time=pay_by_time,
            submit_result_time=submit_result_time,
            queue=queue,
            priority=priority,
            not_before=not_before,
            meta=meta,
            traceparent=traceparent,
            settle=settle,
        )
        job: Job = self._ask(command, timeout_s)
        return job

    def get(
        self,
        job_id: JobId | None = None,
        *,
        blockchain_identifier: str | None = None,
        lease: bool = False,
        timeout_s: float | None = None,
    ) -> "Job":
        """Return a job as it is now, by its id or by the identifier of its payment on chain.

        Its `inputs` have all questions and answers. With `lease`, its `lease` tells who holds it.

        Raises:
            JobNotFoundError: there is no such job.

        """
        job: Job = self._ask(build.get(job_id, blockchain_identifier, lease=lease), timeout_s)
        return job

    def transition(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        target: AnyStatus,
        *,
        result: str | None = None,
        error: str | None = None,
        input_schema: str | None = None,
        expected_version: int | None = None,
        lease: int | None = None,
        keep_lease: bool = False,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> "Job":
        """Move a job to the status `target`, and return the job after that.

        `result` requires the target `completed`, `error` `failed`, `input_schema` `awaiting_input`.
        With `expected_version`, the job moves only if it is at that version. `lease` is the token
        of your lease on the job, if you hold one; with `keep_lease` and the target
        `awaiting_input`, you hold it on, and must touch it, while the job waits and after that.
        `force` ends the lease of another client; it is for the role `admin`, and requires
        `expected_version`.

        Raises:
            InvalidStateTransitionError: the state machine has no such transition.
            VersionConflictError: the job is not at `expected_version`.
            LeaseHeldError: another client holds a lease on the job.
            LeaseLostError: your lease has lapsed or ended, or was granted to another client.
            NotAuthorizedError: your roles do not allow this move, or `force`.
            TooLargeError: a text is longer than its limit, or the job has asked too often.
            JobNotFoundError: there is no such job.

        """
        command = build.transition(
            job_id,
            target,
            result=result,
            error=error,
            input_schema=input_schema,
            expected_version=expected_version,
            lease=lease,
            keep_lease=keep_lease,
            force=force,
        )
        job: Job = self._ask(command, timeout_s)
        return job

    def provide_input(
        self,
        job_id: JobId,
        input: str,  # noqa: A002 - the field's name
        *,
        expected_version: int,
        input_hash: str | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Give a job in `awaiting_input` its input, and return it, in `running` again.

        `expected_version` is the job's version when it asked, so that the input matches the
        question. `input_hash` is kept beside the input; nothing computes it. Raises the errors of
        `transition`.
        """
        command = build.provide_input(job_id, input, expected_version, input_hash=input_hash)
        job: Job = self._ask(command, timeout_s)
        return job

    def cancel(
        self, job_id: JobId, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Fail a job in `awaiting_payment`, and return it. Raises the errors of `transition`."""
        job: Job = self._ask(build.cancel(job_id, expected_version), timeout_s)
        return job

    def hold(
        self,
        job_id: JobId,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Keep a job from claims until `resume`, and return it; a lease on it stands.

        A job that is on hold stays so. Raises the errors of `transition`; a finished job is
        InvalidStateTransitionError.
        """
        command = build.hold(job_id, reason=reason, expected_version=expected_version)
        job: Job = self._ask(command, timeout_s)
        return job

    def resume(
        self, job_id: JobId, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Let claims have a job that was on hold, and return it.

        A job that is not on hold stays as it is. Raises JobNotFoundError and VersionConflictError.
        """
        command = build.resume(job_id, expected_version=expected_version)
        job: Job = self._ask(command, timeout_s)
        return job

    def request_stop(
        self,
        job_id: JobId,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Ask the holder of a job to stop, and return the job.

        The holder sees it in the answer to its next `touch`, and decides what it means. Raises the
        errors of `transition`; a finished job is InvalidStateTransitionError.
        """
        command = build.request_stop(job_id, reason=reason, expected_version=expected_version)
        job: Job = self._ask(command, timeout_s)
        return job

    def annotate(
        self,
        job_id: JobId,
        meta: str | None,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Replace the `meta` of a job, and return the job; None removes it.

        It does not change the job's version.

        Raises:
            JobNotFoundError: there is no such job.
            VersionConflictError: the job is not at `expected_version`.
            TooLargeError: the text is longer than its limit.

        """
        command = build.annotate(job_id, meta, expected_version=expected_version)
        job: Job = self._ask(command, timeout_s)
        return job

    def settle(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        *,
        lease: int | None = None,
        to: AnySettlement | None = None,
        result_hash: str | None = None,
        on_chain_state: str | None = None,
        reason: str | None = None,
        retry_after_s: Delay | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Move the settlement of a job to the state `to`, and return the job.

        Without `to`, only the other fields are noted. `lease` is the token of your lease on the
        settlement; it ends, unless both `to` and `retry_after_s` are None. With `retry_after_s`, it
        is not claimed again before that time.

        Raises:
            InvalidStateTransitionError: the state machine has no such move, or the job has no
                settlement.
            LeaseHeldError: another client holds a lease on it.
            LeaseLostError: your lease has lapsed or ended, or was granted to another client.
            NotAuthorizedError: your roles do not allow this move.
            JobNotFoundError: there is no such job.

        """
        command = build.settle(
            job_id,
            lease=lease,
            to=to,
            result_hash=result_hash,
            on_chain_state=on_chain_state,
            reason=reason,
            retry_after_s=retry_after_s,
        )
        job: Job = self._ask(command, timeout_s)
        return job

    # --- many jobs --------------------------------------------------------------------------------

    def count(
        self,
        status: AnyStatus | None = None,
        *,
        queue: str | None = None,
        settlement: AnySettlement | None = None,
        timeout_s: float | None = None,
    ) -> CountResult:
        """Return the number of jobs by status, and since when the oldest of each has been in it.

        All jobs are counted, or those in `status`, or those with a settlement in that state; of all
        queues, or of one.
        """
        command = build.count(status, queue=queue, settlement=settlement)
        count: CountResult = self._ask(command, timeout_s)
        return count

    def list_page(  # noqa: PLR0913 - one argument a field
        self,
        status: AnyStatus | None = None,
        *,
        queue: str | None = None,
        settlement: AnySettlement | None = None,
        newest: bool = False,
        lease: bool = False,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float | None = None,
    ) -> Page:
        """Return up to `limit` jobs (at most 1,000) in order of creation.

        They are all jobs, or those in `status`, or those with a settlement in that state; of all
        queues, or of one. With `newest`, the newest come first. With `lease`, the `lease` of each
        job tells who holds it. `after` is the `next` of the page before; None is the first page.
        """
        command = build.list_page(
            status,
            after,
            limit,
            queue=queue,
            settlement=settlement,
            newest=newest,
            lease=lease,
        )
        page: Page = self._ask(command, timeout_s)
        return page

    def list(  # noqa: PLR0913 - one argument a field
        self,
        status: AnyStatus | None = None,
        *,
        queue: str | None = None,
        settlement: AnySettlement | None = None,
        newest: bool = False,
        lease: bool = False,
        page: int = 100,
        timeout_s: float | None = None,
    ) -> Iterator["Job"]:
        """Yield all jobs in order of creation; `page` is how many to ask for at a time.

        A job that stays in `status` all the time is yielded once, whatever happens to other jobs.
        `timeout_s` is for each page; the other arguments are those of `list_page`.
        """
        after: str | None = None
        while True:
            part = self.list_page(
                status,
                queue=queue,
                settlement=settlement,
                newest=newest,
                lease=lease,
                after=after,
                limit=page,
                timeout_s=timeout_s,
            )
            yield from part.jobs
            after = part.next
            if after is None:
                return

    def history(self, job_id: JobId, *, timeout_s: float | None = None) -> History:
        """Return what happened to a job, by whom, and who holds it now.

        Raises:
            JobNotFoundError: there is no such job.

        """
        history: History = self._ask(build.history(job_id), timeout_s)
        return history

    def events_page(  # noqa: PLR0913 - one argument a field
        self,
        after: str | None = None,
        *,
        limit: int = 1_000,
        wait_ms: int = 0,
        queues: str | Sequence[str] | None = None,
        statuses: AnyStatus | Sequence[AnyStatus] | None = None,
        job_ids: JobId | Sequence[JobId] | None = None,
        texts: bool = False,
        timeout_s: float | None = None,
    ) -> EventsResult:
        """Return up to `limit` events (at most 1,000) after a position, and where to go on.

        `after` is the `as_of` of a page of jobs, of a count or a history, the `position` of an
        event, or the `next` of the page before; None is now. The events are those of jobs in these
        `queues`, of jobs in one of these `statuses` or that have just left it, and of these
        `job_ids`. `texts` adds inputs, results, errors, questions and answers.

        If there are none, wait for up to `wait_ms` (at most an hour); `timeout_s` is added to it.

        Raises:
            EventsGoneError: the events after this position are not kept: list the jobs anew.

        """
        command = build.events_page(
            after,
            limit=limit,
            wait_ms=wait_ms,
            queues=queues,
            statuses=statuses,
            job_ids=job_ids,
            texts=texts,
        )
        timeout_s = self._seconds(timeout_s) + wait_ms / 1_000
        result: EventsResult = self._ask(command, timeout_s)
        return result

    def events(  # noqa: PLR0913 - one argument a field
        self,
        after: str | None = None,
        *,
        queues: str | Sequence[str] | None = None,
        statuses: AnyStatus | Sequence[AnyStatus] | None = None,
        job_ids: JobId | Sequence[JobId] | None = None,
        texts: bool = False,
        follow: bool = True,
        page: int = 1_000,
        timeout_s: float | None = None,
    ) -> Iterator[JobEvent]:
        """Yield the events after a position, without a gap; with `follow`, wait for more.

        The broker may restart in between; to go on after an error or in another process, pass the
        `position` of the last event as `after`. `page` is how many to ask for at a time, and
        `timeout_s` is how long an answer may take. The other arguments are those of `events_page`.

        Raises:
            EventsGoneError: the reader is too slow, or the broker has another log or has started
                from a snapshot: list the jobs anew, and go on after the `as_of` of the first page.
            BrokerUnreachableError: a request was not answered in time.

        """
        following = Following(
            after,
            queues=queues,
            statuses=statuses,
            job_ids=job_ids,
            texts=texts,
            follow=follow,
            page=page,
            patience_s=self._seconds(timeout_s),
        )
        while not following.is_done:
            command, deadline = following.request(monotonic())
            yield from following.take(self._ask_until(command, deadline))

    def explain(self, job_id: JobId, *, timeout_s: float | None = None) -> Explanation:
        """Return why a job is where it is, and what comes next, all of one moment.

        `tollgate.explaining` puts it into words.

        Raises:
            JobNotFoundError: there is no such job.

        """
        explanation: Explanation = self._ask(build.explain(job_id), timeout_s)
        return explanation

    def stats(self, *, queue: str | None = None, timeout_s: float | None = None) -> StatsResult:
        """Return the figures of the broker: jobs, clients, loop, journal and connections.

        With `queue`, only that queue is shown among the queues.

        Raises:
            ReplyFullError: the broker was asked for too much at once: ask again.

        """
        stats: StatsResult = self._ask(build.stats(queue), timeout_s)
        return stats

    def pause_queue(self, queue: str, *, timeout_s: float | None = None) -> None:
        """Keep the jobs of a queue from claims until `resume_queue`; for the role `admin`."""
        self._ask(build.pause_queue(queue), timeout_s)

    def resume_queue(self, queue: str, *, timeout_s: float | None = None) -> None:
        """Let claims have the jobs of a paused queue; for the role `admin`."""
        self._ask(build.resume_queue(queue), timeout_s)

    # --- waits and leases -------------------------------------------------------------------------

    def wait(
        self,
        job_ids: JobId | Sequence[JobId],
        *,
        statuses: AnyStatus | Sequence[AnyStatus] | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Wait for one of up to 1,000 jobs to reach one of `statuses`, and return it.

        `completed` and `failed` always end the wait. With `timeout_s` None it has no end. The
        client sends waits of at most 15 s one after the other, so the broker may restart in
        between; each must be answered within the client's own `timeout_s` after its end. If the
        call is interrupted, the client tells the broker to end the wait.

        Raises:
            WaitTimeoutError: none of the jobs reached such a status within `timeout_s` seconds.
            JobNotFoundError: one of the jobs does not exist.
            BrokerUnreachableError: a wait was not answered in time.

        """
        until = None if timeout_s is None else monotonic() + seconds(timeout_s)
        wait = SlicedWait(job_ids, statuses, until, self._timeout_s)
        while True:
            command, deadline = wait.slice(monotonic())
            try:
                job: Job = self._ask_until(command, deadline)
            except WaitTimeoutError:
                if wait.over(monotonic()):
                    raise
            else:
                return job

    def claim(  # noqa: PLR0913 - one argument a field
        self,
        status: AnyStatus | None = None,
        *,
        settlement: AnySettlement | None = None,
        queue: str | None = None,
        queues: str | Sequence[str] | None = None,
        job_ids: JobId | Sequence[JobId] | None = None,
        lease_ms: int = 30_000,
        wait_ms: int = 0,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Lease]:
        """Claim up to `limit` free jobs in `status`, oldest first, each with a lease.

        In place of `status`, `settlement` takes jobs whose settlement is in that state. `queue`
        names one queue; `queues` several, jobs of the first one first, or `*` for all of them.
        Without them it is `default`, or all queues for `awaiting_payment` and settlements. In place
        of queues, `job_ids` takes these jobs, as far as they are free. `limit` is 1 by default, or
        the number of `job_ids`.

        If there is none, wait for one for up to `wait_ms` (at most an hour); the list is empty if
        none came. `timeout_s` is added to `wait_ms`. If the call has ended before the answer comes,
        the client tells the broker to end the claim, and releases the leases that still come.

        Raises:
            NotAuthorizedError: your roles do not claim such jobs.

        """
        command = build.claim(
            status,
            settlement=settlement,
            queue=queue,
            queues=queues,
            job_ids=job_ids,
            lease_ms=lease_ms,
            wait_ms=wait_ms,
            limit=limit,
        )
        timeout_s = self._seconds(timeout_s) + wait_ms / 1_000
        leases: builtins.list[Lease] = self._ask(command, timeout_s)
        return leases

    def touch(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        lease: int,
        *,
        lease_ms: int = 30_000,
        progress: str | None = None,
        fraction: float | None = None,
        timeout_s: float | None = None,
    ) -> Touched:
        """Extend a lease: it ends `lease_ms` from now. Return what the broker says to its holder.

        `progress`, a text, and `fraction`, from 0 to 1, are shown with the job. The broker takes
        them at most once a second.

        Raises:
            LeaseLostError: it has lapsed or ended, or was granted to another client: stop working.
            TooLargeError: `progress` is longer than its limit.

        """
        command = build.touch(job_id, lease, lease_ms, progress=progress, fraction=fraction)
        touched: Touched = self._ask(command, timeout_s)
        return touched

    def release(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        lease: int,
        *,
        delay_s: Delay | None = None,
        reason: str | None = None,
        hold: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Give a lease back, so that the job can be claimed again.

        With `delay_s` or `reason`, this counts as a try that has ended, and the job can be claimed
        again after `delay_s`. With `hold`, it can be claimed again after `resume`.

        Raises:
            LeaseLostError: it has lapsed or ended, or was granted to another client.
            InvalidStateTransitionError: the job is not running, so there can be no delay.
            TooLargeError: the delay is not shorter than the job's time, or the reason than its
                limit.

        """
        command = build.release(job_id, lease, delay_s=delay_s, reason=reason, hold=hold)
        self._ask(command, timeout_s)
