"""`tollgate config show`: the value of each setting, and where it comes from."""

if __name__ == "__main__":
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate config")

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from tollgate.broker.admin import cli
from tollgate.broker.settings import (
    COMPUTED_DEFAULTS,
    PREFIX,
    SHARED,
    AllSettings,
    Origin,
    Settings,
    SettingsError,
    load,
    origin_of,
)
from tollgate.domain.endpoint import default_endpoint
from tollgate.terminal.program import run

PROGRAM: Final = "tollgate config"
CLIENT_DEFAULTS: Final[dict[str, Callable[[], str | None]]] = {
    "endpoint": default_endpoint,
    "key": lambda: None,
    "answer_timeout": lambda: "5",
    "log_format": lambda: None,
}
"""The settings of clients, workers and the command line. Their variables begin with TOLLGATE_."""
OF_PAYMENTS: Final = {
    "TOLLGATE_NETWORK",
    "TOLLGATE_SERVICE_TOKEN_FILE",
    "TOLLGATE_SERVICE_URL",
}
"""What `tollgate payments masumi` reads. The broker imports nothing of it: a test compares them."""
OTHERS: Final = {*SHARED.values(), *OF_PAYMENTS, "TOLLGATE_TRACEBACK"}
"""Variables that set nothing of a client."""


class Shown(NamedTuple):
    """A setting of the broker, or of its clients, with its value and origin."""

    of: str
    name: str
    value: object
    origin: Origin


def client_settings() -> list[Shown]:
    """Return the settings that clients, workers and the command line take from here."""
    shown = []
    for name, default in CLIENT_DEFAULTS.items():
        variable = f"TOLLGATE_{name.upper()}"
        if value := os.environ.get(variable):
            shown.append(Shown("client", name, value, Origin("environment", variable)))
        else:
            shown.append(Shown("client", name, default(), Origin("default")))
    return shown


def broker_settings(options: dict[str, Any], config: Path | None) -> list[Shown]:
    """Return the settings that a broker would start with. Raises SettingsError."""
    settings: Settings = load(options, config)
    return [
        Shown("broker", name, getattr(settings, name), origin_of(name, options, config))
        for name in AllSettings.model_fields
    ]


def unknown_variables() -> Iterator[str]:
    """Yield the variables that look like settings of tollgate, and are none."""
    known = {f"TOLLGATE_{name.upper()}" for name in CLIENT_DEFAULTS} | OTHERS
    for name in sorted(os.environ):
        if name.startswith("TOLLGATE_") and not name.startswith(PREFIX) and name not in known:
            yield name


@click.group(
    epilog=cli.example("tollgate config show --config /etc/tollgate/broker.toml"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Show each setting and where it came from."""


@main.command(epilog=cli.example("tollgate config show --config /etc/tollgate/broker.toml --json"))
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="the TOML file that the broker is started with",
)
@click.option("--changed", is_flag=True, help="leave out what is the default")
@click.option("--json", "as_json", is_flag=True, help="one JSON document a line")
@cli.setting_options(AllSettings.model_fields, COMPUTED_DEFAULTS)
def show(
    config: Path | None,
    *,
    changed: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - one for each setting
) -> None:
    """Show the value of each setting, and where it comes from.

    Takes the options of `tollgate broker`, so that a whole command can be tried. An option comes
    before the environment, the environment before the file, and the file before the default.
    """
    with cli.complaining(PROGRAM, SettingsError, exit_code=2), cli.complaining(PROGRAM, OSError):
        for name in unknown_variables():
            click.echo(f"{PROGRAM}: {name} is set, and there is no such setting", err=True)
        # Those of clients first: a machine of clients alone may have none that a broker could use.
        for settings in (client_settings, partial(broker_settings, cli.given(options), config)):
            for setting in settings():
                if not changed or setting.origin.kind != "default":
                    click.echo(_json(setting) if as_json else _line(setting))


def _json(setting: Shown) -> str:
    origin = setting.origin
    shown = {
        "of": setting.of,
        "name": setting.name,
        "value": setting.value,
        "origin": origin.kind,
        "from": origin.name or None,
    }
    return json.dumps(shown, ensure_ascii=False, default=str)


def _line(setting: Shown) -> str:
    value = setting.value
    text = " ".join(value) if isinstance(value, list) else str(value).lower()
    if isinstance(value, str | Path):
        text = str(value)
    if value is None or value in ("", []):
        text = "none"
    return f"{setting.of}  {setting.name:<22}  {text}  ({setting.origin})"


if __name__ == "__main__":
    run(main, PROGRAM)
