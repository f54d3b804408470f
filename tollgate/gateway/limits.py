"""What one caller may ask for: requests a second, and requests at the same time."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Final

from tollgate.gateway.agent import HttpSettings
from tollgate.gateway.request import HttpError

ADDRESSES: Final = 10_000
"""Of so many callers something is remembered. One that may ask for its whole burst again is
forgotten for a new one; if there is none, new ones share what one caller may ask for."""
LOOKED_AT: Final = 16
"""So many of the callers that have been quiet longest are looked at."""
OTHERS: Final = "others"
"""The key of the callers that share."""
BURST: Final = 2.0
HIRE_BURST: Final = 10.0
"""How many seconds' worth of requests may come at once; one may, however low the rate is."""
NETWORK_BITS: Final = 64
"""One caller has a whole IPv6 network of this size."""


@dataclass(slots=True)
class _Caller:
    tokens: float
    hire_tokens: float
    seen_at: float
    open: int = 0


class Limits:
    """Counts what callers ask for, by address. Times are of a monotonic clock, in s."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._burst = max(BURST * settings.requests_per_s, 1.0)
        self._hire_burst = max(HIRE_BURST * settings.hires_per_s, 1.0)
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self.open = 0
        """How many requests are being answered."""

    def enter(self, address: str, now: float, *, is_hire: bool = False) -> str:
        """Count a request, and return what `leave` takes. Raises HttpError for one too many."""
        settings = self._settings
        key = network_of(address)
        if key not in self._callers and not self._has_room(now):
            key = OTHERS
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller(self._burst, self._hire_burst, now)
        else:
            self._callers.move_to_end(key)
            self._refill(caller, now)
        if caller.tokens < 1:
            raise _too_many("requests", (1 - caller.tokens) / settings.requests_per_s)
        caller.tokens -= 1
        if caller.open >= settings.concurrency_per_address:
            raise _too_many("requests at the same time", 1)
        if self.open >= settings.concurrency:
            raise HttpError(503, "busy", "the gateway is busy: try again", retry_after_s=1)
        if is_hire:
            if caller.hire_tokens < 1:
                raise _too_many("hires", (1 - caller.hire_tokens) / settings.hires_per_s)
            caller.hire_tokens -= 1
        caller.open += 1
        self.open += 1
        return key

    def leave(self, key: str) -> None:
        """Say that a request is answered."""
        self.open -= 1
        if caller := self._callers.get(key):
            caller.open -= 1

    def _refill(self, caller: _Caller, now: float) -> None:
        settings, passed_s = self._settings, max(now - caller.seen_at, 0.0)
        caller.tokens = min(caller.tokens + passed_s * settings.requests_per_s, self._burst)
        caller.hire_tokens = min(
            caller.hire_tokens + passed_s * settings.hires_per_s, self._hire_burst
        )
        caller.seen_at = now

    def _has_room(self, now: float) -> bool:
        """Return whether one more caller can be remembered, if need be by forgetting another."""
        if len(self._callers) < ADDRESSES:
            return True
        for key, caller in islice(self._callers.items(), LOOKED_AT):
            self._refill(caller, now)
            is_new = caller.tokens >= self._burst and caller.hire_tokens >= self._hire_burst
            if is_new and not caller.open:
                del self._callers[key]
                return True
        return False


def network_of(address: str) -> str:
    """Return what one caller is known by: an IPv4 address, or an IPv6 network."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[: NETWORK_BITS // 8].hex()


def _too_many(what: str, retry_s: float) -> HttpError:
    return HttpError(
        429,
        "too_many_requests",
        f"too many {what} from this address",
        retry_after_s=max(1, math.ceil(retry_s)),
    )
