"""What `resume` uses of the SDK, for machines without it: the same names, and the same order.

`test_sdk.py` compares the names and their signatures with the real SDK where that is installed, and
`python -m tests.masumi_sdk` runs the real one. Each `Sdk` stands for one process: the real one
keeps events and payments in module globals.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Funds:
    """The payments whose funds are locked."""

    def __init__(self) -> None:
        self._locked: set[str] = set()
        self._changed = asyncio.Event()

    def lock(self, identifier: str) -> None:
        self._locked.add(identifier)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, identifiers: set[str]) -> str:
        while not (found := identifiers & self._locked):
            await self._changed.wait()
        return found.pop()


class Payment:
    """Watches its payment until its funds are locked."""

    def __init__(
        self,
        agent_identifier: str,
        config: Any = None,
        network: str = "Preprod",
        identifier_from_purchaser: str = "default_purchaser_id",
    ) -> None:
        self.config = config
        self.input_hash: str | None = None
        self.payment_ids: set[str] = set()
        self.completed: list[tuple[str, str]] = []
        self._status_check_task: asyncio.Task[None] | None = None

    async def start_status_monitoring(
        self, callback: Any = None, interval_seconds: int = 10
    ) -> None:
        self.config.monitored.append(self)
        self._status_check_task = asyncio.create_task(self._monitor(callback))

    async def _monitor(self, callback: Any) -> None:
        identifier = await self.config.funds.wait_for(self.payment_ids)
        self.callback = asyncio.create_task(callback({"blockchainIdentifier": identifier}))
        await asyncio.sleep(60)  # until the result is on chain

    async def complete_payment(self, blockchain_identifier: str, job_output: str) -> Any:
        self.completed.append((blockchain_identifier, job_output))

    def stop_status_monitoring(self) -> None:
        if self._status_check_task is not None:
            self._status_check_task.cancel()
            self._status_check_task = None


class JobManager:
    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self._payment_instances: dict[str, Any] = {}

    async def create_job(self, job: dict[str, Any], payment: Any) -> str:
        await self.storage.create_job(job["job_id"], job)
        self._payment_instances[job["job_id"]] = payment
        return str(job["job_id"])

    async def get_job(self, job_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self.storage.get_job(job_id)
        return found

    async def update_job_status(self, job_id: str, status: str, **kwargs: Any) -> None:
        await self.storage.update_job(job_id, {"status": status, **kwargs})

    async def set_job_completed(self, job_id: str, result: str) -> None:
        payment = self.get_payment_instance(job_id)
        job = await self.storage.get_job(job_id)
        if payment:
            await payment.complete_payment(job["payment_id"], result)
        await self.update_job_status(job_id, "completed", result=result)

    async def set_job_failed(self, job_id: str, error: str) -> None:
        await self.update_job_status(job_id, "failed", error=error)

    async def set_job_awaiting_input(
        self, job_id: str, input_schema: Any = None, message: str | None = None
    ) -> None:
        updates: dict[str, Any] = {"status": "awaiting_input"}
        if input_schema is not None:
            updates["awaiting_input_schema"] = input_schema
        if message is not None:
            updates["awaiting_input_message"] = message
        await self.update_job_status(job_id, **updates)

    async def resume_job_with_input(self, job_id: str, input_data: dict[str, Any]) -> None:
        raise AssertionError("it is replaced")

    def get_payment_instance(self, job_id: str) -> Any:
        return self._payment_instances.get(job_id)

    async def cleanup_payment_instance(self, job_id: str) -> None:
        self._payment_instances.pop(job_id, None)


class EndpointHandler:
    def __init__(self, start: Handler, answer: Handler | None) -> None:
        self._start, self._answer = start, answer

    def get_start_job_handler(self) -> Handler | None:
        return self._start

    def get_provide_input_handler(self) -> Handler | None:
        return self._answer


class Hitl:
    """The module `hitl`."""

    def __init__(self) -> None:
        self._input_events: dict[str, asyncio.Event] = {}
        self._input_data_store: dict[str, dict[str, Any]] = {}
        self.context: ContextVar[tuple[str, JobManager]] = ContextVar("job")

    async def request_input(self, input_schema: Any, message: str | None = None) -> dict[str, Any]:
        job_id, manager = self.context.get()
        if job_id not in self._input_events:
            self._input_events[job_id] = asyncio.Event()
        else:
            self._input_events[job_id].clear()
        await manager.set_job_awaiting_input(job_id, input_schema, message)
        await self._input_events[job_id].wait()
        answer = self._input_data_store.pop(job_id, {})
        self._input_events.pop(job_id, None)
        return answer

    def provide_input_to_job(self, job_id: str, input_data: dict[str, Any]) -> None:
        self._input_data_store[job_id] = input_data
        if job_id in self._input_events:
            self._input_events[job_id].set()


class Sdk:
    """A `MasumiAgentServer` in a process of its own."""

    def __init__(
        self,
        storage: Any,
        handler: Callable[["Sdk", dict[str, Any]], Awaitable[Any]],
        funds: Funds,
        answer: Handler | None = None,
        **config: Any,
    ) -> None:
        self.hitl = Hitl()
        self.calls = 0
        self.job_manager = JobManager(storage)
        self.handler = EndpointHandler(self._called, answer)
        self.config = SimpleNamespace(funds=funds, monitored=[], **config)
        self.agent_identifier, self.network = "a" * 60, "Preprod"
        self.app = SimpleNamespace(
            router=SimpleNamespace(lifespan_context=_lifespan),
            routes=[SimpleNamespace(path="/docs"), SimpleNamespace(endpoint=self._endpoint())],
        )
        self._agent = handler

    def _endpoint(self) -> Any:
        """Return an endpoint as the SDK has them: it knows its server, which its app does not."""

        async def get_status(job_id: str) -> Any:
            return await self.job_manager.get_job(job_id)

        return get_status

    async def _called(self, identifier: str, input_data: dict[str, Any]) -> Any:
        self.calls += 1
        return await self._agent(self, input_data)

    async def _handle_payment_confirmed(self, job_id: str, payment_id: str) -> None:
        raise AssertionError("it is replaced")

    async def _execute_agent_job(self, job_id: str) -> None:
        try:
            job = await self.job_manager.get_job(job_id)
            assert job is not None
            handler = self.handler.get_start_job_handler()
            assert handler is not None
            self.hitl.context.set((job_id, self.job_manager))
            try:
                result = await handler(job["identifier_from_purchaser"], job["input_data"])
            except Exception as fault:  # noqa: BLE001 - as the SDK does
                await self.job_manager.set_job_failed(job_id, str(fault))
                return
            text = result if isinstance(result, str) else json.dumps(result)
            try:
                await self.job_manager.set_job_completed(job_id, text)
            except Exception as fault:  # noqa: BLE001
                await self.job_manager.set_job_failed(job_id, f"Job completion failed: {fault}")
        except Exception as fault:  # noqa: BLE001
            await self.job_manager.set_job_failed(job_id, str(fault))

    # --- what HTTP would call -------------------------------------------------------------------

    async def start_job(self, job: dict[str, Any]) -> Payment:
        payment = Payment(self.agent_identifier, config=self.config)
        payment.payment_ids.add(job["payment_id"])
        job_id = await self.job_manager.create_job(job, payment)

        async def confirmed(told: dict[str, Any]) -> None:
            await self._handle_payment_confirmed(job_id, told["blockchainIdentifier"])

        await payment.start_status_monitoring(callback=confirmed)
        return payment

    async def provide_input(self, job_id: str, input_data: dict[str, Any]) -> None:
        custom = self.handler.get_provide_input_handler()
        if custom:
            await custom(job_id, input_data)
        else:
            job = await self.job_manager.storage.get_job(job_id)
            if job["status"] != "awaiting_input":
                raise ValueError(f"Job {job_id} is not awaiting input")
            await self.job_manager.resume_job_with_input(job_id, input_data)
        self.hitl.provide_input_to_job(job_id, input_data)

    @contextmanager
    def imported(self) -> Iterator[None]:
        """Have its modules found as those of `masumi`."""
        names = {"masumi": SimpleNamespace(), "masumi.hitl": self.hitl}
        names["masumi.payment"] = SimpleNamespace(Payment=Payment)
        before = {name: sys.modules.get(name) for name in names}
        sys.modules.update(names)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for name, module in before.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    yield
