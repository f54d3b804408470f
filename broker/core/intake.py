"""From bytes to a request, or to the reason why it is not taken in."""

from collections.abc import Sequence

from tollgate.broker.core.limits import Limits
from tollgate.broker.core.timers import Instant
from tollgate.domain.exceptions import ExpiredError, MalformedError, TooLargeError
from tollgate.domain.messages import Request, read_request


def accept(frames: Sequence[bytes], limits: Limits, now: Instant) -> tuple[Request, bytes]:
    """Return the request in the frames of a message, and its digest.

    Raises the first Refusal in TG/1's order: MalformedError or UnsupportedVersionError, then
    TooLargeError, then ExpiredError. What its session has to say comes next.
    """
    if len(frames) != 1:
        raise MalformedError(
            f"a request is one frame, this was {len(frames)}; send it from a DEALER"
        )
    frame = frames[0]
    request, digest = read_request(frame)
    if len(frame) > limits.request_bytes:
        limit = limits.request_bytes
        raise TooLargeError(f"the request holds more than {limit} bytes", limit=limit)
    if len(request.commands) > limits.commands:
        limit = limits.commands
        raise TooLargeError(f"the request holds more than {limit} commands", limit=limit)
    if request.valid_until is not None and request.valid_until < now.wall:
        raise ExpiredError("the request came after its valid_until")
    return request, digest
