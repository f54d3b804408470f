"""What the tests of the testing kit look at inside its broker."""

from typing import Any

from tollgate.broker.core.pipeline import Pipeline
from tollgate.testing import Broker


def pipeline_of(broker: Broker) -> Pipeline:
    assembled = broker._running()._assembled
    assert assembled is not None
    return assembled.pipeline


def is_parked(broker: Broker) -> bool:
    """Return whether a claim or a wait is parked."""
    return bool(pipeline_of(broker)._context.waiters.parked)


def pauses_of(broker: Broker) -> int:
    clock = broker._running()._clock
    assert clock is not None
    return clock.pauses


def fail(broker: Broker, fault: BaseException) -> None:
    """Let the loop of a broker raise, as soon as it has something to do."""

    def raises(*arguments: Any, **options: Any) -> Any:
        raise fault

    pipeline_of(broker).run = raises  # type: ignore[method-assign]
