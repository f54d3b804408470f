"""Moves an agent of the Masumi SDK over to a broker: one call, whichever way the agent is started.

from tollgate.masumi import TollgateJobStorage, resume

app = create_masumi_app(...)  # as before; or a `MasumiAgentServer`
resume(app, TollgateJobStorage(queue="my-agent"))
"""

from collections.abc import Mapping
from importlib import import_module
from inspect import getclosurevars, isfunction
from typing import Any, Final

from tollgate.masumi.sdk.resumer import Resumer
from tollgate.masumi.sdk.storage import TollgateJobStorage
from tollgate.masumi.sdk.web_process import Settings

LEASE_MS_MIN: Final = 1_000


def resume(  # noqa: PLR0913 - one argument a setting
    app: Any,  # noqa: ANN401 - of the SDK, which is not imported here
    storage: TollgateJobStorage | None = None,
    *,
    lease_ms: int = 30_000,
    concurrency: int = 100,
    poll_s: float = 1.0,
    payment_poll_s: int = 10,
    proof_poll_s: float = 5.0,
    prove: bool = True,
    stop_grace_s: float = 5.0,
) -> Resumer:
    """Make an SDK agent share its jobs with its other web processes, and with those that follow.

    Call it once a process, before the app starts; it works from the app's startup on. Before a fork
    is fine too.

    Args:
        app: what `masumi.create_masumi_app` returns, or a `masumi.MasumiAgentServer`.
        storage: where the agent keeps its jobs from now on. It may be left out if the agent was
            made with `job_storage=TollgateJobStorage(...)`.
        lease_ms: how long a process may be silent before others take its jobs.
        concurrency: how many handlers run in one process.
        poll_s: how often a process looks for jobs that others left.
        payment_poll_s: how often the SDK asks for a payment that was taken over.
        proof_poll_s: how often the payment service is asked about a result.
        prove: whether hashes are submitted here; not if `tollgate payments masumi` runs.
        stop_grace_s: how long handlers may take to end when the app stops.

    Returns:
        What does it; `await resumer.start()` and `await resumer.stop()` are for apps whose startup
        does not run.

    Raises:
        TypeError: this is no agent of the SDK, or it has another storage.
        ValueError: `lease_ms` is below 1,000, or `resume` was called for this agent before.

    """
    if lease_ms < LEASE_MS_MIN:
        raise ValueError(f"lease_ms must be at least {LEASE_MS_MIN}, not {lease_ms}")
    server = _server_of(app)
    manager = server.job_manager
    if isinstance(getattr(manager.get_job, "__self__", None), Resumer):
        raise ValueError("resume was called for this agent before")  # noqa: TRY004 - not its type
    manager.storage = manager.storage if storage is None else storage
    if not isinstance(manager.storage, TollgateJobStorage):
        raise TypeError(
            "resume(app, TollgateJobStorage(...)) moves the jobs of an agent to a broker; these "
            f"are in a {type(manager.storage).__name__}"
        )
    settings = Settings(
        lease_ms, concurrency, poll_s, payment_poll_s, proof_poll_s, prove, stop_grace_s
    )
    return Resumer(server, settings)


def run(*args: Any, job_storage: TollgateJobStorage, **options: Any) -> None:  # noqa: ANN401
    """Do what `masumi.run` does, with the same arguments, and jobs that outlive the process.

    Args:
        args: as `masumi.run` takes them.
        job_storage: where the agent keeps its jobs.
        options: as `masumi.run` takes them.

    """
    cli: Any = import_module("masumi.cli")
    make = cli.create_masumi_app

    def make_and_resume(**fields: Any) -> Any:  # noqa: ANN401 - an app
        app = make(**fields)
        resume(app, job_storage)
        return app

    cli.create_masumi_app = make_and_resume  # `run` makes its app by this, and tells no one
    try:
        cli.run(*args, **options)
    finally:
        cli.create_masumi_app = make


def _server_of(app: Any) -> Any:  # noqa: ANN401 - a `MasumiAgentServer`
    """Return the server behind an app of the SDK: only the endpoints of the app know it."""
    if hasattr(app, "job_manager"):
        return app
    for route in getattr(app, "routes", ()):
        endpoint = getattr(route, "endpoint", None)
        known: Mapping[str, Any] = (
            getclosurevars(endpoint).nonlocals if isfunction(endpoint) else {}
        )
        if hasattr(known.get("self"), "job_manager"):
            return known["self"]
    raise TypeError(
        f"resume takes an app or a server of the Masumi SDK, not a {type(app).__name__}"
    )
