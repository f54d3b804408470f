"""The broker that tests use: a real one, in a thread of this process, with a time of its own."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final, Self

import tollgate
from tollgate.broker.settings import load_options
from tollgate.client.aio import AsyncClient
from tollgate.client.clock import shared_clocks
from tollgate.client.errors import ClientClosedError
from tollgate.client.sync import Client
from tollgate.testing.clock import SharedClock, SteppedTime
from tollgate.testing.thread import BrokerThread

if TYPE_CHECKING:
    from tollgate.domain.models import Job
    from tollgate.worker.settings import HandlerOrName

PATIENCE_S: Final = 60.0
"""How long one turn of the broker may take before a test is told that it hangs."""
CLOSE_S: Final = 2.0
"""How long to wait for the event loops of asyncio clients that were left open."""
DIRECTORY_MAX: Final = 60
"""Characters that the path of the system's temporary folder may have: a socket's is short."""
QUICK: Final = {"drain_ms": 0, "linger_ms": 100, "fsync": "never"}
"""Settings with which a broker starts and leaves at once. What is not on the disk is with the
kernel, so a restart finds it."""
PLACEHOLDER: Final = ["ipc:///broker.sock"]
OWN: Final = ("bind", "in_memory")
"""Settings that this module decides."""


class BrokerFailedError(RuntimeError):
    """The broker of a test has ended with an exception, which is the cause of this one."""


class Broker:
    """A broker of tollgate for tests: its real engine, loop and socket, in a thread.

    with Broker() as broker, broker.connect() as client: ...

    Its time of day stands still, from `start` on (by default now, in whole seconds), until
    `advance`. It keeps its jobs in memory, or in `data_dir`. `settings` are those of
    `tollgate broker`, by the names of its options with `_`, such as `text_bytes=1_000`; the
    environment is not read. A process can have several at once.

    All methods may be called in any thread, and in a coroutine; but in a coroutine use
    `drain_async` instead of `drain`.

    Raises:
        SettingsError: a setting is unknown or out of range.
        ValueError: `start` has no time zone.
        BrokerFailedError: at each call, and at the end of `with`: the broker has failed.

    """

    def __init__(
        self,
        *,
        start: datetime | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        **settings: Any,  # noqa: ANN401 - a test may set any of them
    ) -> None:
        for name in OWN:
            if name in settings:
                raise TypeError(f"a Broker for tests decides {name} itself")
        kept: dict[str, Any] = (
            {"in_memory": True} if data_dir is None else {"data_dir": Path(data_dir).absolute()}
        )
        self._options = {**QUICK, **settings, **kept}
        load_options({**self._options, "bind": PLACEHOLDER})  # raises where it was written
        self._stepped = SteppedTime(start or datetime.now(UTC).replace(microsecond=0))
        self._stack = ExitStack()
        self._endpoint: str | None = None
        self._thread: BrokerThread | None = None
        self._control: Client | None = None
        self._control_lock = Lock()
        self._clients: list[Client | AsyncClient] = []
        self._workers: list[tollgate.Worker] = []
        self._pid = 0

    def __enter__(self) -> Self:
        """Start it. A broker is started once; see `restart`."""
        if self._endpoint is not None:
            raise RuntimeError("this broker was started before: make another one")
        system = tempfile.gettempdir()
        folder = tempfile.TemporaryDirectory(
            prefix="tollgate-",
            dir="/tmp" if len(system) > DIRECTORY_MAX else system,  # noqa: S108 - it is private
            ignore_cleanup_errors=True,
        )
        self._pid = os.getpid()
        with ExitStack() as stack:
            self._endpoint = f"ipc://{stack.enter_context(folder)}/broker.sock"
            shared_clocks[self._endpoint] = SharedClock(self._stepped)
            stack.callback(shared_clocks.pop, self._endpoint)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its clients, and stop it; further calls do nothing.

        Raises BrokerFailedError if it has failed before.
        """
        thread, self._thread = self._thread, None
        if thread is None or self._pid != os.getpid():  # a child has none of the threads
            return
        with self._stack:
            self._close_clients(CLOSE_S)
            thread.stop()
        _check(thread)

    def restart(self) -> None:
        """Stop it and start it again, at the same endpoint and time, as a deployment does.

        With `data_dir` it has all jobs again, and leases begin anew; without, it has none.
        """
        self._running().stop()
        _check(self._running())
        self._forget_control()
        self._start()

    @property
    def endpoint(self) -> str:
        """Where clients and workers of other threads and processes connect."""
        self._running()
        return self._endpoint or ""

    @property
    def now(self) -> datetime:
        """The broker's time of day, in UTC."""
        return self._stepped.now

    def advance(self, by: float | timedelta) -> datetime:
        """Let so many seconds, or a timedelta, pass for the broker; return its new time.

        Deadlines, leases, delays, parked calls and retention go by it. What becomes due is decided
        when this returns; 0 decides what is due already. Raises ValueError for a negative span.
        """
        self._running()
        self._stepped.advance(by)
        with self._controlling() as control:
            control.ping()  # it is answered when nothing but the removal of old jobs is left
            while self._running().has_work():
                control.ping()
        return self.now

    def connect(self, *, timeout_s: float = 10.0, name: str | None = None) -> Client:
        """Return a client, which is closed with the broker at the latest."""
        client = Client(self.endpoint, timeout_s=timeout_s, name=name)
        self._clients.append(client)
        return client

    def connect_async(self, *, timeout_s: float = 10.0, name: str | None = None) -> AsyncClient:
        """Return a client for asyncio. Close it in its event loop, as `async with` does."""
        client = AsyncClient(self.endpoint, timeout_s=timeout_s, name=name)
        self._clients.append(client)
        return client

    def pay(self, job: "Job | str") -> "Job":
        """Confirm the payment of a job, given itself or by its id: it is `running` then.

        Raises InvalidStateTransitionError if it does not await one, and JobNotFoundError.
        """
        job_id = job if isinstance(job, str) else job.job_id
        with self._controlling() as control:
            return control.transition(job_id, "running")

    def drain(self, handler: "HandlerOrName", **options: Any) -> int:  # noqa: ANN401
        """Run a real worker on all jobs that are ready; return how many it has finished.

        `handler` and `options` are those of `tollgate.Worker`. It returns when no job is ready,
        nothing is worked on, and nothing waits for an answer. What is tried again later is not
        ready: advance the time, and drain again.
        """
        with self._working(handler, options) as worker:
            return worker.drain()

    async def drain_async(self, handler: "HandlerOrName", **options: Any) -> int:  # noqa: ANN401
        """Do the same in a running event loop, in which async handlers run, too."""
        with self._working(handler, options) as worker:
            return await worker.drain_async()

    @contextmanager
    def _working(
        self, handler: "HandlerOrName", options: dict[str, Any]
    ) -> "Iterator[tollgate.Worker]":
        worker = tollgate.Worker(handler, self.endpoint, **options)
        self._workers.append(worker)
        try:
            yield worker
        finally:
            self._workers.remove(worker)
            self._running()

    @contextmanager
    def _controlling(self) -> Iterator[Client]:
        """Give the client of this object, in one thread at a time."""
        with self._control_lock:
            self._running()
            if self._control is None:
                self._control = Client(self.endpoint, timeout_s=PATIENCE_S, name="tollgate.testing")
            try:
                yield self._control
            except ClientClosedError:
                self._running()  # raises why
                raise

    def _start(self) -> None:
        settings = load_options({**self._options, "bind": [self._endpoint]})
        self._thread = BrokerThread(settings, self._stepped, self._end_calls)
        try:
            self._thread.start()
        except BaseException:
            self._thread = None
            raise

    def _running(self) -> BrokerThread:
        thread = self._thread
        if thread is None:
            state = "not started: say `with Broker() as broker`" if not self._pid else "closed"
            raise RuntimeError(f"this broker is {state}")
        _check(thread)
        return thread

    def _forget_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()

    def _end_calls(self) -> None:
        """End what waits for a broker that has failed: clients, and workers in `drain`."""
        for worker in [*self._workers]:
            worker.stop()
        self._close_clients(0)

    def _close_clients(self, wait_s: float) -> None:
        self._forget_control()
        clients, self._clients = self._clients, []
        for client in clients:
            if isinstance(client, Client):
                client.close()
        _close_async([each for each in clients if isinstance(each, AsyncClient)], wait_s)


def _check(thread: BrokerThread) -> None:
    if (fault := thread.failure) is not None:
        text = f"the broker has failed: {type(fault).__name__}: {fault}"
        raise BrokerFailedError(text) from fault


def _close_async(clients: Sequence[AsyncClient], wait_s: float) -> None:
    """Close clients of any event loops; those of the loop of this thread are left to its tasks."""
    if not clients:
        return

    async def close_all() -> None:
        await asyncio.gather(*(client.close() for client in clients))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # In a thread: `asyncio.run` would leave this one without the event loop that it had.
        closer = Thread(target=asyncio.run, args=(close_all(),), daemon=True)
        closer.start()
        closer.join(wait_s)
