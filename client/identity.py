"""The name of a client, which `hello` tells the broker, and histories show."""

import os
import re
import sys
from collections.abc import Callable
from typing import Final

from tollgate.client import arguments

NAME_MAX: Final = 64
HOST_MAX: Final = 32
_FOREIGN: Final = re.compile("[^A-Za-z0-9._:@-]+")


def naming(name: object) -> Callable[[], str]:
    """Return a function that returns the name of a client, in a forked child that of the child.

    Raises ArgumentError if the user has given one that cannot be sent.
    """
    if name is None:
        return default_name
    expected = f"1 to {NAME_MAX} of the characters A-Z a-z 0-9 . _ : @ -"
    plain = arguments.text("client", "name", name, expected)
    if not 0 < len(plain) <= NAME_MAX or _FOREIGN.search(plain):
        raise arguments.wrong("client", "name", name, expected)
    return lambda: plain


def default_name() -> str:
    """Return the name of a client without one: `program@host:pid`, of the allowed characters."""
    host = _plain(os.uname().nodename.partition(".")[0])[:HOST_MAX]
    place = f"@{host}:{os.getpid()}"
    return _plain(_program())[: NAME_MAX - len(place)] + place


def _program() -> str:
    """Return the name of the module after `python -m`, or of the file that runs."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 - pathlib loads slowly
    return "python" if file in {"", "-c"} else file


def _plain(text: str) -> str:
    return _FOREIGN.sub("-", text)
