"""What can be configured, in one class: options over environment over a TOML file over defaults."""

import os
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any, ClassVar, Final, Self

import platformdirs
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableError

from tollgate.broker.core.limits import DAY_MS, MINUTE_MS, RESULT_BYTES, Limits, result_bytes_max
from tollgate.broker.core.roles import Role
from tollgate.broker.journal import parse_fsync
from tollgate.domain.endpoint import default_endpoint
from tollgate.domain.messages import REFUSAL_BYTES

PREFIX = "TOLLGATE_BROKER_"
SPAN_MS_MAX: Final = 36_500 * DAY_MS
"""A hundred years: what is added to a time leaves it a time."""
PORT_MAX: Final = 65_535
LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message is one line that names it."""


class Settings(BaseSettings):
    """All settings of a broker. Those with the name of a limit are that limit, see `Limits`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)
    toml_file: ClassVar[Path | None] = None

    bind: list[str] = Field(
        default_factory=lambda: [default_endpoint()],
        min_length=1,
        description="ipc:///path or tcp://address:port to listen at; may be given more than once",
    )
    keys: Path | None = Field(
        default=None,
        description="directory with the keys that may come in by tcp; see: tollgate keys --help",
    )
    allow_wildcard: bool = Field(
        default=False, description="listen on all addresses of the machine, if bind says so"
    )
    socket_group: str = Field(
        "", description="a group whose members may use the ipc sockets too; nobody else may"
    )
    group_role: str = Field("observer", description="what they may do: a role")
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_state_dir("tollgate")),
        description="where the journal is kept; one broker has it at a time",
    )
    in_memory: bool = Field(
        default=False, description="keep no journal: all jobs end with the process"
    )
    fsync: str = Field(
        "always",
        description=(
            "'always': nothing acknowledged is lost by a power failure; 'interval:MS': what was"
            " acknowledged in the last MS milliseconds may be; 'never': what the kernel had not"
            " written yet, half a minute or more. A crash of the broker alone loses nothing"
        ),
    )
    segment_bytes: int = Field(
        64 * 1024 * 1024, ge=64 * 1024, description="bytes of a segment of the journal"
    )
    log_level: str = Field("info", description="debug, info, warning or error")

    request_bytes: int = Field(256 * 1024, ge=1024, description="bytes of a request")
    commands: int = Field(1_000, ge=1, le=65_535, description="commands in a request")
    reply_bytes: int = Field(4 * 1024 * 1024, ge=64 * 1024, description="bytes of a reply")
    text_bytes: int = Field(64 * 1024, ge=1, description="bytes of a text in a command")
    blockchain_identifier_bytes: int = Field(4 * 1024, ge=1, description="bytes of that field")
    identifier_from_purchaser_bytes: int = Field(256, ge=1, description="bytes of that field")
    jobs: int = Field(1_000_000, ge=1, description="jobs stored")
    stored_bytes: int = Field(
        1_024 * 1_024 * 1_024, ge=1, description="bytes of their texts, above which none is created"
    )
    parked: int = Field(10_000, ge=0, description="commands waiting for their answer")
    parked_share: int = Field(5_000, ge=0, description="of those, commands of one connection")
    watched: int = Field(1_000_000, ge=0, description="jobs that all parked waits name")
    pay_within_ms: int = Field(
        DAY_MS, ge=1, le=SPAN_MS_MAX, description="from creation to pay_by_time"
    )
    payment_grace_ms: int = Field(
        5 * MINUTE_MS,
        ge=0,
        le=SPAN_MS_MAX,
        description="from pay_by_time until an unpaid job fails",
    )
    lapses: int = Field(5, ge=1, description="lapsed leases after which a running job fails")

    sessions: int = Field(100_000, ge=1, description="sessions remembered")
    outcomes: int = Field(1_000_000, ge=64_000, description="outcomes of requests remembered")
    keep_finished_ms: int = Field(
        7 * DAY_MS, ge=0, le=SPAN_MS_MAX, description="how long a job is kept at its end"
    )
    max_finished: int = Field(500_000, ge=0, description="finished jobs kept, whatever their age")

    batch_messages: int = Field(256, ge=1, description="messages decided at once")
    batch_bytes: int = Field(4 * 1024, ge=1, description="bytes decided at once")
    batch_reply_bytes: int = Field(
        8 * 1024 * 1024, ge=1, description="bytes of replies after which a batch ends"
    )
    share_messages: int = Field(64, ge=1, description="messages of one peer decided at once")
    share_bytes: int = Field(256 * 1024, ge=1, description="bytes of one peer decided at once")
    send_window: int = Field(1_000, ge=1, description="replies queued for a peer that is slow")
    unread_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="bytes queued for a peer that does not read"
    )
    unread_total_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1,
        description="bytes queued for all peers of a door that do not read; half of it, and what"
        " is beyond it, for those of whom little is queued",
    )
    receive_window: int = Field(1_000, ge=1, description="messages queued from a peer")
    receive_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="bytes queued from a peer, as if each message were as large as may be",
    )
    connections: int = Field(
        0,
        ge=0,
        description="connections at a time, which ipc and tcp share evenly; 0 for a quarter of the"
        " files that may be open",
    )
    handshake_ms: int = Field(5_000, ge=1, description="time for a peer to say who it is")
    heartbeat_ms: int = Field(
        10_000, ge=0, description="how often a tcp peer is asked whether it lives; 0 for never"
    )
    spin_us: int = Field(
        0,
        ge=0,
        le=10_000,
        description="microseconds to look for the next message before sleeping: answers come"
        " sooner where one follows the other, and a core is busy for that long after each",
    )
    drain_ms: int = Field(250, ge=0, le=2_000, description="time to refuse latecomers at the end")
    linger_ms: int = Field(2_000, ge=0, le=2_500, description="time to deliver the last replies")

    @field_validator("fsync")
    @classmethod
    def _known_policy(cls, fsync: str) -> str:
        parse_fsync(fsync)
        return fsync

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level not in LEVELS:
            raise ValueError(f"{level!r} is none of {', '.join(LEVELS)}")
        return level

    @field_validator("bind")
    @classmethod
    def _ipc_or_tcp(cls, bind: list[str]) -> list[str]:
        for endpoint in bind:
            if endpoint.startswith("tcp://"):
                tcp_address(endpoint)
            elif not endpoint.startswith("ipc:///") or endpoint.endswith("/"):
                raise ValueError(
                    f"{endpoint}: say ipc:///path/to/socket, or tcp://address:port with --keys"
                )
        return bind

    @field_validator("group_role")
    @classmethod
    def _known_role(cls, role: str) -> str:
        if role not in list(Role):
            raise ValueError(f"{role!r} is none of {', '.join(Role)}")
        return role

    @model_validator(mode="after")
    def _closed(self) -> Self:
        """Refuse to listen where whoever comes is let in."""
        for endpoint in self.bind:
            if not endpoint.startswith("tcp://"):
                continue
            if self.keys is None:
                raise ValueError(f"bind: {endpoint} takes --keys: by tcp only key holders come in")
            if tcp_address(endpoint).is_unspecified and not self.allow_wildcard:
                raise ValueError(
                    f"bind: {endpoint} is every address of this machine; name one,"
                    " or say --allow-wildcard"
                )
        return self

    @model_validator(mode="after")
    def _room_for_replies(self) -> Self:
        """Refuse what leaves no room for a large reply to who reads, while somebody does not."""
        if self.unread_total_bytes < 2 * self.reply_bytes:
            raise ValueError(
                f"unread_total_bytes: {self.unread_total_bytes} are too few for replies of"
                f" {self.reply_bytes} bytes (reply_bytes): it takes twice that"
            )
        return self

    def limits(self) -> Limits:
        """Return the limits among the settings."""
        limits = Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})
        needed = result_bytes_max(limits) + RESULT_BYTES + limits.commands * REFUSAL_BYTES
        if needed > limits.reply_bytes:  # then no request gets on by being sent again in parts
            raise SettingsError(
                f"reply_bytes: {limits.reply_bytes} are too few for a job with texts of"
                f" {limits.text_bytes} bytes among {limits.commands} commands: that takes up to"
                f" {needed}"
            )
        return limits

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is given
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put options before the environment before the file."""
        file = TomlConfigSettingsSource(settings_cls, cls.toml_file)
        return init_settings, env_settings, file


def tcp_address(endpoint: str) -> IPv4Address | IPv6Address:
    """Return the address in `tcp://address:port`. Raises ValueError.

    A name would be looked up, and who answers that decides where the broker listens.
    """
    host, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not colon or not (port == "*" or (port.isdecimal() and int(port) <= PORT_MAX)):
        raise ValueError(f"{endpoint}: say tcp://address:port")
    try:
        return ip_address("0.0.0.0" if host in {"", "*"} else host.strip("[]"))  # noqa: S104
    except ValueError:
        raise ValueError(f"{endpoint}: {host!r} is no address, as 127.0.0.1 is") from None


def load(options: dict[str, Any], config: Path | None = None) -> Settings:
    """Return the settings from options given, the environment and a TOML file.

    Raises SettingsError, in one line, for whatever is unknown or out of range.
    """
    known = {(PREFIX + name).upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name}: there is no such setting")
    Settings.toml_file = config
    try:
        return Settings(**options)
    except (TOMLDecodeError, UnreadableError) as fault:
        raise SettingsError(f"{config or 'the settings'}: {fault}") from None
    except ValidationError as fault:
        first = fault.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"]
        if first["type"] == "extra_forbidden":
            reason = f"there is no such setting{f' (in {config})' if config else ''}"
        reason = reason.removeprefix("Value error, ")
        raise SettingsError(f"{name}: {reason}" if name else reason) from None
