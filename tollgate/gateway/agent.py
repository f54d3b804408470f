"""What a gateway must know of an agent: `Agent`, made from `agent.toml` or in Python."""

import re
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from tollgate.domain.results import DEFAULT_QUEUE
from tollgate.gateway.input_schema.schema import InputSchema, SchemaError
from tollgate.masumi.service_url import check_service_url

MINUTE: Final = timedelta(minutes=1)
FOR_SERVICE: Final = 10 * MINUTE
"""A job must end so long before the payment service's time for results.

The service sends nothing to the chain in the last five minutes, and its watcher needs some, too.
"""
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION: Final = re.compile(r"(?:[0-9]{1,6}[smhd])+", re.ASCII)
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9.:%_-]+", re.ASCII)
_YEAR: Final = timedelta(days=365)


def duration(told: object) -> timedelta:
    """Return a time such as `90s`, `15m`, `1h30m` or `2d`. Raises ValueError."""
    if isinstance(told, timedelta):
        value = told
    elif isinstance(told, str) and _DURATION.fullmatch(told):
        parts = re.findall(r"([0-9]+)([smhd])", told)
        value = sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in parts), timedelta())
    else:
        raise ValueError(f"{told!r} is no time such as 90s, 15m, 1h30m or 2d")
    if not timedelta(seconds=1) <= value <= _YEAR:
        raise ValueError("a time is at least 1s and at most 365d")
    return value


Duration = Annotated[timedelta, BeforeValidator(duration)]


def _line(told: str) -> str:
    """Return a text that people see. Raises ValueError."""
    if not told.strip() or not told.isprintable():
        raise ValueError("it must be one line that can be read")
    return told


def _word(told: str) -> str:
    if not re.fullmatch(r"[!-~]*", told):
        raise ValueError("it must be one word of ASCII characters")
    return told


Line = Annotated[str, AfterValidator(_line)]
Word = Annotated[str, AfterValidator(_word)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Amount(_Part):
    """An amount of one asset, for agents whose price is set at each hire."""

    amount: Annotated[str, Field(pattern=r"^[0-9]{1,25}$")]
    """In the smallest unit of the asset, such as lovelace."""
    unit: Annotated[str, Field(max_length=150)] = ""
    """Policy id and asset name; empty for lovelace."""


class ServiceSettings(_Part):
    """The Masumi payment service that makes the payments."""

    url: str
    """Such as `https://payments.example.com/api/v1`."""
    token_file: Path
    """A file with its API key; a relative path starts at the folder of `agent.toml`."""
    network: Literal["Preprod", "Mainnet"]
    source_index: Annotated[int, Field(ge=0, le=24)] | None = None
    """Which payment source of the agent is meant; payments of version 2 need it."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """For one call."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        check_service_url(url)
        return url


class Deadlines(_Part):
    """Times after the hire. The payment service has rules for them, which are checked here."""

    pay_by: Duration = timedelta(hours=1)
    submit_result: Duration = timedelta(hours=24)
    """Until when the result must be on chain. The job itself must end `FOR_SERVICE` earlier."""
    unlock: Duration = timedelta(hours=30)
    """When the seller can take the payment."""
    external_dispute_unlock: Duration = timedelta(hours=36)
    """Until when the buyer can dispute."""

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        for earlier, later, minutes in (
            ("pay_by", "submit_result", 15),
            ("submit_result", "unlock", 15),
            ("unlock", "external_dispute_unlock", 15),
        ):
            if getattr(self, later) < getattr(self, earlier) + minutes * MINUTE:
                raise ValueError(f"{later} must be {minutes}m after {earlier}, or later")
        if self.submit_result < 20 * MINUTE:
            raise ValueError("submit_result must be 20m or later")
        return self


class HttpSettings(_Part):
    """How the gateway listens, and what it takes from one caller."""

    host: str = "127.0.0.1"
    """An address, IPv6 without brackets, or a name of this machine."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 8000
    """0 takes any free one, which the log shows."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may call, such as `https://example.com`; `*` is all."""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies whose `X-Forwarded-For` names the caller; `*` is all."""
    body_bytes: Annotated[int, Field(ge=1_000, le=64 * 2**20)] = 2**20
    """The largest body of a request."""
    requests_per_s: Rate = 1_000.0
    """Of one address, on average; twice as many may come at once."""
    hires_per_s: Rate = 20.0
    """Of one address, on average; ten times as many may come at once."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Requests that are answered at the same time."""
    concurrency_per_address: Annotated[int, Field(ge=1, le=10_000)] = 250
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """For reading and answering one request."""
    show_errors: bool = False
    """Whether `/status` of a failed job shows its error, which may tell what is inside."""

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no address such as 127.0.0.1 or ::1, and no name")
        return host

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for each in origins:
            # As browsers send it, letter by letter.
            if each != "*" and not _ORIGIN.fullmatch(each):
                raise ValueError(f"{each!r} is no origin such as https://example.com, without a /")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for each in proxies:
            try:
                ip_network(each)
            except ValueError as fault:
                if proxies != ("*",):
                    raise ValueError(f"{each!r} is no address or network: {fault}") from None
        return proxies


class Demo(_Part):
    """What `/demo` shows: an example of input and output."""

    input: dict[str, Any]
    result: Annotated[str, Field(min_length=1)]


class Agent(_Part):
    """An agent that can be hired. Raises pydantic's ValidationError for what is wrong.

    Exactly one of `input_data` and `input_groups` is its input schema, as MIP-003 defines it.
    """

    name: Annotated[Line, Field(max_length=250)]
    input_data: list[dict[str, Any]] | None = None
    input_groups: list[dict[str, Any]] | None = None
    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = DEFAULT_QUEUE
    """The queue of its jobs. Agents on one broker need one each."""
    price: Literal["free", "fixed"] | Annotated[tuple[Amount, ...], Field(min_length=1)] = "fixed"
    """`fixed` is the price in the registry; amounts are for agents with dynamic prices."""
    identifier: Annotated[Word, Field(min_length=57, max_length=250)] | None = None
    """The agent's identifier in the registry. A free agent may have none."""
    seller_vkey: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    """The key of the seller's wallet. By default it is what the payment service shows."""
    message: Annotated[Line, Field(max_length=1_000)] | None = None
    """What `/availability` says to people."""
    demo: Demo | None = None
    payment_service: ServiceSettings | None = None
    deadlines: Deadlines = Deadlines()
    http: HttpSettings = HttpSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.is_free and self.identifier is None:
            raise ValueError('identifier is missing: only an agent with price = "free" has none')
        if not self.is_free and self.payment_service is None:
            raise ValueError('payment_service is missing: only price = "free" needs none')
        try:
            schema = self.input_schema
        except SchemaError as fault:
            raise ValueError(str(fault)) from None
        if self.demo and (wrong := schema.check(self.demo.input)):
            told = "; ".join(f"{name}: {why}" for name, why in wrong.items())
            raise ValueError(f"demo: its input does not fit the input schema: {told}")
        return self

    @property
    def is_free(self) -> bool:
        """Whether its jobs run without a payment."""
        return self.price == "free"

    @property
    def listed_as(self) -> str:
        """What buyers know it by: its identifier in the registry, or else its name."""
        return self.identifier or self.name

    @property
    def amounts(self) -> list[tuple[str, str]]:
        """What a hire costs, as amounts and units; empty unless that is set at each hire."""
        if isinstance(self.price, str):
            return []
        return [(each.amount, each.unit) for each in self.price]

    @property
    def source_index(self) -> int | None:
        """Which payment source is meant, if that must be said."""
        return self.payment_service.source_index if self.payment_service else None

    @cached_property
    def input_schema(self) -> InputSchema:
        """Its input schema."""
        given = {"input_data": self.input_data, "input_groups": self.input_groups}
        return InputSchema.parse({key: value for key, value in given.items() if value is not None})

    @cached_property
    def namespace(self) -> UUID:
        """The namespace of its jobs' ids."""
        return uuid5(NAMESPACE_URL, f"tollgate:agent:{self.listed_as}")
