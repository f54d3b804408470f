"""What brokers of older revisions of the protocol do not know: a client must not send it."""

from typing import Any, Final

import msgspec

from tollgate.client.errors import UnsupportedByBrokerError
from tollgate.domain import commands
from tollgate.domain.results import HelloResult

REVISION: Final = 3
"""The revision of this client. A broker that tells none has revision 1."""

_COMMANDS: Final[dict[type, int]] = {
    commands.Hold: 2,
    commands.Resume: 2,
    commands.RequestStop: 2,
    commands.Annotate: 2,
    commands.Settle: 2,
    commands.PauseQueue: 2,
    commands.ResumeQueue: 2,
    commands.History: 2,
    commands.StopWaiting: 2,
    commands.Events: 3,
    commands.Stats: 3,
    commands.Explain: 3,
}
"""The commands that came after revision 1, each with the revision that brought it."""
FIELDS_SINCE: Final = 2
"""The revision that brought the fields below, names of clients, and `stop_waiting`."""
_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    commands.Hello: ("client",),
    commands.Create: ("queue", "priority", "not_before", "meta", "traceparent", "settle"),
    commands.Get: ("lease",),
    commands.Transition: ("keep_lease", "force"),
    commands.ProvideInput: ("input_hash",),
    commands.Count: ("queue", "settlement"),
    commands.List: ("queue", "settlement", "newest", "lease"),
    commands.Claim: ("settlement", "queues", "job_ids"),
    commands.Touch: ("progress",),
    commands.Release: ("delay_ms", "reason", "hold"),
}
"""The fields that came with revision 2, of the commands that were there before."""
_DEFAULTS: Final[dict[type, list[tuple[str, Any]]]] = {
    kind: [
        (field.name, field.default) for field in msgspec.structs.fields(kind) if field.name in names
    ]
    for kind, names in _FIELDS.items()
}


def unsupported(command: object, greeting: HelloResult) -> UnsupportedByBrokerError | None:
    """Return why a command cannot be sent to a broker of its revision; None if it can."""
    kind = type(command)
    needed = _COMMANDS.get(kind, 1)
    if greeting.revision < needed:
        return _error(_tag(kind), "", greeting, needed)
    if greeting.revision < FIELDS_SINCE:
        for name, default in _DEFAULTS.get(kind, ()):
            if getattr(command, name) != default:
                return _error(name, f" of `{_tag(kind)}`", greeting, FIELDS_SINCE)
    return None


def _tag(kind: Any) -> str:  # noqa: ANN401 - a command's class
    return str(kind.__struct_config__.tag)


def _error(name: str, of: str, greeting: HelloResult, needed: int) -> UnsupportedByBrokerError:
    return UnsupportedByBrokerError(
        f"this broker ({greeting.server}) does not know `{name}`{of}: it has revision "
        f"{greeting.revision} of the protocol, `{name}` needs {needed}"
    )
