"""Endpoints: the default one of broker and clients, and what is none."""

from typing import Final

IPC_PATH_BYTES_MAX: Final = 107
"""The longest path that a unix socket can have."""
PORT_MAX: Final = 65_535
FORMS: Final = "say ipc:///path/to/socket or tcp://host:port"

# No regular expression: to compile one takes a command line half a millisecond.
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_IPV6: Final = _NAME | {":", "%"}


def default_endpoint() -> str:
    """Return the ipc endpoint in this user's runtime directory, such as XDG_RUNTIME_DIR."""
    import warnings  # noqa: PLC0415 - not needed with a given endpoint

    import platformdirs  # noqa: PLC0415 - the same

    with warnings.catch_warnings():  # it warns if XDG_RUNTIME_DIR is not set; its fallback is fine
        warnings.simplefilter("ignore")
        directory = platformdirs.user_runtime_dir("tollgate")
    return f"ipc://{directory}/broker.sock"


def check_endpoint(endpoint: str) -> None:
    """Raise ValueError, with a message of one line, unless a client can connect to `endpoint`."""
    if not endpoint:
        raise ValueError(f"it is empty; was a variable not set? Else {FORMS}")
    scheme, mark, address = endpoint.partition("://")
    if not mark or scheme not in {"ipc", "tcp"}:
        raise ValueError(f"{endpoint!r} is no endpoint: {FORMS}")
    if scheme == "ipc":
        check_socket_path(endpoint)
        return
    host, _, port = address.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if in_brackets else host
    if not name or not set(name.lower()) <= (_IPV6 if in_brackets else _NAME):
        raise ValueError(f"{endpoint!r} names no host and port: say tcp://host:port")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= PORT_MAX):
        raise ValueError(f"{endpoint!r}: {port!r} is no port from 1 to {PORT_MAX}")


def check_socket_path(endpoint: str) -> None:
    """Raise ValueError unless an ipc endpoint names the full path of a file."""
    path = endpoint.removeprefix("ipc://")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{endpoint!r} names no full path: say ipc:///path/to/socket")
    if len(path.encode(errors="surrogateescape")) > IPC_PATH_BYTES_MAX:
        raise ValueError(
            f"{endpoint!r}: the path of a socket has at most {IPC_PATH_BYTES_MAX} bytes;"
            " choose a shorter one"
        )
