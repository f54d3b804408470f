"""Where broker and clients meet unless told otherwise."""

import warnings
from pathlib import Path


def default_endpoint() -> str:
    """Return the ipc endpoint in this user's runtime directory (XDG_RUNTIME_DIR or its like)."""
    import platformdirs  # noqa: PLC0415 - a client that is told its endpoint need not load it

    with warnings.catch_warnings():  # where XDG_RUNTIME_DIR is not set, the fallback will do
        warnings.simplefilter("ignore")
        directory = platformdirs.user_runtime_dir("tollgate")
    return f"ipc://{Path(directory) / 'broker.sock'}"
