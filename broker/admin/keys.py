"""`tollgate keys`: which keys may connect by tcp, and their roles."""

if __name__ == "__main__":
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate keys")

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from tollgate.broker.access.key_files import (
    BROKER_KEY,
    NEXT_KEY,
    SUFFIX,
    ClientKey,
    KeyPair,
    KeyRingError,
    finish_rotation,
    is_name,
    locked,
    new_pair,
    read_client,
    read_pair,
    replace_client,
    rotated,
    shown,
    write_client,
    write_pair,
)
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.access.permissions import UnsafeError, make_private, use_private_umask
from tollgate.broker.admin.cli import complaining, example, usable
from tollgate.broker.core.roles import Role
from tollgate.broker.settings import PREFIX, default_keys
from tollgate.terminal.program import run

PROGRAM: Final = "tollgate keys"
UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
OVERLAP_DAYS_MAX: Final = 90
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


OUT: Final = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write for the client [default: NAME.key here]",
)


def _span(_: click.Context, __: click.Parameter, typed: str) -> timedelta:
    """Return a span of time, such as 30s, 10m, 1h or 7d."""
    parts = re.fullmatch(r"(\d{1,9})([smhd])", typed) if typed != "0" else ("0", "0", "s")
    if parts is None:
        raise click.BadParameter(f"{typed!r}: say a number and s, m, h or d, such as 1h; or 0")
    span = timedelta(seconds=int(parts[1]) * UNITS_S[parts[2]])
    if span > timedelta(days=OVERLAP_DAYS_MAX):
        raise click.BadParameter(f"{typed}: at most {OVERLAP_DAYS_MAX}d")
    return span


@click.group(
    epilog=example("tollgate keys new alice --role producer"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Make, list, rotate and revoke the keys that may connect by tcp.

    A broker that runs with the same --keys notices changes within a second.
    """
    use_private_umask()


@main.command(
    epilog=example("tollgate keys new alice --role producer --role observer --out alice.key")
)
@click.argument("name")
@click.option(
    "--role",
    "roles",
    required=True,
    multiple=True,
    type=click.Choice([role.value for role in Role]),
    help="what its holder may do, may be given more than once: observer reads, producer also"
    " creates and cancels jobs, worker claims and works on paid ones, payments opens the gate and"
    " settles, admin may do everything",
)
@OUT
@KEYS
def new(name: str, roles: tuple[str, ...], out: Path | None, directory: Path) -> None:
    """Make a key for a client, and let it connect."""
    with _changing(directory, name, is_new=True) as own:
        if (directory / (name + SUFFIX)).exists():
            raise KeyRingError(f"there is a key {name} already; revoke it, or take another name")
        out = out or Path(name + ".key")
        pair = new_pair()
        client = ClientKey(pair.public_key, frozenset(map(Role, roles)))
        write_pair(out, KeyPair(pair.public_key, pair.secret_key, own.public_key))
        try:
            write_client(directory, name, client)
        except KeyRingError:
            out.unlink()
            raise
        are = " and ".join(client.role_names)
        click.echo(f"{out}: the key of {name}, with the role {are}. Give it to no other.", err=True)
        click.echo(f"try it: tollgate ping --endpoint tcp://... --key {out}", err=True)


@main.command(epilog=example("tollgate keys rotate alice --out alice-2.key --overlap 1d"))
@click.argument("name")
@click.option(
    "--overlap",
    default="1h",
    show_default=True,
    callback=_span,
    help="how long earlier keys stay valid, such as 30s, 10m, 1h or 7d; 0 ends them at once",
)
@OUT
@KEYS
def rotate(name: str, overlap: timedelta, out: Path | None, directory: Path) -> None:
    """Make a new key for a client; its earlier keys are valid until the overlap ends.

    All of them are one client: what it has begun with an earlier key goes on with the new one.
    """
    with _changing(directory, name, is_new=False) as own:
        _, before = read_client(directory / (name + SUFFIX))
        out = out or Path(name + ".key")
        pair, now = new_pair(), datetime.now(UTC)
        after = rotated(before, pair.public_key, now, now + overlap)
        write_pair(out, KeyPair(pair.public_key, pair.secret_key, own.public_key))
        try:
            replace_client(directory, name, after)
        except KeyRingError:
            if read_client(directory / (name + SUFFIX))[1] == before:
                out.unlink()
            raise
        click.echo(f"{out}: the new key of {name}. Give it to no other.", err=True)
        ends = f"at {shown(now + overlap)}" if overlap else "now"
        click.echo(f"its earlier keys end {ends}", err=True)


@main.command(name="list", epilog=example("tollgate keys list --json"))
@click.option("--json", "as_json", is_flag=True, help="one JSON document a line")
@KEYS
def list_(directory: Path, *, as_json: bool) -> None:
    """Show the clients, their roles, and when their earlier keys end."""
    with complaining(PROGRAM, KeyRingError, OSError):
        now = datetime.now(UTC)
        for name, client in KeyRing(directory).clients().items():
            valid = [key for key in client.retiring if key.left_s(now) > 0]
            if as_json:
                retiring = [
                    {"public_key": key.public_key, "until": shown(key.until)} for key in valid
                ]
                document = {
                    "name": name,
                    "roles": client.role_names,
                    "public_key": client.public_key,
                    "retiring": retiring,
                }
                click.echo(json.dumps(document))
                continue
            click.echo(f"{name}  {','.join(client.role_names)}  {client.public_key}")
            for key in valid:
                click.echo(f"{name}  until {shown(key.until)}  {key.public_key}")


@main.command(epilog=example("tollgate keys revoke alice"))
@click.argument("name")
@KEYS
def revoke(name: str, directory: Path) -> None:
    """Refuse a client's keys from now on, on connections that stand, too."""
    with complaining(PROGRAM, KeyRingError, OSError):
        _check_known(directory, name)
        with locked(directory):  # a rotation would write the file again
            (directory / (name + SUFFIX)).unlink()
        click.echo(f"{name} is revoked", err=True)


@main.command(epilog=example("tollgate keys rotate-broker"))
@click.option("--finish", is_flag=True, help="let the next key replace the broker's own")
@KEYS
def rotate_broker(directory: Path, *, finish: bool) -> None:
    """Make the broker's next key, or let it replace the broker's own.

    A client must know the public key of the broker. So a broker that is started with --bind-next
    listens there with its next key, while it goes on with its own key at --bind. Clients move from
    one to the other, one by one. docs/deployment.md has the steps.
    """
    with complaining(PROGRAM, KeyRingError, OSError):
        own = read_pair(directory / BROKER_KEY)
        with locked(directory):
            if finish:
                if not (directory / NEXT_KEY).exists():
                    raise KeyRingError(
                        f"there is no {directory / NEXT_KEY};"
                        " begin with: tollgate keys rotate-broker"
                    )
                following = read_pair(directory / NEXT_KEY)
                finish_rotation(directory)
                click.echo(
                    f"the broker's key is {following.public_key} from its restart on", err=True
                )
                return
            following = new_pair()
            write_pair(directory / NEXT_KEY, following)
        click.echo(f"{directory / NEXT_KEY}: the broker's next key pair", err=True)
        click.echo(f"public key now: {own.public_key}  next: {following.public_key}", err=True)
        click.echo("restart the broker with --bind-next tcp://...; then move the clients", err=True)


@contextmanager
def _changing(directory: Path, name: str, *, is_new: bool) -> Iterator[KeyPair]:
    """Hold the directory for a change of one key; yield the broker's pair for the client's file."""
    with complaining(PROGRAM, KeyRingError, OSError):
        if not is_new:
            _check_known(directory, name)
        elif not is_name(name):
            raise KeyRingError(f"{name!r}: letters, digits and . _ @ - make a name, up to 64")
        try:
            make_private(directory)
        except UnsafeError as fault:
            raise KeyRingError(str(fault)) from None
        with locked(directory):
            own = _own(directory)
            if not (directory / NEXT_KEY).exists():
                yield own
                return
            yield read_pair(directory / NEXT_KEY)
        click.echo("it is for the endpoint of --bind-next: the broker's key is rotated", err=True)


def _check_known(directory: Path, name: str) -> None:
    if not is_name(name) or not (directory / (name + SUFFIX)).is_file():
        raise KeyRingError(f"there is no key {name} in {directory}")


def _own(directory: Path) -> KeyPair:
    """Return the broker's own pair; make it if there is none."""
    path = directory / BROKER_KEY
    if not path.exists():
        write_pair(path, new_pair())
        click.echo(f"{path}: the broker's own key pair", err=True)
    return read_pair(path)


if __name__ == "__main__":
    run(main, PROGRAM)
