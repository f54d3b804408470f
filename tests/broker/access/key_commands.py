"""`tollgate keys` in this process, for tests that need keys."""

import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from tests.brokers import PATIENCE_S
from tollgate.broker.access.key_files import read_pair
from tollgate.broker.admin.keys import main as keys_command
from tollgate.domain.commands import Hello
from tollgate.domain.messages import Request, encode_request

HELLO = encode_request(Request(1, 0, 1, 0, [Hello()]))


def keys(*arguments: object) -> Result:
    return CliRunner().invoke(keys_command, [*map(str, arguments)], prog_name="tollgate keys")


def new_key(directory: Path, name: str, *roles: str) -> Path:
    """Add a client, an admin unless told otherwise; return the file with its key."""
    out = directory / f"{name}.key"
    options = [f"--role={role}" for role in roles or ["admin"]]
    done = keys("new", name, *options, "--keys", directory / "keys", "--out", out)
    assert done.exit_code == 0, done.stderr
    return out


def rotate(directory: Path, name: str, overlap: str = "1h", out: str = "new") -> Path:
    """Make a new key for a client; return its file."""
    path = directory / f"{name}-{out}.key"
    options = ("--overlap", overlap, "--keys", directory / "keys", "--out", path)
    done = keys("rotate", name, *options)
    assert done.exit_code == 0, done.stderr
    return path


def curve(key: Path) -> dict[str, bytes]:
    """Return the options of a socket that connects with a key."""
    pair = read_pair(key)
    return {
        "CURVE_PUBLICKEY": pair.public_key.encode(),
        "CURVE_SECRETKEY": pair.secret_key.encode(),
        "CURVE_SERVERKEY": (pair.broker_public_key or "").encode(),
    }


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
