"""`tollgate keys`: which keys may connect by tcp, and their roles."""

import json
from pathlib import Path
from typing import Final

import click

from tollgate.broker.access.keyring import (
    BROKER_KEY,
    SUFFIX,
    ClientKey,
    KeyPair,
    KeyRing,
    KeyRingError,
    is_name,
    new_pair,
    read_pair,
    write_client,
    write_pair,
)
from tollgate.broker.access.permissions import UnsafeError, make_private
from tollgate.broker.admin.cli import complaining, example, usable
from tollgate.broker.core.roles import Role
from tollgate.broker.settings import PREFIX, default_keys
from tollgate.terminal.program import run

PROGRAM: Final = "tollgate keys"
KEYS: Final = click.option(
    "--keys",
    "directory",
    type=click.Path(file_okay=False),
    default=lambda: str(default_keys()),
    envvar=f"{PREFIX}KEYS",
    show_envvar=True,
    callback=lambda _, __, path: usable(path),
    help="the broker's directory of keys [default: keys in your config directory]",
)


@click.group(
    epilog=example("tollgate keys new alice --role producer"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Make, list and revoke the keys that may connect by tcp.

    A broker that runs with the same --keys notices changes within a second.
    """


@main.command(epilog=example("tollgate keys new alice --role producer --out alice.key"))
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice([role.value for role in Role]),
    help="what its holder may do: observer reads, producer also creates and cancels jobs, worker"
    " also claims and moves them, admin may do everything",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write for the client [default: NAME.key here]",
)
@KEYS
def new(name: str, role: str, out: Path | None, directory: Path) -> None:
    """Make a key for a client, and let it connect."""
    with complaining(PROGRAM, KeyRingError, OSError):
        if not is_name(name):
            raise KeyRingError(f"{name!r}: letters, digits and . _ @ - make a name, up to 64")
        own = _own(directory)
        if (directory / (name + SUFFIX)).exists():
            raise KeyRingError(f"there is a key {name} already; revoke it, or take another name")
        out = out or Path(name + ".key")
        pair = new_pair()
        write_pair(out, KeyPair(pair.public_key, pair.secret_key, own.public_key))
        try:
            write_client(directory, name, ClientKey(pair.public_key, Role(role)))
        except KeyRingError:
            out.unlink()
            raise
        click.echo(f"{out}: the key of {name}, a {role}. Give it to no other.", err=True)
        click.echo(f"try it: tollgate ping --endpoint tcp://... --key {out}", err=True)


@main.command(name="list", epilog=example("tollgate keys list --json"))
@click.option("--json", "as_json", is_flag=True, help="one JSON document a line")
@KEYS
def list_(directory: Path, *, as_json: bool) -> None:
    """Show the clients and their roles."""
    with complaining(PROGRAM, KeyRingError, OSError):
        for name, client in KeyRing(directory).clients().items():
            shown = {"name": name, "role": client.role.value, "public_key": client.public_key}
            click.echo(json.dumps(shown) if as_json else "  ".join(shown.values()))


@main.command(epilog=example("tollgate keys revoke alice"))
@click.argument("name")
@KEYS
def revoke(name: str, directory: Path) -> None:
    """Refuse a key from now on, on connections that stand, too."""
    with complaining(PROGRAM, KeyRingError, OSError):
        path = directory / (name + SUFFIX)
        if not is_name(name) or not path.is_file():
            raise KeyRingError(f"there is no key {name} in {directory}")
        path.unlink()
        click.echo(f"{name} is revoked", err=True)


def _own(directory: Path) -> KeyPair:
    """Return the broker's own pair; make it if there is none."""
    try:
        make_private(directory)
    except UnsafeError as fault:
        raise KeyRingError(str(fault)) from None
    path = directory / BROKER_KEY
    if not path.exists():
        write_pair(path, new_pair())
        click.echo(f"{path}: the broker's own key pair", err=True)
    return read_pair(path)


if __name__ == "__main__":
    run(main, PROGRAM)
