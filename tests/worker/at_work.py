"""A worker's real parts, from the claims to the lease thread, at work on a scripted broker."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.worker.script import PATIENCE_S, Script, ScriptedClient, ScriptedLink, until
from tollgate.worker.broker_status import BrokerStatus
from tollgate.worker.executor import Executor
from tollgate.worker.handlers import LoopExecutor, ThreadExecutor, is_async
from tollgate.worker.payments import PaymentSimulator, PaymentStage
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.questions import Questions
from tollgate.worker.runner import Runner
from tollgate.worker.settings import WorkerSettings
from tollgate.worker.tries import why_spent
from tollgate.worker.work import WorkStage

Handler = Callable[..., Any]
Start = Callable[..., "AtWork"]


class AtWork:
    """A runner that runs, with one stage."""

    def __init__(
        self,
        link: Any,
        handler: Handler | None,
        *,
        executor: Executor | None = None,
        simulator: PaymentSimulator | None = None,
        asking_max: int = 1_000,
        clock: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {
            "endpoint": "ipc:///somewhere", "lease_ms": 600_000, "stop_grace_s": PATIENCE_S,
        }  # fmt: skip
        if simulator is not None:
            given |= {"simulate_payments": True, "only": "payments"}
        settings = WorkerSettings(**given | options)
        policy = RetryPolicy(settings.max_attempts, settings.backoff_s, settings.on_exhausted)
        self.link: ScriptedLink = link
        self.script: Script = link.script
        self.runner = Runner(
            link, BrokerStatus("ipc:///somewhere"), settings, policy,
            lambda _: ScriptedClient(link.script),  # type: ignore[arg-type,return-value]
        )  # fmt: skip
        self.executor = executor
        if simulator is not None:
            self.payments = PaymentStage(
                simulator, settings.payments_max, self.runner, **{"clock": clock} if clock else {}
            )
            self.runner.add(self.payments)
        if handler is not None:
            if executor is None:
                kind = LoopExecutor if is_async(handler) else ThreadExecutor
                self.executor = executor = kind(handler)
            assert executor is not None
            self.stage = WorkStage(settings, executor, policy, self.runner)
            self.stage.questions = Questions(link, self.runner.settler, self.stage, asking_max)
            self.stage.why_spent = partial(why_spent, link)
            self.runner.add(self.stage)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        if self.executor is not None:
            await self.executor.open()
        await self.runner.run()

    async def stopped(self) -> list[tuple[Any, ...]]:
        """Stop, and return what was said about jobs."""
        self.runner.stop()
        return await self.ended()

    async def ended(self) -> list[tuple[Any, ...]]:
        await asyncio.wait_for(asyncio.shield(self.task), PATIENCE_S)
        return self.script.outcomes()

    async def until_outcomes(self, number: int) -> list[tuple[Any, ...]]:
        await until(lambda: len(self.script.outcomes()) >= number)
        return self.script.outcomes()

    def close(self) -> None:
        self.task.cancel()
        self.runner.keeper.close()
        if self.executor is not None:
            self.executor.close()
