"""Connects a broker to the Masumi payment service, and to agents of the `masumi` SDK.

The names here are loaded when they are first used: the storage needs neither `httpx` nor `masumi`,
`resume` and `run` need both (extra `masumi`, and the SDK that the agent has anyway).
"""

from importlib import import_module

TYPE_CHECKING = False  # as in `tollgate` itself
if TYPE_CHECKING:
    from typing import Any, Final

    from tollgate.masumi.sdk.resumer import Resumer
    from tollgate.masumi.sdk.starting import resume, run
    from tollgate.masumi.sdk.storage import TollgateJobStorage

__all__ = ["Resumer", "TollgateJobStorage", "resume", "run"]

_HOME_OF: "Final" = {
    "Resumer": "tollgate.masumi.sdk.resumer",
    "TollgateJobStorage": "tollgate.masumi.sdk.storage",
    "resume": "tollgate.masumi.sdk.starting",
    "run": "tollgate.masumi.sdk.starting",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> "Any":  # noqa: ANN401 - the type differs by name
        if name not in _HOME_OF:
            raise AttributeError(f"module 'tollgate.masumi' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(_HOME_OF[name]), name)
        return found

    def __dir__() -> list[str]:
        return __all__
