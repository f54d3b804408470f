"""`tollgate doctor`: checks what an installation needs, and says what to do."""

if __name__ == "__main__":
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate doctor")

import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click

from tollgate.broker.access.key_files import KeyRingError, read_pair
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.access.permissions import UnsafeError, check_above, check_private
from tollgate.broker.admin.cli import example
from tollgate.broker.admin.config import client_settings, unknown_variables
from tollgate.broker.journal import JournalError, inspect
from tollgate.broker.settings import Settings, SettingsError, default_keys, load
from tollgate.broker.transport.binding import CONNECTIONS_MIN, check_libzmq, libzmq
from tollgate.broker.transport.endpoints import EndpointError
from tollgate.terminal import streams
from tollgate.terminal.program import run

PROGRAM: Final = "tollgate doctor"
COMMAND_S: Final = 10
"""Longest time for a command that is asked."""
FILES_MIN: Final = 4 * CONNECTIONS_MIN
CLOCK_BEHIND_S: Final = 5
UNSYNCHRONIZED: Final = 5
"""TIME_ERROR, what adjtimex returns while nothing keeps the clock right."""
TIMEX_BYTES: Final = 512
"""More than a struct timex has."""
USAGE, NOT_REACHED = 2, 3
UNIT: Final = "tollgate.service"
SYSTEMD: Final = Path("/run/systemd/system")


class Check(NamedTuple):
    """One thing that was looked at: what was found, and, if it is wrong, what to do."""

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    to_do: str | None = None


@click.command(
    epilog=example("tollgate doctor --data-dir /var/lib/tollgate --json"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="the TOML file that the broker is started with",
)
@click.option("--endpoint", metavar="URL", help="the broker to ask  [env: TOLLGATE_ENDPOINT]")
@click.option("--key", metavar="FILE", help="your key, for tcp  [env: TOLLGATE_KEY]")
@click.option("--data-dir", metavar="DIRECTORY", help="the broker's  [env: TOLLGATE_DATA_DIR]")
@click.option("--json", "as_json", is_flag=True, help="one JSON document a line, for each check")
def main(
    config: Path | None,
    endpoint: str | None,
    key: str | None,
    data_dir: str | None,
    *,
    as_json: bool,
) -> None:
    """Check what an installation needs, and say what to do.

    Run it as the user that the broker runs as, with the same environment. If the endpoint is at
    tcp, the broker is on another machine, and only what a client needs is checked. The exit code is
    1 if something must be done.
    """
    client: dict[str, Any] = {setting.name: setting.value for setting in client_settings()}
    endpoint = client["endpoint"] if endpoint is None else endpoint
    key = client["key"] if key is None else key
    wrong = 0
    for check in _checks(str(endpoint), key, data_dir, config):
        wrong += check.state == "wrong"
        click.echo(json.dumps(check._asdict(), ensure_ascii=False) if as_json else _line(check))
    if not as_json:
        click.echo(f"things to do: {wrong}" if wrong else "nothing to do")
    sys.exit(1 if wrong else 0)


def _line(check: Check) -> str:
    line = f"{check.state:<5}  {check.name:<15}  {check.found}"
    return f"{line}\n{'':<24}do: {check.to_do}" if check.to_do else line


def _checks(
    endpoint: str, key: str | None, data_dir: str | None, config: Path | None
) -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    for name in unknown_variables():
        found = f"{name} is set, and there is no such setting"
        yield Check("environment", "wrong", found, f"unset {name}; see docs/configuration.md")
    yield check_broker(endpoint, key)
    yield check_clock()
    if key is not None:
        yield check_key(Path(key))
    if endpoint.startswith("tcp://"):
        yield Check("settings", "note", f"the broker is elsewhere, at {endpoint}")
        yield check_zmq(None)
        return
    try:
        settings = load({"data_dir": data_dir} if data_dir is not None else {}, config)
    except SettingsError as fault:
        yield Check("settings", "wrong", str(fault), "change it; see: tollgate config show")
        return
    yield Check("settings", "ok", "can be used; see: tollgate config show")
    yield check_zmq(settings)
    yield check_files()
    for bind in settings.bind:
        if bind.startswith("ipc://"):
            yield check_directory("socket", Path(bind.removeprefix("ipc://")).parent)
    yield from check_data(settings)
    yield from check_keys(settings.keys)
    yield check_systemd()


def check_broker(endpoint: str, key: str | None) -> Check:
    """Ask the broker, with the command line that a user has."""
    options = ["--json", "--endpoint", endpoint]  # it waits for TOLLGATE_ANSWER_TIMEOUT
    options += ["--key", key] if key is not None else []
    command = [sys.executable, "-P", "-m", "tollgate", "ping", *options]
    done = subprocess.run(  # noqa: S603 - our own command line
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        hello = json.loads(done.stdout)
        found = f"{hello['server']} at {endpoint} answers; your role is {hello['role']}"
        if hello["server"] != f"tollgate {version('tollgate')}":
            return Check(
                "broker", "wrong", f"{found}; this is {version('tollgate')}",
                "restart the broker after an upgrade, or upgrade here",
            )  # fmt: skip
        return Check("broker", "ok", found)
    found = done.stderr.strip().removeprefix("tollgate: ").partition("; ")[0]
    to_do = "see: tollgate ping"
    if done.returncode == USAGE:
        to_do = "change TOLLGATE_ENDPOINT, TOLLGATE_KEY or the option"
    elif done.returncode == NOT_REACHED:
        to_do = "start one: tollgate broker, or systemctl start tollgate; or name another endpoint"
    return Check("broker", "wrong", found, to_do)


def check_zmq(settings: Settings | None) -> Check:
    """Check that libzmq is new enough, and has CURVE if keys are used."""
    found = f"libzmq {libzmq()}"
    try:
        if settings is not None:
            check_libzmq(settings)
    except EndpointError as fault:
        return Check("libzmq", "wrong", str(fault), "pip install --upgrade pyzmq")
    if found.endswith("without CURVE"):
        return Check("libzmq", "note", f"{found}: ipc alone can be used")
    return Check("libzmq", "ok", found)


def check_files() -> Check:
    """Check how many files the broker may open: it raises its limit as far as it may."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FILES_MIN:
        found = f"{files} files may be open: a flood of connections could end the broker"
        return Check("open files", "wrong", found, "ulimit -Hn 65536, or LimitNOFILE=65536")
    shown = "any number of" if files == resource.RLIM_INFINITY else files
    return Check("open files", "ok", f"{shown} files may be open")


def existing(directory: Path) -> Path:
    """Return a directory, or the lowest one above it that exists."""
    return next(each for each in (directory, *directory.parents) if each.exists())


def check_directory(name: str, directory: Path) -> Check:
    """Check that this user can use a directory, or make it, and that others cannot change it."""
    there = existing(directory)
    me = f"uid {os.geteuid()}"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        found = f"{there} is on a read-only file system"
        return Check(name, "wrong", found, "use a directory that can be written")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        to_do = f"run this as the broker's user, or: chown -R {me.split()[1]} {there}"
        return Check(name, "wrong", f"{there} cannot be written by {me}", to_do)
    try:
        if there == directory:
            check_private(there)
        else:
            check_above(there / "made")
    except UnsafeError as fault:
        found, _, to_do = str(fault).partition("; say: ")
        return Check(name, "wrong", found, to_do or "use a directory of the broker's user")
    if there != directory:
        return Check(name, "ok", f"{directory} is made when the broker starts")
    return Check(name, "ok", f"{directory} is for this user alone")


def check_data(settings: Settings) -> Iterator[Check]:
    """Check the data directory: permissions, journal, the time in it, and free space."""
    directory = settings.data_dir
    if settings.in_memory:
        yield Check("data directory", "note", "none: the jobs end with the broker (in_memory)")
        return
    usable = check_directory("data directory", directory)
    yield usable
    if usable.state == "wrong":
        return
    size = 0
    if directory.is_dir():
        try:
            yield _check_journal(directory)
            files = [path.stat() for path in directory.iterdir() if path.is_file()]
        except OSError as fault:
            yield Check("journal", "wrong", streams.reason(fault), "see: tollgate journal verify")
            return
        size = sum(state.st_size for state in files)
        newest_s = max((state.st_mtime for state in files), default=0.0)
        if newest_s > time.time() + CLOCK_BEHIND_S:
            behind_s = round(newest_s - time.time())
            found = f"the clock is {behind_s} s behind the newest file of the journal"
            yield Check("journal time", "wrong", found, "set the clock, before a broker starts")
    there = existing(directory)
    free, needed = shutil.disk_usage(there).free, size + 2 * settings.segment_bytes
    found = f"{free >> 20} MiB are free, and a snapshot may need {needed >> 20} MiB"
    if free < needed:
        yield Check("free space", "wrong", found, f"free some at {there}, or move the directory")
    else:
        yield Check("free space", "ok", found)


def _check_journal(directory: Path) -> Check:
    """Read all of it, as a start would. Raises OSError."""
    try:
        found = inspect.verify(directory)
    except JournalError as fault:
        return Check("journal", "wrong", str(fault), "see: tollgate journal verify")
    if not found.files:
        return Check("journal", "note", "none yet: a broker writes it with its first change")
    damaged = [report.file.name for report in found.files if report.problem]
    if found.refusal is not None:
        return Check(
            "journal", "wrong", found.refusal, f"tollgate journal verify --data-dir {directory}"
        )
    if damaged:
        return Check("journal", "note", f"sound, but not needed and damaged: {' '.join(damaged)}")
    return Check("journal", "ok", f"sound, in {len(found.files)} files")


def check_key(path: Path) -> Check:
    """Check a client's key."""
    try:
        pair = read_pair(path)
    except (KeyRingError, OSError) as fault:
        found, _, to_do = str(fault).partition("; say: ")
        return Check("key", "wrong", found, to_do or "make one: tollgate keys new NAME --role ROLE")
    if pair.broker_public_key is None:
        to_do = "name the file that `tollgate keys new` wrote for the client"
        return Check("key", "wrong", f"{path} is the broker's own key", to_do)
    return Check("key", "ok", f"{path} can be used")


def check_keys(directory: Path | None) -> Iterator[Check]:
    """Check the keys of clients, if there are any or the broker is to have some."""
    where = directory or default_keys()
    if directory is None and not where.is_dir():
        return
    if not where.is_dir():
        yield Check("keys", "wrong", f"there is no directory {where}", "tollgate keys new NAME")
        return
    try:
        ring = KeyRing(where)
    except KeyRingError as fault:
        yield Check("keys", "wrong", str(fault), "tollgate keys list")
        return
    found = f"{len(ring)} in {where}"
    if ring.next is not None:
        to_do = "move all clients, then: tollgate keys rotate-broker --finish"
        yield Check("keys", "note", f"{found}; the broker's own key is being rotated", to_do)
        return
    yield Check("keys", "ok", found)


def check_clock() -> Check:
    """Check that something keeps the clock right, as far as the kernel knows."""
    try:
        timex = ctypes.create_string_buffer(TIMEX_BYTES)
        state = ctypes.CDLL(None).adjtimex(timex)
    except (AttributeError, OSError):  # not Linux
        state = 0
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if state == UNSYNCHRONIZED:
        return Check("clock", "note", f"{now}, which nothing keeps right: run an NTP client")
    return Check("clock", "ok", now)


def check_systemd() -> Check:
    """Check the unit, if systemd runs this machine and has it."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not SYSTEMD.is_dir():
        return Check("systemd", "note", "not here: something else must restart the broker")
    command = [systemctl, "show", UNIT, "--property=LoadState,ActiveState,NeedDaemonReload"]
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, check=False, timeout=COMMAND_S
        )
    except subprocess.TimeoutExpired:
        return Check("systemd", "note", "systemctl does not answer")
    unit = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if unit.get("LoadState") != "loaded":
        return Check("systemd", "note", f"there is no {UNIT}; see docs/deployment.md")
    if unit.get("NeedDaemonReload") == "yes":
        return Check("systemd", "wrong", f"{UNIT} has changed", "systemctl daemon-reload")
    if unit.get("ActiveState") not in {"active", "activating", "reloading"}:
        to_do = f"journalctl -u {UNIT}, then: systemctl start {UNIT}"
        return Check("systemd", "wrong", f"{UNIT} is {unit.get('ActiveState')}", to_do)
    return Check("systemd", "ok", f"{UNIT} is {unit['ActiveState']}")


if __name__ == "__main__":
    run(main, PROGRAM)
