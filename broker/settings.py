"""The broker's settings: options first, then the environment, a TOML file, and defaults."""

import os
import tomllib
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    Self,
    get_args,
    get_type_hints,
)

import msgspec
import platformdirs
from pydantic import Field, ValidationError, create_model, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableError

from tollgate.broker.core.limits import (
    DAY_MS,
    KIB,
    MIB,
    NUMBER_MAX,
    RESULT_BYTES,
    Limits,
    result_bytes_max,
)
from tollgate.broker.core.roles import Role
from tollgate.broker.journal import parse_fsync
from tollgate.domain.endpoint import PORT_MAX, check_socket_path, default_endpoint
from tollgate.domain.messages import REFUSAL_BYTES
from tollgate.log import FORMAT_VARIABLE

PREFIX: Final = "TOLLGATE_BROKER_"
FILE_BYTES_MAX: Final = 1024 * KIB
"""A file of settings has less; /dev/zero has more."""
SHARED: Final = {
    "bind": "TOLLGATE_ENDPOINT",
    "data_dir": "TOLLGATE_DATA_DIR",
    "log_format": FORMAT_VARIABLE,
}
"""Variables that other commands read too. One with the prefix, if it is set, comes before them."""

COMPUTED_DEFAULTS: Final = {
    "bind": "in your runtime directory",
    "bind_next": "none",
    "data_dir": "in your state directory",
    "group_roles": "observer",
    "keys": "none",
    "log_format": "console on a terminal, otherwise json",
    "socket_group": "none",
}
"""What a help text says of defaults that are computed, or empty."""


RENAMED: Final = {"group_role": "group_roles"}
"""Settings by an earlier name, and their name now."""


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message is one line that names it."""


class Origin(NamedTuple):
    """Where the value of a setting comes from, and the option, variable or file that says so."""

    kind: Literal["option", "environment", "file", "default"]
    name: str = ""

    def __str__(self) -> str:
        """Return both in words, such as `environment TOLLGATE_DATA_DIR`."""
        return f"{self.kind} {self.name}".rstrip()


def default_data_dir() -> Path:
    """Return the data directory in this user's state directory, such as XDG_STATE_HOME.

    Without a home directory it begins with `~`, which `full_path` refuses.
    """
    try:
        return Path(platformdirs.user_state_dir("tollgate"))
    except RuntimeError:
        return Path("~/.local/state/tollgate")


def default_keys() -> Path:
    """Return the directory of keys in this user's configuration directory; else as above."""
    try:
        return Path(platformdirs.user_config_dir("tollgate"), "keys")
    except RuntimeError:
        return Path("~/.config/tollgate/keys")


def full_path(path: str | Path) -> Path:
    """Return a path of the settings with `~` replaced. Raises ValueError.

    In the environment and in files no shell has replaced it. Without HOME the default has it too.
    """
    if not str(path).strip():  # a variable that is not set, in quotes
        raise ValueError("it is empty: name a directory")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: this user has no home directory; name another one") from None


class Settings(BaseSettings):
    """The settings of a broker. `load` returns them together with the limits that are settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )
    of_file: ClassVar[dict[str, Any]] = {}
    """What the TOML file says: read once, since it may be a pipe."""
    reads_environment: ClassVar[bool] = True

    bind: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: [default_endpoint()],
        min_length=1,
        description="ipc:///path or tcp://address:port to listen at; may be given more than once",
    )
    bind_next: Annotated[list[str], NoDecode] = Field(
        [],
        description="tcp://address:port to listen at with the broker's next key, while it is"
        " rotated; see: tollgate keys rotate-broker --help",
    )
    keys: Path | None = Field(
        default=None,
        description="directory with the keys that may connect by tcp; see: tollgate keys --help",
    )
    allow_wildcard: bool = Field(
        default=False, description="allow bind to name all addresses of the machine"
    )
    socket_group: str = Field(
        "", description="a group whose members may use the ipc sockets, beside the broker's user"
    )
    group_roles: Annotated[list[Role], NoDecode] = Field(
        [Role.OBSERVER],
        min_length=1,
        description="the roles of that group's members, with commas between them; may be given"
        " more than once",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        validate_default=False,  # a broker in memory needs none
        description="directory of the journal; one broker uses it at a time",
    )
    in_memory: bool = Field(
        default=False, description="keep no journal: all jobs end with the process"
    )
    fsync: str = Field(
        "always",
        description=(
            "'always': a power failure loses nothing acknowledged; 'interval:MS': it may lose what"
            " was acknowledged in the last MS milliseconds; 'never': it may lose what the kernel"
            " had not written, half a minute or more. A crash of the broker alone loses nothing"
        ),
    )
    segment_bytes: int = Field(
        64 * MIB, ge=64 * KIB, le=MIB * MIB, description="bytes of a segment of the journal"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error"
    )
    log_format: Literal["console", "json"] | None = Field(
        None,
        description="console: lines for people; json: a JSON document each. Also"
        f" {FORMAT_VARIABLE} in the environment, for workers too",
    )
    connections: int = Field(
        0,
        ge=0,
        le=NUMBER_MAX,
        description="connections at a time, half for ipc and half for tcp if both are bound; 0 for"
        " a quarter of the files that may be open",
    )
    unread_total_bytes: int = Field(
        512 * MIB,
        ge=1,
        le=NUMBER_MAX,
        description="bytes queued for all peers that do not read, for ipc and for tcp; the second"
        " half is kept for peers with little queued",
    )
    heartbeat_ms: int = Field(
        10_000, ge=0, le=DAY_MS, description="time between heartbeats to a tcp peer; 0 for none"
    )
    spin_us: int = Field(
        0,
        ge=0,
        le=10_000,
        description="microseconds to poll for the next message before sleeping: answers to"
        " requests in sequence come sooner, and one core is busy that long after each",
    )
    drain_ms: int = Field(
        250, ge=0, le=2_000, description="time to refuse late requests before the broker stops"
    )
    linger_ms: int = Field(2_000, ge=0, le=2_500, description="time to deliver the last replies")

    @field_validator("fsync")
    @classmethod
    def _known_policy(cls, fsync: str) -> str:
        parse_fsync(fsync)
        return fsync

    @field_validator("bind", "bind_next", mode="before")
    @classmethod
    def _split(cls, bind: object) -> object:
        """Take a text, as the environment has it, with spaces between the endpoints."""
        return bind.split() if isinstance(bind, str) else bind

    @field_validator("group_roles", mode="before")
    @classmethod
    def _split_roles(cls, roles: object) -> object:
        """Take texts with commas between the roles, too."""
        given = [roles] if isinstance(roles, str) else roles
        if isinstance(given, list) and all(isinstance(each, str) for each in given):
            return [role.strip() for each in given for role in each.split(",")]
        return given

    @field_validator("bind")
    @classmethod
    def _ipc_or_tcp(cls, bind: list[str]) -> list[str]:
        if len({*bind}) < len(bind):
            raise ValueError("an endpoint is named twice")
        for endpoint in bind:
            if endpoint.startswith("ipc://"):
                check_socket_path(endpoint)
            elif not endpoint.startswith("tcp://") or endpoint.endswith("/"):
                raise ValueError(
                    f"{endpoint!r}: say ipc:///path/to/socket, or tcp://address:port with --keys"
                )
        return bind

    @field_validator("bind_next")
    @classmethod
    def _tcp_alone(cls, bind_next: list[str]) -> list[str]:
        for endpoint in bind_next:
            if not endpoint.startswith("tcp://") or endpoint.endswith("/"):
                raise ValueError(f"{endpoint!r}: say tcp://address:port, for ipc has no key")
        return bind_next

    @field_validator("data_dir", "keys", mode="before")
    @classmethod
    def _full_path(cls, path: object) -> object:
        return full_path(path) if isinstance(path, str | Path) else path

    @model_validator(mode="after")
    def _has_data_dir(self) -> Self:
        """Refuse to start where there is no home directory for the default."""
        if not self.in_memory and not self.data_dir.is_absolute():
            try:
                full_path(self.data_dir)
            except ValueError as fault:
                raise ValueError(f"data_dir: {fault}") from None
        return self

    @model_validator(mode="after")
    def _tcp_is_closed(self) -> Self:
        """Refuse to listen at tcp without keys, or at all addresses by mistake."""
        named = [("bind", endpoint) for endpoint in self.bind if endpoint.startswith("tcp://")]
        for name, endpoint in [*named, *(("bind_next", each) for each in self.bind_next)]:
            if self.keys is None:
                raise ValueError(f"{name}: {endpoint} takes --keys: tcp is for key holders only")
            if tcp_address(endpoint).is_unspecified and not self.allow_wildcard:
                raise ValueError(
                    f"{name}: {endpoint} is every address of this machine; name one,"
                    " or say --allow-wildcard"
                )
        return self

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        """Refuse limits that a large reply cannot meet."""
        limits = self.limits()
        needed = result_bytes_max(limits) + RESULT_BYTES + limits.commands * REFUSAL_BYTES
        if needed > limits.reply_bytes:  # a request sent again in parts would still not get through
            raise ValueError(
                f"reply_bytes: {limits.reply_bytes} are too few for a job with texts of"
                f" {limits.text_bytes} bytes among {limits.commands} commands: that takes up to"
                f" {needed}"
            )
        if self.unread_total_bytes < 2 * limits.reply_bytes:
            raise ValueError(
                f"unread_total_bytes: {self.unread_total_bytes} are too few for replies of"
                f" {limits.reply_bytes} bytes (reply_bytes): it takes twice that"
            )
        return self

    def limits(self) -> Limits:
        """Return the limits: those that are settings as they are set, the others as they are."""
        return Limits(**{name: getattr(self, name) for name in _LIMITS if hasattr(self, name)})

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
        if not settings_cls.reads_environment:  # type: ignore[attr-defined]
            return (init_settings,)
        shared = {
            name: os.environ[variable]
            for name, variable in SHARED.items()
            if os.environ.get(variable)
        }
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, shared),
            InitSettingsSource(settings_cls, cls.of_file),
        )


def _limit_fields() -> dict[str, Any]:
    """Return a field for every limit that is a setting, with its default, bounds and help."""
    hints = get_type_hints(Limits, include_extras=True)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(Limits):
        if metas := [
            each for each in get_args(hints[field.name]) if isinstance(each, msgspec.Meta)
        ]:
            (meta,) = metas
            fields[field.name] = (
                int,
                Field(field.default, ge=meta.ge, le=meta.le, description=meta.description),
            )
    return fields


_LIMITS: Final = _limit_fields()
AllSettings: Final = create_model("AllSettings", __base__=Settings, **_LIMITS)


def load(options: dict[str, Any], config: Path | None = None) -> Settings:
    """Return the settings from options given, the environment and a TOML file.

    Raises SettingsError, in one line, for a setting that is unknown or out of range.
    """
    known = {(PREFIX + name).upper() for name in AllSettings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name}: {_unknown(name.upper().removeprefix(PREFIX).lower())}")
    AllSettings.of_file = {} if config is None else _file_of(config)
    return _validated(AllSettings, options, config)


def _file_of(config: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises SettingsError."""
    try:
        return _read(config)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except OSError as fault:
        reason = fault.strerror or str(fault)
    except ValueError as fault:
        reason = str(fault)
    raise SettingsError(f"{config}: {reason}")


def _read(config: Path) -> dict[str, Any]:
    with config.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes")
    return tomllib.loads(data.decode("utf-8-sig"))


def load_options(options: dict[str, Any]) -> Settings:
    """Return the settings from options alone, whatever the environment says. Raises SettingsError.

    It is for a broker in somebody else's process.
    """
    return _validated(_options_alone(), options)


@cache
def _options_alone() -> type[Settings]:
    """Return a model that only tests need."""
    return type("OptionsAlone", (AllSettings,), {"reads_environment": False})


def _validated(
    model: type[Settings], options: dict[str, Any], config: Path | None = None
) -> Settings:
    try:
        return model(**options)
    except UnreadableError as fault:
        raise SettingsError(f"{config or 'the settings'}: {fault}") from None
    except ValidationError as fault:
        first = fault.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"]
        if first["type"] == "extra_forbidden":
            reason = f"{_unknown(name)}{f' (in {config})' if config else ''}"
        reason = reason.removeprefix("Value error, ")
        line = f"{name}: {reason}" if name else reason
        origin = origin_of(line.partition(":")[0].partition(".")[0], options, config)
        if origin.kind == "environment":
            line += f" (from {origin.name})"
        raise SettingsError(line) from None


def _unknown(name: str) -> str:
    """Return what is wrong with the name of a setting."""
    new_name = RENAMED.get(name)
    return f"it is called {new_name} now" if new_name else "there is no such setting"


def origin_of(name: str, options: dict[str, Any], config: Path | None = None) -> Origin:
    """Return where `load` takes a setting from; from `config`, as it was read last."""
    if name in options:
        return Origin("option", f"--{name.replace('_', '-')}")
    variables = {variable.upper(): variable for variable, value in os.environ.items() if value}
    for variable in ((PREFIX + name).upper(), SHARED.get(name, "")):
        if variable in variables:
            return Origin("environment", variables[variable])
    if config is not None and name in AllSettings.of_file:
        return Origin("file", str(config))
    return Origin("default")


def data_dir() -> Path:
    """Return the data directory in the environment, or the default. Raises ValueError.

    No other setting is looked at: a mistake in one of them concerns the broker alone.
    """
    variable = origin_of("data_dir", {})
    return full_path(Path(os.environ[variable.name]) if variable.name else default_data_dir())


def tcp_address(endpoint: str) -> IPv4Address | IPv6Address:
    """Return the address in `tcp://address:port`. Raises ValueError.

    Names are refused: the broker would listen where a name server says.
    """
    host, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not colon or not (port == "*" or (port.isdecimal() and int(port) <= PORT_MAX)):
        raise ValueError(f"{endpoint}: say tcp://address:port")
    try:
        return ip_address("0.0.0.0" if host in {"", "*"} else host.strip("[]"))  # noqa: S104
    except ValueError:
        raise ValueError(f"{endpoint}: {host!r} is no address, as 127.0.0.1 is") from None
